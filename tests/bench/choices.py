"""What a setting of the service is worth: one service for each of its values, loaded in turn.

    python -m tests.bench.choices num_threads 1 2 [--candidates 100] [--embedding-dim 128] [--rounds 3] [--seconds 5]
    python -m tests.bench.choices batch_candidates 0 200 400 1000

All services run side by side over one catalogue; only one of them is asked at a time, and rounds go through all of
them. Of each the table says how many requests a second saturate it, and the latency in an open loop at a tenth and at
half of what saturates the first: medians of the rounds, the least and the most, and the ratio to the first.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from loadtest.arrivals import Segment
from loadtest.bench import Bench
from tests.bench.loads import AS_DELIVERED, Service, console, world
from tests.service.running import await_ready, serving_process

_SHARES = (0.1, 0.5)
_PERCENTILES = ("p50", "p99")


@dataclass(frozen=True, slots=True)
class Round:
    """What one service did in one round."""

    saturation_per_s: float
    latency_ms: Sequence[float]  # each of _PERCENTILES at each of _SHARES


def main() -> int:
    """Compare the values and print the table; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.choices", description=__doc__.splitlines()[0])
    parser.add_argument("setting", help="as in service.settings")
    parser.add_argument("values", nargs="+", type=int)
    parser.add_argument("--candidates", default="100", help="of a request, or a mix such as 10:5,100:4,1000:1")
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--embedding-dim", type=int, default=128, help="128 is the paper's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis_url = stack.enter_context(world(folder, given.items, given.embedding_dim))
        settings = {**AS_DELIVERED, "store": folder / "store", "redis_url": redis_url}
        benches: list[Bench] = []
        for value in given.values:
            chosen = {**settings, given.setting: value}
            process = stack.enter_context(serving_process(folder / f"log-{value}", **chosen))
            running = Service(await_ready(process), process.pid, given.items)
            options = running.options(duration_s=given.seconds, candidates=given.candidates, warmup_s=1)
            benches.append(Bench(options))
        rounds = _rounds(benches, given.rounds, given.seconds)
    _report(given.setting, given.values, rounds)
    return 0


def _rounds(benches: Sequence[Bench], num_rounds: int, duration_s: float) -> list[list[Round]]:
    """Return the rounds of each service; the rate of the first one's saturation is everybody's measure."""
    rates = [share * benches[0].saturation().summary.answered_per_s for share in _SHARES]
    rounds: list[list[Round]] = [[] for _ in benches]
    for number in range(num_rounds):
        for bench, done in zip(benches, rounds, strict=True):
            saturation = bench.saturation().summary.answered_per_s
            parts = [bench.load(f"{rate:.0f}/s", [Segment(duration_s, rate)]) for rate in rates]
            latency = [part.summary.latency_ms[name] or np.nan for part in parts for name in _PERCENTILES]
            done.append(Round(saturation, latency))
        console.print(f"round {number + 1} of {num_rounds}")
    return rounds


def _report(setting: str, values: Sequence[int], rounds: Sequence[Sequence[Round]]) -> None:
    loads = [f"{name} at {share:.0%}, ms" for share in _SHARES for name in _PERCENTILES]
    table = Table(setting, "saturation/s", "to the first", *loads)
    measured = [np.array([[each.saturation_per_s, *each.latency_ms] for each in done]) for done in rounds]
    for value, figures in zip(values, measured, strict=True):
        ratios = figures[:, 0] / measured[0][:, 0]
        latencies = [_spread(column, ".2f") for column in figures.T[1:]]
        table.add_row(f"{value}", _spread(figures[:, 0], ",.0f"), _spread(ratios, ".2f"), *latencies)
    console.print(table)


def _spread(values: "np.ndarray", form: str) -> str:
    return f"{np.median(values):{form}} ({values.min():{form}}-{values.max():{form}})"


if __name__ == "__main__":
    sys.exit(main())
