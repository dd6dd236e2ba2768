"""A service level objective, such as `p99=10ms,errors=0`: what a load must keep to."""

import re
from dataclasses import dataclass

from loadtest.errors import WrongCallError
from loadtest.summary import PERCENTILES, Summary

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)(%?)")
_IN_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_SHARES = ("errors", "shed", "degraded")


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that one figure may be: milliseconds, or a share of all requests."""

    name: str
    limit: float

    @property
    def is_share(self) -> bool:
        """Whether it is a share of requests."""
        return self.name in _SHARES

    def shown(self, value: float | None) -> str:
        """Return a value as this bound's are written."""
        if value is None:
            return "nothing measured"
        return f"{value:.4%}" if self.is_share else f"{value:.2f} ms"


@dataclass(frozen=True, slots=True)
class Check:
    """A bound beside what was measured; None where nothing was, which does not hold."""

    bound: Bound
    value: float | None

    @property
    def held(self) -> bool:
        """Whether the bound was kept."""
        return self.value is not None and self.value <= self.bound.limit


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds; no errors and no shedding unless something else was said."""

    bounds: tuple[Bound, ...]

    def checks(self, summary: Summary) -> list[Check]:
        """Return each bound beside what was measured."""
        return [Check(bound, _measured(bound.name, summary)) for bound in self.bounds]

    def held(self, summary: Summary) -> bool:
        """Whether every bound was kept."""
        return all(check.held for check in self.checks(summary))


def parse_slo(text: str, may_shed: bool = False) -> Slo:
    """Read bounds separated by commas.

    Parameters
    ----------
    text
        `p50`, `p90`, `p99`, `p99.9` or `max` with a duration in us, ms or s; `errors`, `shed` or `degraded` with a
        share of all requests, as a fraction or in per cent. `errors` are requests neither answered nor shed. Where
        `errors` or `shed` are not named they must be 0.
    may_shed
        Bind no shedding unless it is named.

    Raises
    ------
    WrongCallError
        A bound cannot be read; the message says which.
    """
    bounds: dict[str, Bound] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if name in bounds:
            raise WrongCallError(f"SLO: {name} is given twice")
        bounds[name] = Bound(name, _limit(name, value, part))
    for name in ("errors",) if may_shed else ("errors", "shed"):
        bounds.setdefault(name, Bound(name, 0))
    return Slo(tuple(bounds.values()))


def _limit(name: str, value: str, part: str) -> float:
    if name in PERCENTILES:
        duration = _DURATION.fullmatch(value)
        if duration is None:
            raise WrongCallError(f"SLO: {part!r} needs a duration such as 10ms")
        return float(duration[1]) * _IN_MS[duration[2]]
    if name in _SHARES:
        share = _SHARE.fullmatch(value)
        if share is None:
            raise WrongCallError(f"SLO: {part!r} needs a share such as 0, 0.001 or 0.1%")
        fraction = float(share[1]) / (100 if share[2] else 1)
        if fraction > 1:
            raise WrongCallError(f"SLO: {part!r} is more than all requests")
        return fraction
    raise WrongCallError(f"SLO: {part!r} is none of {', '.join((*PERCENTILES, *_SHARES))}")


def _measured(name: str, summary: Summary) -> float | None:
    if name in PERCENTILES:
        return summary.latency_ms[name]
    if not summary.requests:
        return None
    counts = {"errors": summary.num_failed, "shed": summary.num_shed, "degraded": summary.degraded}
    return counts[name] / summary.requests
