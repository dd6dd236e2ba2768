"""What a load test was asked to do."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.arrivals import Spacing
from loadtest.driver import Generators
from loadtest.errors import WrongCallError
from loadtest.mix import Mix, parse_mix


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A scenario and its figures; see `qin loadtest --help`.

    Attributes
    ----------
    rate
        Mean requests in a second.
    duration_s, warmup_s
        Of what is measured, and of what comes before at the same rate.
    slo
        As `loadtest.slo.parse_slo` reads it.
    users, item_ids
        First and last id, where no files say which there are; items by default as many as the service has.
    zipf
        The exponent of Zipf's law, of users and of items; 0 makes all equally popular.
    burst
        How many times the mean rate comes in a burst.
    overload
        How many times saturation is sent.
    pause_s
        Between two swaps.
    stall_s
        How long Redis answers nothing.
    writes_per_s
        How many items are changed in a second.
    hot_share
        Which share of the requests the hot user has.
    """

    url: str
    scenario: str = "steady"
    rate: float = 50
    duration_s: float = 30
    warmup_s: float = 2
    mix: Mix = field(default_factory=lambda: Mix((100,), (1.0,)))
    slo: str = ""
    report: Path | None = None
    key: str | None = None
    model: str = "qin"
    items: Path | None = None
    clicks: tuple[Path, ...] = ()
    users: tuple[int, int] = (1, 10_000)
    item_ids: tuple[int, int] | None = None
    zipf: float = 1
    seed: int = 1
    spacing: Spacing = "poisson"
    generators: Generators = field(default_factory=Generators)
    redis_url: str | None = None
    data_dir: Path | None = None
    burst: float = 5
    overload: float = 3
    pause_s: float = 2
    stall_s: float = 1
    writes_per_s: float = 20
    hot_share: float = 0.5

    def __post_init__(self) -> None:
        """Raise WrongCallError where a figure makes no sense."""
        object.__setattr__(self, "url", self.url.rstrip("/"))
        for name in ("rate", "duration_s", "overload", "stall_s", "writes_per_s"):
            if getattr(self, name) <= 0:
                raise WrongCallError(f"{name} must be positive")
        for name in ("warmup_s", "zipf", "pause_s", "seed"):
            if getattr(self, name) < 0:
                raise WrongCallError(f"{name} must not be negative")
        if not 1 <= self.burst <= 10:
            raise WrongCallError("burst must be from 1 to 10: its bursts take a tenth of the time")
        if not 0 < self.hot_share < 1:
            raise WrongCallError("hot_share must be between 0 and 1")
        if self.generators.num_processes < 1 or self.generators.num_connections < 1 or self.generators.timeout_s <= 0:
            raise WrongCallError("processes, connections and the time limit must be positive")
        for ids in (self.users, self.item_ids or (0, 0)):
            if not 0 <= ids[0] <= ids[1] < 2**63:
                raise WrongCallError(f"{ids[0]}-{ids[1]} is no range of ids")


def make_options(
    *,
    candidates: str,
    users: str,
    item_ids: str | None,
    processes: int,
    connections: int,
    timeout_s: float,
    **given: Any,
) -> Options:
    """Return options as a command line gives them, in text where they are more than a number.

    Raises
    ------
    WrongCallError
        One cannot be read, or makes no sense.
    """
    return Options(
        mix=parse_mix(candidates),
        users=parse_range(users),
        item_ids=None if item_ids is None else parse_range(item_ids),
        generators=Generators(processes, connections, timeout_s),
        **given,
    )


def parse_range(text: str) -> tuple[int, int]:
    """Read `1-10000`, first and last id.

    Raises
    ------
    WrongCallError
        It is no range.
    """
    first, _, last = text.partition("-")
    if not (first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal()):
        raise WrongCallError(f"{text!r} is not a range of ids such as 1-10000")
    return int(first), int(last)
