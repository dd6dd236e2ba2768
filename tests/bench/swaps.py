"""A hundred swaps in a row under load: requests that fail, memory, and what a swap costs those who ask meanwhile.

    python -m tests.bench.swaps [--swaps 100] [--items 5000] [--embedding-dim 32] [--workers 1]

Load is an open loop at a fifth of saturation, in rounds of ten swaps. Windows of a second, or as long as a swap where
that is longer, alternate: the one that begins with a promotion (a), the one right before it (b), and the one before
that (c). The p99 of a over that of b says what a swap costs, that of b over c what chance does on this machine. What
those see who ask while the promotion runs, often a tenth of such a window, stands in a line of its own. Memory is the
kernel's proportional set size of all processes of the service, between rounds.

Status 0 if no request failed or was shed, memory grew by at most 5 % from the tenth swap to the last, threads and
descriptors by at most 20 or one for every four swaps (pools of connections and threads grow with what comes at once;
what a swap leaves behind grows with every one), and a/b is at most 1.2 times b/c or its inverse,
whichever is larger.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from contract.client import Client
from loadtest.arrivals import Segment
from loadtest.bench import Bench
from loadtest.disturbances import Swaps
from loadtest.driver import Clock
from loadtest.outcome import Event, Part
from loadtest.samples import Samples
from loadtest.summary import Distribution, distribution
from tests.bench.loads import Service, Usage, console, service

_SHARE = 0.2
_ROUND = 10
_MOST_GROWTH, _MOST_RATIO = 0.05, 1.2
_POOLED, _LEAKED = 20, 0.25
_PROMOTION_S = 600
_NUM_LOOKS, _LOOK_S = 10, 0.1
_WINDOW_S = 1.0
_KINDS = ("with a swap", "right before", "before that")


@dataclass(frozen=True, slots=True)
class Round:
    """Ten swaps under load, what they were in time, and what the service holds after them."""

    part: Part
    events: Sequence[Event]
    usage: Usage
    window_s: float

    def samples(self, number: int) -> Samples:
        """Return the requests that were due in windows with swaps (0), right before them (1), or before that (2)."""
        starts = (event.start_s - number * self.window_s for event in self.events)
        return self._due([(start, start + self.window_s) for start in starts])

    def samples_of_swaps(self) -> Samples:
        """Return the requests that were due while a swap ran."""
        return self._due([(event.start_s, event.end_s) for event in self.events])

    def _due(self, windows: Sequence[tuple[float, float]]) -> Samples:
        samples = self.part.samples
        chosen = np.zeros(len(samples), dtype=bool)
        for start_s, end_s in windows:
            chosen |= (samples.intended_s >= start_s) & (samples.intended_s < end_s)
        return samples.where(chosen)


def main() -> int:
    """Run the soak and print it; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.swaps", description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--items", type=int, default=5000, help="91718 are the paper's")
    parser.add_argument("--embedding-dim", type=int, default=32, help="128 is the paper's")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    size = {"num_items": given.items, "embedding_dim": given.embedding_dim, "workers": given.workers}
    with tempfile.TemporaryDirectory() as name, service(Path(name), **size) as running:
        capacity = Bench(running.options(duration_s=5)).saturation().summary.answered_per_s
        console.print(f"saturation {capacity:,.0f} requests/s, load {_SHARE * capacity:,.0f}/s")
        with Client(running.url, timeout_s=_PROMOTION_S) as client:
            rounds = _soak(running, client, _SHARE * capacity, given.swaps)
    return _report(rounds)


def _soak(running: Service, client: Client, rate: float, num_swaps: int) -> list[Round]:
    length_s, rounds = _length_of_a_swap(client), []
    for start in range(0, num_swaps, _ROUND):
        count = min(_ROUND, num_swaps - start)
        window_s = max(_WINDOW_S, length_s)
        swaps = Swaps(client, "qin", pause_s=3 * window_s)
        duration_s = count * (swaps.pause_s + 1.5 * length_s) + window_s

        def during(clock: Clock, swaps: Swaps = swaps, count: int = count) -> None:
            for _ in range(count):
                clock.wait_until(max(clock.now_s(), 0.0) + swaps.pause_s)
                swaps.swap(clock)

        bench = Bench(running.options(rate=rate, duration_s=duration_s, warmup_s=1, seed=start))
        part = bench.load(f"swaps {start + 1} to {start + count}", [Segment(duration_s, rate)], during)
        rounds.append(Round(part, swaps.events, _settled(running), window_s))
        length_s = float(np.median([event.end_s - event.start_s for event in swaps.events]))
        summary = part.summary
        console.print(
            f"{part.name}: {summary.requests} requests, {summary.num_failed} failed, {summary.num_shed} shed, "
            f"a swap took {length_s:.2f} s, {rounds[-1].usage.memory / 1e6:.1f} MB"
        )
    return rounds


