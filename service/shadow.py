"""Scores a copy of the traffic with the version on trial, out of every request's way, and compares."""

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from service.background import BackgroundScorer, background_thread
from service.comparison import Comparison
from service.lineup import Lineup, Trial
from service.observers import Served
from service.ranker import Ranking

_MOST_WAITING = 64
_TIME_EVERY = 8
"""One request in so many is scored by both versions in the same thread, for only so are their times alike."""

_log = structlog.get_logger(__name__)

Count = Callable[[str, int], None]
"""Told how many requests were `compared`, `dropped` for there was too much to do, or `failed`."""


class Shadow:
    """Compares for as long as a version is in the shadow.

    Parameters
    ----------
    lineup
        Gives the versions that answer at the moment.
    count
        Is told what becomes of requests.
    """

    def __init__(self, lineup: Callable[[], Lineup[Any]], count: Count) -> None:
        self._lineup, self._count = lineup, count
        self._room = threading.Semaphore(_MOST_WAITING)
        self._thread = background_thread("shadow")
        self._comparing: _Comparing | None = None
        self._seen: _Seen | None = None

    def note(self, served: Served) -> None:
        """Have a request compared, unless too many wait for that; takes microseconds."""
        lineup = self._lineup()
        if not lineup.is_shadowed:
            return
        comparing = self._comparing_for(lineup)
        if self._room.acquire(blocking=False):
            self._thread.submit(self._compare, comparing, served)
        else:
            self._count("dropped", len(served.rankings))
            comparing.seen.count("dropped", len(served.rankings))

    def sums(self) -> tuple[Trial, bytes] | None:
        """Return the trial under way and what was seen of it so far, packed; None where nothing was.

        The versions of one that is over are let go.
        """
        lineup = self._lineup()
        if self._comparing is None:
            return None
        if not lineup.is_shadowed:
            self._comparing = None
            return None
        comparing = self._comparing_for(lineup)
        return comparing.trial, comparing.seen.packed()

    def close(self) -> None:
        """End the thread; what waits is not compared any more."""
        self._thread.shutdown(cancel_futures=True)

    def _comparing_for(self, lineup: Lineup[Any]) -> "_Comparing":
        if self._comparing is None or not self._comparing.is_of(lineup):
            # The same trial goes on where another owner of the catalogue shows the same versions anew.
            if self._seen is None or not self._seen.is_of(lineup):
                self._seen = _Seen(lineup)
            self._comparing = _Comparing(lineup, self._seen, self._count)
        return self._comparing

    def _compare(self, comparing: "_Comparing", served: Served) -> None:
        try:
            if comparing is self._comparing:
                for ranking in served.rankings:
                    comparing.compare(ranking)
        finally:
            self._room.release()


class _Seen:
    """What one process has seen of one trial so far."""

    def __init__(self, lineup: Lineup[Any]) -> None:
        self._trial, self._serving = lineup.trial, lineup.serving.name
        self._sums, self._lock = Comparison(), threading.Lock()

    def is_of(self, lineup: Lineup[Any]) -> bool:
        """Whether a lineup compares the same two versions in the same trial."""
        return (self._trial, self._serving) == (lineup.trial, lineup.serving.name)

    @property
    def num_requests(self) -> int:
        """Requests that were compared."""
        return self._sums.requests

    def packed(self) -> bytes:
        """Return the sums so far."""
        with self._lock:
            return msgspec.msgpack.encode(self._sums)

    def count(self, event: str, num_requests: int) -> int:
        """Count requests that are not compared; return how many there are by now."""
        with self._lock:
            number: int = getattr(self._sums, event) + num_requests
            setattr(self._sums, event, number)
            return number

    def add(
        self, serving: NDArray[np.float32], trial: NDArray[np.float32], serving_s: float | None, trial_s: float
    ) -> None:
        """Add a request: its scores by either version, and its times where both were measured."""
        with self._lock:
            self._sums.add(serving, trial)
            if serving_s is not None:
                self._sums.time(serving_s, trial_s)


class _Comparing:
    """Compares the versions of one lineup."""

    def __init__(self, lineup: Lineup[Any], seen: _Seen, count: Count) -> None:
        assert lineup.trial is not None
        self.trial, self.seen, self._lineup, self._count = lineup.trial, seen, lineup, count
        self._scorers: tuple[BackgroundScorer, BackgroundScorer] | None = None

    def is_of(self, lineup: Lineup[Any]) -> bool:
        """Whether these are the versions of a lineup."""
        return lineup == self._lineup

    def compare(self, ranking: Ranking) -> None:
        """Score a request again, in the thread of low priority."""
        if ranking.version != self._lineup.serving.name:
            return
        try:
            self._add(ranking)
        except Exception:
            if self.seen.count("failed", 1) == 1:
                _log.exception("a request cannot be scored in the shadow", version=self.trial.version)
            self._count("failed", 1)
        else:
            self._count("compared", 1)

    def _add(self, ranking: Ranking) -> None:
        if self._scorers is None:
            assert self._lineup.candidate is not None
            self._scorers = BackgroundScorer(self._lineup.serving), BackgroundScorer(self._lineup.candidate)
        serving, candidate = self._scorers
        inputs = ranking.query.candidates[None], [ranking.history], ranking.levels[None]
        started_s = time.perf_counter()
        scores = candidate.score(*inputs)[0]
        candidate_s = time.perf_counter() - started_s
        serving_s = None
        if self.seen.num_requests % _TIME_EVERY == _TIME_EVERY - 1:
            started_s = time.perf_counter()
            serving.score(*inputs)
            serving_s = time.perf_counter() - started_s
        self.seen.add(ranking.scores, scores, serving_s, candidate_s)
