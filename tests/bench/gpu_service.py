"""The service on a device: one request in flight, and a hundred swaps with the device's memory watched."""

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.client import Client
from tests.bench.loads import console, world
from tests.bench.stages import one_in_flight, stage_table, store_histories, watched


def serve(
    device: str, num_items: int, candidates: Sequence[int], requests: int, swaps: int, embedding_dim: int
) -> tuple[dict[int, float], list[int]]:
    """Return the p99 in milliseconds for each number of candidates, and MiB of the device in use after each swap."""
    with tempfile.TemporaryDirectory() as name, world(Path(name), num_items, embedding_dim) as redis_url:
        folder = Path(name)
        settings = {"store": str(folder / "store"), "redis_url": redis_url, "device": device, "gate_max_psi": 100}
        store_histories(folder, settings, num_items)
        p99 = {count: _one_in_flight(folder, settings, count, requests, num_items) for count in candidates}
        with watched(folder, settings) as (url, _), Client(url, timeout_s=120) as client:
            return p99, _swap(client, swaps, _used_mib if device == "cuda" else lambda: 0)


def _one_in_flight(folder: Path, settings: dict[str, object], count: int, requests: int, num_items: int) -> float:
    with watched(folder, settings) as (url, stages):
        latencies: NDArray[np.float64] = one_in_flight(url, count, requests, num_items)
    console.print(stage_table(count, np.load(stages)[-requests:], latencies))
    return float(np.percentile(latencies, 99) * 1e3)


def _swap(client: Client, swaps: int, used: Callable[[], int]) -> list[int]:
    versions = [version.version for version in client.model().versions]
    found = []
    for number in range(swaps):
        serving = client.model().serving
        client.promote(next(name for name in versions if name != serving), force=True)
        if number >= swaps // 10:
            found.append(used())
    return found


def _used_mib() -> int:
    """Return what all processes use of the first GPU, as its driver tells."""
    return int(_asked("memory.used"))


def about_the_gpu() -> str:
    """Return the device, its driver, power limit and highest clock, in a line."""
    return _asked("name,driver_version,power.limit,clocks.max.sm")


def _asked(fields: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
