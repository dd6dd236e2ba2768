"""What a stretch of load comes to, in exact percentiles."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.samples import NAMES, Samples

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations in milliseconds; `values` by the names of `PERCENTILES`, empty where there was nothing to measure."""

    count: int
    mean: float | None
    values: dict[str, float]

    def __getitem__(self, name: str) -> float | None:
        return self.values.get(name)


@dataclass(frozen=True, slots=True)
class Summary:
    """A stretch of load.

    Attributes
    ----------
    offered_per_s, answered_per_s
        Requests due, and requests answered with scores, in a second.
    latency_ms
        From the moment a request was due, of those answered and, at their full time, of those that timed out.
    from_send_ms
        The same from the moment it was really sent: what a client sees that waits for itself.
    shed, shed_ms
        How many were refused with 429, 503 or 504, and how soon.
    failures
        How many were neither answered nor shed, by kind.
    degraded, resent
        How many were answered without something, and how many were sent twice.
    lateness_ms
        Of the generator: from the moment a request was due until it was taken up.
    connection_wait_ms
        From there until it was sent.
    generator_cpu_s
        Processor time of the generators, warm-up included.
    """

    requests: int
    duration_s: float
    offered_per_s: float
    answered: int
    answered_per_s: float
    latency_ms: Distribution
    from_send_ms: Distribution
    shed: dict[str, int]
    shed_ms: Distribution
    failures: dict[str, int]
    degraded: int
    resent: int
    lateness_ms: Distribution
    connection_wait_ms: Distribution
    generator_cpu_s: float

    @property
    def num_shed(self) -> int:
        """How many were refused for want of time."""
        return sum(self.shed.values())

    @property
    def num_failed(self) -> int:
        """How many failed."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Window:
    """The requests due in one second: how many, how long they took in milliseconds, how many came to nothing."""

    start_s: float
    requests: int
    p50: float | None
    p99: float | None
    max: float | None
    shed: int
    failed: int


def percentile(sorted_values: NDArray[np.float64], percent: float) -> float:
    """Return the smallest value that at least so many per cent of all do not exceed: one that was measured.

    Nearest rank, without interpolation.
    """
    assert len(sorted_values)
    rank = int(np.ceil(round(percent / 100 * len(sorted_values), 9)))
    return float(sorted_values[max(rank, 1) - 1])


def distribution(values: NDArray[np.float64]) -> Distribution:
    """Return the percentiles of some durations."""
    if not len(values):
        return Distribution(0, None, {})
    ascending = np.sort(values)
    found = {name: percentile(ascending, percent) for name, percent in PERCENTILES.items()}
    return Distribution(len(values), float(values.mean()), found)


def summarise(samples: Samples, duration_s: float) -> Summary:
    """Return what samples come to that were due within so many seconds."""
    timed, ok, shed, failed = samples.timed, samples.ok, samples.shed, samples.failed
    latency_ms = samples.latency_ms
    return Summary(
        requests=len(samples),
        duration_s=duration_s,
        offered_per_s=len(samples) / duration_s,
        answered=int(ok.sum()),
        answered_per_s=int(ok.sum()) / duration_s,
        latency_ms=distribution(latency_ms[timed]),
        from_send_ms=distribution((samples.done_s - samples.sent_s)[timed] * 1e3),
        shed=_counts(samples.status[shed]),
        shed_ms=distribution(latency_ms[shed]),
        failures=_counts(samples.status[failed]),
        degraded=int(samples.degraded.sum()),
        resent=int(samples.resent.sum()),
        lateness_ms=distribution((samples.picked_s - samples.intended_s) * 1e3),
        connection_wait_ms=distribution((samples.sent_s - samples.picked_s) * 1e3),
        generator_cpu_s=samples.cpu_s,
    )


def windows(samples: Samples, duration_s: float, window_s: float = 1, first_s: float = 0) -> Iterator[Window]:
    """Yield the requests window by window, those without any included."""
    for start_s in (first_s + np.arange(0, duration_s - 1e-9, window_s)).tolist():
        part = samples.between(start_s, start_s + window_s)
        values = distribution(part.latency_ms[part.timed])
        yield Window(
            start_s,
            len(part),
            values["p50"],
            values["p99"],
            values["max"],
            int(part.shed.sum()),
            int(part.failed.sum()),
        )


def _counts(statuses: NDArray[np.int64]) -> dict[str, int]:
    counted = Counter(statuses.tolist())
    return {NAMES.get(status, str(status)): counted[status] for status in sorted(counted)}
