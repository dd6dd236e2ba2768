"""How long requests may wait: for a burst, longer than for load that does not end."""

import math
import time

_RANKINGS = 3
"""How many usual rankings' time may wait under overload: at half load one request in a hundred waits for longer than
2.4 of them (Poisson arrivals), so that who is admitted is answered about as soon as then."""
_LEAST_WAIT_S = 0.005
"""Less than this is not told from the noise of a loop."""
_WEIGHT = 0.05
"""Of the newest request in the moving average of what a ranking costs."""


class Pressure:
    """Tells overload from a burst by the work that would wait by now had nothing been refused.

    A queue that may hold a tenth of a second's work takes bursts without a loss, and under overload makes everybody
    wait so long, for it is always full. So it is overload once that much waits, and until nothing would any more;
    meanwhile few may wait. The idea is that of controlled delay (Maurer, Fail at Scale, ACM Queue 2015), told by work
    asked for instead of by when the queue was last empty, which at high load, short of overload, is long ago too.

    Parameters
    ----------
    longest_wait_s
        How long a request of a burst may have to wait.
    """

    def __init__(self, longest_wait_s: float) -> None:
        self._longest_wait_s = longest_wait_s
        self._usual_s = 0.0
        self._asked_s, self._noted_s = 0.0, -math.inf
        self._overloaded = False

    @property
    def bound_s(self) -> float:
        """How long the next request may have to wait."""
        if not self._overloaded:
            return self._longest_wait_s
        return min(self._longest_wait_s, max(_LEAST_WAIT_S, _RANKINGS * self._usual_s))

    def note(self, expected_wait_s: float, cost_s: float | None = None) -> None:
        """Count a request, admitted or not, that would wait so long and cost so much; None: as much as usual."""
        now_s = time.monotonic()
        would_wait_s = max(expected_wait_s, self._asked_s - (now_s - self._noted_s))
        if would_wait_s > self._longest_wait_s:
            self._overloaded = True
        elif would_wait_s <= 0:
            self._overloaded = False
        if cost_s is None:
            cost_s = self._usual_s
        else:
            self._usual_s += (_WEIGHT if self._usual_s else 1.0) * (cost_s - self._usual_s)
        # What was refused comes back at most for as long again: overload that ends is soon forgotten.
        self._asked_s, self._noted_s = min(would_wait_s + cost_s, 2 * self._longest_wait_s), now_s
