"""When what failed is worth another try, and how long to wait for it."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

STATUSES = frozenset({429, 502, 503, 504})
"""Answers after which the same request may succeed."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and for how long, a request that is safe to repeat is tried.

    Attempt k is followed by a pause drawn evenly from 0 to `first_pause_s` x 2^(k - 1), at most `longest_pause_s`, on
    top of what the service asked for ("full jitter": callers that failed together do not come back together).

    Parameters
    ----------
    max_attempts
        1 tries once, as `ONCE` does.
    budget_s
        No pause ends later than this after the first attempt began. An attempt after the first waits for its answer
        until then at most, or for as long as its own time-out allows from the start where that is longer.
    first_pause_s, longest_pause_s
        The bounds of pauses.
    """

    max_attempts: int = 4
    budget_s: float = 10
    first_pause_s: float = 0.05
    longest_pause_s: float = 2

    def pause_s(self, num_attempts: int, retry_after_s: float | None) -> float:
        """Return a pause to make after so many attempts."""
        # The power is bounded: a float has no room for 2**1024.
        bound = min(self.longest_pause_s, self.first_pause_s * 2 ** min(num_attempts - 1, 60))
        return (retry_after_s or 0) + random.uniform(0, bound)  # noqa: S311


ONCE = Retry(max_attempts=1)
"""No second attempt: for callers who count failures, or who repeat by rules of their own."""

PATIENT = Retry()
"""What clients do unless told otherwise."""


def read_retry_after(value: str | None) -> float | None:
    """Return a Retry-After header in seconds from now, be it a number or a date; None where there is none to read."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
