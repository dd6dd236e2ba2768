"""How long requests may wait: for a burst, longer than for load that does not end."""

import math
import time

_RANKINGS = 4
"""How many usual rankings' time may be under way under overload: at half load one request in a hundred takes longer
than 3.4 of them (Poisson arrivals). With fewer, cores idle while the next are let in; with more, all wait longer."""
_LEAST_WAIT_S = 0.005
"""Less than this is not told from the noise of a loop."""
_WEIGHT = 0.05
"""Of the newest request in the moving average of what a ranking costs."""
_NUM_COLD = 100
"""Requests from which on costs are known: what the first ones took says little."""
_LONGEST_S = 20.0
"""How long it is taken for overload without another look. Clients that ask again as soon as they are refused may keep
up what a moment's stall began, though all of them together could never make the queue too long."""


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
        self._num_noted = 0
        self._overloaded, self._since_s = False, -math.inf

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
        if not self._overloaded:
            self._overloaded = would_wait_s > self._longest_wait_s and self._num_noted >= _NUM_COLD
            self._since_s = now_s
        elif would_wait_s <= 0 or now_s - self._since_s >= _LONGEST_S:
            self._overloaded, would_wait_s = False, expected_wait_s
        self._num_noted += 1
        if cost_s is None:
            cost_s = self._usual_s
        else:
            self._usual_s += (_WEIGHT if self._usual_s else 1.0) * (cost_s - self._usual_s)
        # What was refused comes back at most for as long again: overload that ends is soon forgotten.
        self._asked_s, self._noted_s = min(would_wait_s + cost_s, 2 * self._longest_wait_s), now_s
