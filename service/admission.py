"""Who may rank now: a bounded queue by candidates, and nobody who would only wait for a time-out."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator

from service.call import Call
from service.errors import DeadlineError, OverloadedError
from service.pressure import Pressure

_WATCH_S = 0.01
_TIMER_S = 0.001
_WEIGHT = 0.1
"""Of the newest measurement in a moving average."""

Count = Callable[[str], None]
"""Told why a request was shed: too many "candidates" before it, too long a "wait", too long for its "deadline"; or
that its deadline passed while it waited: "expired"."""


class Costs:
    """What scoring costs, learnt from what it cost: a moving average for each power of two of candidates.

    The first measurements count alike, so that none of them that went wrong is believed for long.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._num_learnt: Counter[int] = Counter()

    def of(self, num_candidates: int) -> float:
        """Return the seconds that so many candidates will take; 0 before any were scored."""
        size = num_candidates.bit_length()
        if size in self._seconds:
            return self._seconds[size]
        if not self._seconds:
            return 0.0
        nearest = min(self._seconds, key=lambda known: abs(known - size))
        return self._seconds[nearest] * 2.0 ** (size - nearest)

    def measured(self, num_candidates: int) -> float:
        """Return the same where about so many were scored before, else 0: a guess is no reason to refuse anybody."""
        return self._seconds.get(num_candidates.bit_length(), 0.0)

    def learn(self, num_candidates: int, seconds: float) -> None:
        """Note what so many candidates took."""
        size = num_candidates.bit_length()
        self._num_learnt[size] += 1
        before = self._seconds.get(size, seconds)
        self._seconds[size] = before + max(_WEIGHT, 1 / self._num_learnt[size]) * (seconds - before)


class Admission:
    """Bounds what waits to be ranked, in candidates and in expected time, of one event loop.

    Parameters
    ----------
    most_candidates
        How many may be under way at once, whatever number of requests they came in; a request alone always passes.
    longest_wait_ms
        Of those that wait, how long the last may have to wait by what scoring took lately; under overload, see
        `service.pressure`, less.
    count
        Is told of every request that is shed.
    watch
        Is told how many candidates are under way, whenever that changes.
    """

    def __init__(
        self,
        most_candidates: int,
        longest_wait_ms: float,
        count: Count,
        watch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.costs = Costs()
        self.num_candidates = 0
        self._most_candidates, self._count, self._watch = most_candidates, count, watch
        self._pressure = Pressure(longest_wait_ms / 1000)
        self._backlog_s = 0.0
        self._lag = _LoopLag()

    @property
    def expected_wait_s(self) -> float:
        """How long a request that comes now waits before it is scored, as far as that can be told."""
        return max(0.0, self._backlog_s) + self._lag.seconds

    @contextlib.contextmanager
    def admit(self, num_candidates: int, call: Call) -> Iterator[None]:
        """Let a request pass while the block runs.

        Raises
        ------
        OverloadedError
            It would wait for too long; nothing is done then.
        DeadlineError
            Its deadline passed already.
        """
        self._check(num_candidates, call)
        cost_s = self.costs.of(num_candidates)
        self.num_candidates += num_candidates
        self._watch(self.num_candidates)
        self._backlog_s += cost_s
        self._lag.watch()
        try:
            yield
        except DeadlineError:
            self._count("expired")
            raise
        finally:
            self.num_candidates -= num_candidates
            self._watch(self.num_candidates)
            self._backlog_s = self._backlog_s - cost_s if self.num_candidates else 0.0

    def check_wait(self) -> None:
        """Raise OverloadedError if a request of any size would wait for too long: before its body is even decoded."""
        wait_s = self.expected_wait_s
        if wait_s > self._pressure.bound_s:
            self._pressure.note(wait_s)
            self._refuse_wait(wait_s)

    def _check(self, num_candidates: int, call: Call) -> None:
        wait_s = self.expected_wait_s
        self._pressure.note(wait_s, self.costs.of(num_candidates))
        if self.num_candidates and self.num_candidates + num_candidates > self._most_candidates:
            self._shed("candidates", f"{self.num_candidates} candidates are being ranked")
        if wait_s > self._pressure.bound_s:
            self._refuse_wait(wait_s)
        if call.deadline_s < math.inf:
            now_s = time.monotonic()
            if now_s > call.deadline_s:
                self._count("expired")
                raise DeadlineError("the deadline passed before the candidates could be ranked")
            if self._backlog_s and now_s + wait_s + self.costs.measured(num_candidates) > call.deadline_s:
                self._shed("deadline", f"the deadline is nearer than the {wait_s * 1000:.0f} ms of wait")

    def _refuse_wait(self, wait_s: float) -> None:
        self._shed("wait", f"requests wait for {wait_s * 1000:.0f} ms")

    def _shed(self, reason: str, detail: str) -> None:
        self._count(reason)
        raise OverloadedError(f"{detail}; try again later")


class _LoopLag:
    """How late the event loop runs what is due: what waits in it, or in sockets, is in no queue to be seen.

    A moment in which nothing could run, for another thread held the interpreter, is no overload: of two measurements
    in a row the smaller counts.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._watching = False

    def watch(self) -> None:
        """Measure, and go on for as long as the loop is late."""
        if not self._watching:
            self._watching = True
            self._loop.call_at(due_s := self._loop.time() + _WATCH_S, self._measure, due_s)

    def _measure(self, due_s: float) -> None:
        # Timers count whole milliseconds.
        late_s = max(0.0, self._loop.time() - due_s - _TIMER_S)
        self.seconds, self._last_s = min(late_s, self._last_s), late_s
        self._watching = False
        if late_s > 0:
            self.watch()
