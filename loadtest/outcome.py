"""What came of a scenario."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.samples import Samples
from loadtest.summary import Summary, summarise


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of load that is told of by itself.

    Attributes
    ----------
    rate
        Requests a second that were asked for; None for a closed loop.
    samples
        Those due in it.
    """

    name: str
    rate: float | None
    duration_s: float
    samples: Samples
    summary: Summary


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the service, in seconds of the run."""

    kind: str
    start_s: float
    end_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A figure that only this scenario has."""

    name: str
    value: float | str | None
    unit: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return "nothing measured"
        text = self.value if isinstance(self.value, str) else f"{self.value:,.4g}"
        return f"{text} {self.unit}".strip()


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of it.

    Attributes
    ----------
    judged
        The part that the SLO is held against.
    timeline
        The part whose course is drawn, with the events.
    """

    parts: Sequence[Part]
    judged: Part
    timeline: Part
    events: Sequence[Event] = ()
    findings: Sequence[Finding] = field(default_factory=tuple)


def make_part(name: str, rate: float | None, duration_s: float, samples: Samples) -> Part:
    """Return a part of samples that were due in it."""
    return Part(name, rate, duration_s, samples, summarise(samples, duration_s))
