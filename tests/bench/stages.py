"""Where a request's time goes, and what a service under load adds to it.

    python -m tests.bench.stages [--candidates 10 100 1000] [--requests 2000] [--items 5000] [--embedding-dim 128]

First with one request in flight: each stage as the service itself timed it, everything but the model's own run, and
the whole as the client saw it. Then by an open loop at 10, 25 and 50 % of saturation, beside what a perfect queue in
front of the same service would do: the latencies of one request in flight, drawn at random, come by Poisson's law and
are served one after the other (Lindley's recursion). Ratios tell more than times: the machine may be shared.
"""

import argparse
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from contract.client import Client
from loadtest.arrivals import Segment
from loadtest.bench import Bench
from service.settings import Settings
from tests.bench.loads import Service, console, world
from tests.bench.watched import STAGES
from tests.service.running import await_ready

_NUM_USERS, _HISTORY, _NUM_BODIES, _WARM_UP = 1000, 64, 200, 200
_SHARES = (0.1, 0.25, 0.5)
_LOAD_S = 15
_DRAWS = 200_000

Times = NDArray[np.float64]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.stages", description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--requests", type=int, default=2000, help="of each number of candidates, one in flight")
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--embedding-dim", type=int, default=128, help="128 is the paper's")
    parser.add_argument("--threads", type=int, default=0, help="of one ranking; 0 takes the physical cores")
    batch: int = Settings.model_fields["batch_candidates"].default
    parser.add_argument("--batch-candidates", type=int, default=batch, help="scored together under load")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, world(Path(name), given.items, given.embedding_dim) as redis_url:
        folder = Path(name)
        settings = {
            "store": str(folder / "store"),
            "redis_url": redis_url,
            "device": "cpu",
            "num_threads": given.threads,
            "batch_candidates": given.batch_candidates,
        }
        store_histories(folder, settings, given.items)
        alone = {}
        for count in given.candidates:
            with watched(folder, settings) as (url, stages):
                latencies = one_in_flight(url, count, given.requests, given.items)
            alone[count] = latencies
            console.print(stage_table(count, np.load(stages)[-given.requests :], latencies))
        for count in given.candidates:
            with watched(folder, settings) as (url, _):
                console.print(_load_table(count, url, given.items, alone[count]))


def store_histories(folder: Path, settings: dict[str, object], num_items: int) -> None:
    generator = np.random.default_rng(1)
    with watched(folder, settings) as (url, _), Client(url, timeout_s=60) as client:
        for user in range(1, _NUM_USERS + 1):
            client.put_history(user, generator.integers(1, num_items, _HISTORY).tolist())


@contextlib.contextmanager
def watched(folder: Path, settings: dict[str, object]) -> Iterator[tuple[str, Path]]:
    """Run a watched service; its file of stages is there after the block."""
    file = folder / "stages.npy"
    command = [sys.executable, "-m", "tests.bench.watched", str(file), json.dumps(settings)]
    with (
        (folder / "log").open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        yield await_ready(process), file
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (folder / "log").read_text()


def one_in_flight(url: str, num_candidates: int, num_requests: int, num_items: int) -> Times:
    """Return the seconds from sending each request to the last byte of its answer, on one connection."""
    host, port = url.removeprefix("http://").split(":")
    generator = np.random.default_rng(2)
    messages = [_message(host, generator, num_candidates, num_items) for _ in range(_NUM_BODIES)]
    times = []
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(_WARM_UP + num_requests):
            started = time.perf_counter()
            connection.sendall(messages[number % _NUM_BODIES])
            _read_answer(connection)
            times.append(time.perf_counter() - started)
    return np.array(times[_WARM_UP:])


def _message(host: str, generator: np.random.Generator, num_candidates: int, num_items: int) -> bytes:
    candidates = generator.choice(np.arange(1, num_items), min(num_candidates, num_items - 1), replace=False)
    body = json.dumps({"user_id": int(generator.integers(1, _NUM_USERS + 1)), "candidates": candidates.tolist()})
    return f"POST /v1/rank HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def _read_answer(connection: socket.socket) -> None:
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(2**18)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    missing = int(length[1]) - len(body)
    while missing > 0:
        missing -= len(connection.recv(2**18))


def stage_table(num_candidates: int, stages: Times, latencies: Times) -> Table:
    table = Table(title=f"one request in flight, N = {num_candidates}, milliseconds")
    for column in ("", "median", "p99"):
        table.add_column(column, justify="right")
    score = stages[:, STAGES.index("score")]
    rows = {
        **{name: stages[:, number] for number, name in enumerate(STAGES)},
        "all stages but score": stages.sum(axis=1) - score,
        "client but score": latencies - score,
        "client": latencies,
    }
    for name, seconds in rows.items():
        median, p99 = np.percentile(seconds * 1000, [50, 99])
        table.add_row(name, f"{median:.3f}", f"{p99:.3f}")
    return table


def _load_table(num_candidates: int, url: str, num_items: int, alone: Times) -> Table:
    """Load a service at shares of its saturation."""
    served = Service(url, 0, num_items)
    options = served.options(candidates=str(num_candidates), users=f"1-{_NUM_USERS}", duration_s=_LOAD_S)
    bench = Bench(options)
    capacity = bench.saturation().summary.answered_per_s
    table = Table(title=f"open loop, N = {num_candidates}, saturation {capacity:,.0f} requests/s, milliseconds")
    for column in ("load", "p50", "p99", "p99 of a perfect queue", "ratio", "failed", "shed", "late by p99"):
        table.add_column(column, justify="right")
    for share in _SHARES:
        rate = share * capacity
        summary = bench.load(f"{share:.0%}", [Segment(_LOAD_S, rate)]).summary
        p50, p99 = (summary.latency_ms[name] or np.nan for name in ("p50", "p99"))
        expected = 1000 * perfect_queue(alone, rate, 99)
        table.add_row(
            f"{share:.0%}, {rate:,.0f}/s", f"{p50:.2f}", f"{p99:.2f}", f"{expected:.2f}", f"{p99 / expected:.2f}",
            str(summary.num_failed), str(summary.num_shed), f"{summary.lateness_ms['p99'] or 0:.2f}",
        )  # fmt: skip
    return table


def perfect_queue(service_s: Sequence[float] | Times, rate: float, percentile: float) -> float:
    """Return a percentile of wait and service, in seconds, of Poisson arrivals at one server (Lindley 1952)."""
    generator = np.random.default_rng(3)
    times = generator.choice(np.asarray(service_s), _DRAWS)
    steps = times[:-1] - generator.exponential(1 / rate, _DRAWS - 1)
    walk = np.concatenate([[0.0], np.cumsum(steps)])
    waits = walk - np.minimum.accumulate(walk)
    return float(np.percentile(waits + times, percentile))


if __name__ == "__main__":
    main()
