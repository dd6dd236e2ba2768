"""The arithmetic: turns of several servers to ratios with their spread."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.peers.turn import Turn


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of what was measured several times, and the least and the most of it."""

    middle: float
    least: float
    most: float

    def shown(self, digits: int = 1) -> str:
        """Return it in words, the spread only where there is one."""
        if self.least == self.most:
            return f"{self.middle:,.{digits}f}"
        return f"{self.middle:,.{digits}f} ({self.least:,.{digits}f} to {self.most:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Figure:
    """Something that is compared; a ratio above 1 says that the first server is better."""

    name: str
    value: Callable[[Turn], float]
    more_is_better: bool = False


FIGURES = (
    Figure("requests/s", lambda turn: turn.most.per_s, more_is_better=True),
    Figure("p50, equal rate", lambda turn: turn.equal.p50_ms),
    Figure("p99, equal rate", lambda turn: turn.equal.p99_ms),
    Figure("p50, half load", lambda turn: turn.half.p50_ms),
    Figure("p99, half load", lambda turn: turn.half.p99_ms),
    Figure("CPU a request", lambda turn: turn.most.cpu_s_per_1000),
    Figure("memory", lambda turn: float(turn.memory)),
)


def spread(values: Sequence[float]) -> Spread:
    """Return the median of values with the least and the most of them."""
    return Spread(median(values), min(values), max(values))


def ratios(ours: Sequence[Turn], theirs: Sequence[Turn], figure: Figure) -> Spread:
    """Return how many times better the first server is, turn by turn of the same round."""
    pairs = [(figure.value(our), figure.value(their)) for our, their in zip(ours, theirs, strict=True)]
    return spread([our / their if figure.more_is_better else their / our for our, their in pairs])


def best_peer(turns: Mapping[str, Sequence[Turn]], peers: Sequence[str]) -> str | None:
    """Return which of some servers does most; None where there is none."""
    there = [name for name in peers if turns.get(name)]
    return max(there, key=lambda name: median(turn.most.per_s for turn in turns[name]), default=None)
