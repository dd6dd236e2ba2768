"""When requests are sent: fixed before the run, so that no answer, however late, moves any of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Spacing = Literal["poisson", "even"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time with one mean rate of requests per second."""

    duration_s: float
    rate: float


def arrival_times(
    segments: Sequence[Segment], generator: np.random.Generator, spacing: Spacing = "poisson", start_s: float = 0
) -> NDArray[np.float64]:
    """Return (n,) the moments of sending in seconds, ascending.

    Parameters
    ----------
    segments
        One after the other.
    spacing
        `poisson`: independent users, whose gaps are exponential; within a segment their number is Poisson distributed
        and their moments uniform, which is the same process. `even`: equal gaps.
    start_s
        Where the first segment begins.
    """
    parts: list[NDArray[np.float64]] = []
    for segment in segments:
        expected = segment.rate * segment.duration_s
        if spacing == "poisson":
            parts.append(start_s + np.sort(generator.uniform(0, segment.duration_s, generator.poisson(expected))))
        else:
            moments = start_s + (np.arange(round(expected)) + 0.5) / segment.rate
            parts.append(moments.astype(np.float64))
        start_s += segment.duration_s
    return np.concatenate(parts) if parts else np.zeros(0)


def bursts(
    rate: float, duration_s: float, factor: float = 5, period_s: float = 2, burst_s: float = 0.2
) -> list[Segment]:
    """Return segments of mean rate `rate`: in each period one burst of `factor` times that, and less between.

    The quiet part comes first, and the last period may be cut short.
    """
    assert factor * burst_s <= period_s, "the bursts alone would exceed the mean rate"
    quiet_s = period_s - burst_s
    quiet = Segment(quiet_s, rate * (period_s - factor * burst_s) / quiet_s)
    segments: list[Segment] = []
    left_s = duration_s
    while left_s > 1e-9:
        for segment in (quiet, Segment(burst_s, factor * rate)):
            length_s = min(segment.duration_s, left_s)
            if length_s > 1e-9:
                segments.append(Segment(length_s, segment.rate))
            left_s -= length_s
    return segments
