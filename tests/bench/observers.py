"""What looking on costs a request, in microseconds: `python -m tests.bench.observers`."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.counters import count_in
from service.counting import CountRequests
from service.metrics import Metrics
from service.request_ids import RequestIds
from service.request_log import Limits, RequestLog
from service.slow import SlowRequests
from service.tracing import open_tracing
from tests.service.answers import make_served

NUM_CANDIDATES = 1000
HEADERS = [(name, b"x") for name in (b"host", b"content-type", b"content-length", b"user-agent", b"accept")]


def us(call: Callable[[], object], number: int = 5000) -> float:
    """Return the least microseconds of a call."""
    return min(timeit.repeat(call, number=number, repeat=5)) / number * 1e6


async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer nothing."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _send(_message: Message) -> None:
    pass


async def _receive() -> Message:
    return {"type": "http.request"}


def us_of_app(app: ASGIApp, number: int = 5000) -> float:
    """Return the least microseconds of a request."""

    async def run() -> float:
        started = time.perf_counter()
        for _ in range(number):
            await app({"type": "http", "method": "POST", "headers": HEADERS}, _receive, _send)
        return (time.perf_counter() - started) / number * 1e6

    return min(asyncio.run(run()) for _ in range(5))


def measure_metrics(shared: Path | None) -> None:
    """Metrics of one process, or of one of many."""
    how = "in files" if shared else "in memory"
    metrics, served = Metrics(shared), make_served(NUM_CANDIDATES)
    print(f"metrics {how}: an answer {us(lambda: metrics.rank.note(served)):.1f}")
    print(
        f"metrics {how}: of which scores {us(lambda: metrics.rank.scores.count('v1', served.rankings[0].scores)):.1f}"
    )
    print(f"metrics {how}: what waits, twice {2 * us(lambda: metrics.rank.queue(1000)):.1f}")
    print(f"metrics {how}: reading them {us(metrics.text, 20) / 1000:.1f} ms")


def main() -> None:
    """Measure everything that looks on."""
    with tempfile.TemporaryDirectory() as folder:
        served, slow = make_served(NUM_CANDIDATES), SlowRequests(1e9)
        base = us_of_app(answer)
        print(f"request ids: {us_of_app(RequestIds(answer)) - base:.1f}")
        print(f"counting requests: {us_of_app(CountRequests(answer, Metrics())) - base:.1f}")
        print(f"slow requests, none slow: {us(lambda: slow.note(served)):.2f}")
        for rate in (0.01, 1.0):
            log = RequestLog(Path(folder) / "log", "qin", rate, lambda *_: None, Limits(waiting_bytes=2**40))
            print(f"request log at {rate:.0%}: {us(lambda log=log: log.note(served), 2000):.2f}")
            log.close()
        tracing = open_tracing({"OTEL_TRACES_EXPORTER": "otlp"})
        if tracing is not None:
            print(f"traces, a request that is not sampled: {us(lambda: tracing.note(served)):.1f}")
            with tracing.provider.get_tracer("bench").start_as_current_span("request"):
                print(f"traces, stages of one that is: {us(lambda: tracing.note(served), 1000):.1f}")
            os._exit(0)  # there is no collector to send them to


if __name__ == "__main__":
    if sys.argv[1:] == ["files"]:
        with tempfile.TemporaryDirectory() as shared:
            count_in(Path(shared), "worker-1")
            measure_metrics(Path(shared))
    else:
        subprocess.run([sys.executable, "-m", "tests.bench.observers", "files"], check=True)
        measure_metrics(None)
        sys.stdout.flush()
        main()