def _settled(running: Service) -> Usage:
    """Return what the service holds once it has closed what the generators left."""
    usages = []
    for _ in range(_NUM_LOOKS):
        usages.append(running.usage())
        time.sleep(_LOOK_S)
    return min(usages, key=lambda usage: usage.descriptors)


def _length_of_a_swap(client: Client) -> float:
    """Return how long the longer of two swaps takes without load; both versions have then been loaded."""
    swaps = Swaps(client, "qin", pause_s=0)
    for _ in range(2):
        swaps.swap(Clock(0, 0))
    return max(event.end_s - event.start_s for event in swaps.events)


def _report(rounds: Sequence[Round]) -> int:
    groups = [_distributions([each.samples(number) for each in rounds]) for number in range(len(_KINDS))]
    running = _distributions([each.samples_of_swaps() for each in rounds])
    console.print(_window_table([*zip(_KINDS, groups, strict=True), ("while a swap runs", running)]))
    first, last = rounds[0].usage, rounds[-1].usage
    leaked = max(_POOLED, _LEAKED * sum(len(each.events) for each in rounds[1:]))
    growth = last.memory / first.memory - 1
    swap_ms, calm_ms, other_ms = (latency["p99"] or np.nan for latency, _ in groups)
    chance = calm_ms / other_ms
    summaries = [each.part.summary for each in rounds]
    lost = sum(summary.num_failed + summary.num_shed for summary in summaries)
    late = max(summary.lateness_ms["p99"] or 0 for summary in summaries)
    bounds = (
        ("failed or shed", f"{lost} of {sum(summary.requests for summary in summaries)}", lost == 0),
        ("memory", f"{first.memory / 1e6:.1f} to {last.memory / 1e6:.1f} MB, {growth:+.2%}", growth <= _MOST_GROWTH),
        ("threads", f"{first.threads} to {last.threads}", last.threads - first.threads <= leaked),
        ("descriptors", f"{first.descriptors} to {last.descriptors}", last.descriptors - first.descriptors <= leaked),
        (
            "p99, swaps over calm",
            f"{swap_ms / calm_ms:.2f}; calm over calm {chance:.2f}",
            swap_ms / calm_ms <= _MOST_RATIO * max(chance, 1 / chance),
        ),
    )
    verdicts = Table("", "measured", "", title=f"from swap {len(rounds[0].events)} to the last")
    for name, value, held in bounds:
        verdicts.add_row(name, value, "held" if held else "[bold red]broken[/]")
    console.print(verdicts)
    console.print(f"the generator's lateness: at most {late:.2f} ms at p99 of a round")
    return 0 if all(held for _, _, held in bounds) else 1


def _distributions(parts: Sequence[Samples]) -> tuple[Distribution, Distribution]:
    """Return latency and the generator's lateness."""
    latencies = [part.latency_ms[part.timed] for part in parts]
    lateness = [(part.picked_s - part.intended_s) * 1e3 for part in parts]
    return distribution(np.concatenate(latencies)), distribution(np.concatenate(lateness))


def _window_table(groups: Sequence[tuple[str, tuple[Distribution, Distribution]]]) -> Table:
    names = ("p50", "p99", "max")
    table = Table("windows", "requests", *(f"{name} ms" for name in names), "generator late p99 ms")
    for kind, (latency, late) in groups:
        values = [*(latency[name] for name in names), late["p99"]]
        table.add_row(kind, f"{latency.count}", *("" if value is None else f"{value:.2f}" for value in values))
    return table


if __name__ == "__main__":
    sys.exit(main())
