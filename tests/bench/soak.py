"""Ten minutes at half of what saturates the service: whether latency and memory stay as they were.

    python -m tests.bench.soak [--minutes 10] [--share 0.5] [--candidates 100] [--embedding-dim 128] [--workers 1]

An open loop, minute by minute. Status 0 if no request failed or was shed, and from the second minute to the last
memory grew by at most 5 % and p99 by at most half, by straight lines through the minutes.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from loadtest.arrivals import Segment
from loadtest.bench import Bench
from loadtest.outcome import Part
from tests.bench.loads import Usage, console, service

_MINUTE_S = 60.0
_MOST_GROWTH, _MOST_SLOWER = 0.05, 0.5


def main() -> int:
    """Load a service of its own and print the minutes; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.5, help="of saturation")
    parser.add_argument("--candidates", default="100", help="of a request, or a mix such as 10:5,100:4,1000:1")
    parser.add_argument("--items", type=int, default=5000, help="91718 are the paper's")
    parser.add_argument("--embedding-dim", type=int, default=128, help="128 is the paper's")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    size = {"num_items": given.items, "embedding_dim": given.embedding_dim, "workers": given.workers}
    with tempfile.TemporaryDirectory() as name, service(Path(name), **size) as running:
        bench = Bench(running.options(duration_s=5, warmup_s=1, candidates=given.candidates))
        capacity = bench.saturation().summary.answered_per_s
        rate = given.share * capacity
        console.print(f"saturation {capacity:,.0f} requests/s, load {rate:,.0f}/s")
        minutes: list[tuple[Part, Usage]] = []
        for minute in range(given.minutes):
            part = bench.load(f"minute {minute + 1}", [Segment(_MINUTE_S, rate)])
            minutes.append((part, running.usage()))
            console.print(f"{part.name}: p99 {part.summary.latency_ms['p99']:.2f} ms")
    return _report(minutes)


def _report(minutes: Sequence[tuple[Part, Usage]]) -> int:
    table = Table("", "requests", "failed", "shed", "p50 ms", "p99 ms", "p99.9 ms", "late p99 ms", "MB", "threads")
    for part, usage in minutes:
        summary, latency = part.summary, part.summary.latency_ms
        counts = summary.requests, summary.num_failed, summary.num_shed
        times = latency["p50"], latency["p99"], latency["p99.9"], summary.lateness_ms["p99"]
        shown = ["" if value is None else f"{value:.2f}" for value in times]
        table.add_row(part.name, *map(str, counts), *shown, f"{usage.memory / 1e6:.1f}", f"{usage.threads}")
    console.print(table)
    lost = sum(part.summary.num_failed + part.summary.num_shed for part, _ in minutes)
    growth = _growth([float(usage.memory) for _, usage in minutes[1:]])
    slower = _growth([part.summary.latency_ms["p99"] or np.nan for part, _ in minutes[1:]])
    console.print(
        f"{lost} failed or shed; memory {growth:+.2%}, p99 {slower:+.1%} from the second minute to the last"
    )
    return 0 if lost == 0 and growth <= _MOST_GROWTH and slower <= _MOST_SLOWER else 1


def _growth(values: Sequence[float]) -> float:
    """Return how much a straight line through the values grows, as a share of where it begins."""
    if len(values) < 2:
        return 0.0
    slope, start = np.polyfit(np.arange(len(values)), values, 1)
    return float(slope * (len(values) - 1) / start)


if __name__ == "__main__":
    sys.exit(main())
