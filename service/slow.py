"""Slow rankings, logged with where their time went."""

import time

import structlog

from service.observers import Served

_MOST_LINES = 10
_PERIOD_S = 1.0

_log = structlog.get_logger(__name__)


class SlowRequests:
    """An observer that logs what took long; of many only some, for a service that is slow has no time to say so.

    Parameters
    ----------
    slow_ms
        From when on a request is slow: from its headers to its answer.
    """

    def __init__(self, slow_ms: float) -> None:
        self._slow_s = slow_ms / 1000
        self._period_s, self._num_lines, self._num_silent = 0.0, 0, 0

    def note(self, served: Served) -> None:
        """Log an answer that was slow, at most ten a second; how many were passed over stands in the next line."""
        now_s = time.monotonic()
        seconds = now_s - served.call.arrived_s
        if seconds < self._slow_s:
            return
        if now_s - self._period_s >= _PERIOD_S:
            self._period_s, self._num_lines = now_s, 0
        if self._num_lines >= _MOST_LINES:
            self._num_silent += 1
            return
        self._num_lines += 1
        self._log(served, seconds)
        self._num_silent = 0

    def _log(self, served: Served, seconds: float) -> None:
        stages, rankings = served.call.stages, served.rankings
        _log.warning(
            "slow request",
            request_id=served.call.request_id,
            duration_ms=round(seconds * 1000, 3),
            **{f"{stage}_ms": round(duration_s * 1000, 3) for stage, duration_s in stages.items()},
            user_id=rankings[0].query.user_id if rankings else None,
            num_users=len(rankings),
            num_candidates=sum(len(ranking.scores) for ranking in rankings),
            versions=sorted({ranking.version for ranking in rankings}),
            num_not_logged=self._num_silent,
        )
