"""Ranking, the heart: requests in, scores out."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog
from numpy.typing import NDArray

from contract.codec import CodecError, unpack_history
from contract.wire import RankRequest
from service.batch import assemble, plan_runs
from service.history_reader import HistoryReader
from service.serving import Catalogue, HotItems, ServingVersion, Versions
from service.users import Histories

_log = structlog.get_logger(__name__)

History = NDArray[np.int64] | None
"""A user's last item ids, or None where they could not be read."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The scores of one request, in the order of its candidates.

    `degraded` says what the scores lack: "history" could not be read, "items" were lost by Redis and are ranked
    as last seen, could not be read in time and are ranked as unknown, or may have changed since Redis was heard of;
    "scores" overflowed in the model and count as 0.
    """

    request: RankRequest
    version: str
    scores: NDArray[np.float32]  # (N,)
    unknown_items: NDArray[np.int64]  # positions of candidates that the catalogue lacks
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Scored:
    """What the scoring thread makes of one request."""

    scores: NDArray[np.float32]  # (N,)
    unknown: NDArray[np.int64]  # positions of candidates
    lacks_items: bool


class Ranker:
    """Ranks with whatever version serves when a request comes.

    Parameters
    ----------
    registry, histories, mirror
        Where the version, the histories and the catalogue's state come from.
    history_timeout_ms
        How long a request waits for histories; then they count as empty and the answer says so.
    max_item_lag_ms
        How long ago every write to the catalogue may have been known for an answer to keep silent about it.
    hot_set
        Gets items that a mirror with a capacity does not hold; None where the mirror holds all.
    """

    def __init__(
        self,
        registry: Versions,
        histories: Histories,
        mirror: Catalogue,
        history_timeout_ms: float,
        max_item_lag_ms: float,
        hot_set: HotItems | None = None,
    ) -> None:
        self._registry, self._mirror, self._hot_set = registry, mirror, hot_set
        self.history_reader = HistoryReader(histories, history_timeout_ms / 1000)
        self._max_item_lag_s = max_item_lag_ms / 1000
        self._scoring = ThreadPoolExecutor(1, "score")

    async def rank(self, requests: Sequence[RankRequest]) -> list[Ranking]:
        """Rank each request's candidates, all with the same version."""
        version = self._registry.serving
        histories = await self._read_histories(requests)
        lags = self.lag_s() > self._max_item_lag_s
        scored = await self._score(version, requests, histories)
        return [
            _ranking(request, version.name, of_request, self._lacking(history, of_request, lags))
            for request, history, of_request in zip(requests, histories, scored, strict=True)
        ]

    def lag_s(self) -> float:
        """Return since when writes to the catalogue may be missing in what is ranked with."""
        return time.monotonic() - min(self._mirror.followed_s, self._registry.serving.followed_s)

    async def _read_histories(self, requests: Sequence[RankRequest]) -> list[History]:
        users = [request.user_id for request in requests if request.history is None]
        left = iter(await self.history_reader.read(users) if users else [])
        return [_history(request.history if request.history is not None else next(left)) for request in requests]

    async def _score(
        self, version: ServingVersion, requests: Sequence[RankRequest], histories: Sequence[History]
    ) -> list[_Scored]:
        """Score in the scoring thread; where the mirror lacks items, get them and start again, once."""
        loop, score = asyncio.get_running_loop(), partial(_score, version, requests, histories, self._hot_set)
        scored = await loop.run_in_executor(self._scoring, score, True)
        if isinstance(scored, set):
            assert self._hot_set is not None
            await self._hot_set.admit(version, scored)
            scored = await loop.run_in_executor(self._scoring, score, False)
        assert not isinstance(scored, set)
        return scored

    def _lacking(self, history: History, scored: _Scored, lags: bool) -> tuple[str, ...]:
        items = ("items",) if scored.lacks_items or self._mirror.degraded or lags else ()
        return items if history is not None else ("history", *items)

    async def aclose(self) -> None:
        """End the scoring thread once it is idle, and whatever waits for Redis to come back."""
        self._scoring.shutdown()
        await self.history_reader.aclose()


def _ranking(request: RankRequest, version: str, scored: _Scored, degraded: tuple[str, ...]) -> Ranking:
    """Return the answer to a request; a score that overflowed counts as 0, and the answer says so."""
    scores, finite = scored.scores, np.isfinite(scored.scores)
    if not finite.all():
        num_lost = int(len(scores) - finite.sum())
        _log.warning("scores are not finite and count as 0", user_id=request.user_id, num_scores=num_lost)
        scores, degraded = np.where(finite, scores, np.float32(0)), (*degraded, "scores")
    return Ranking(request, version, scores, scored.unknown, degraded)


def _history(history: list[int] | bytes | None) -> History:
    if isinstance(history, list):
        return np.array(history, dtype=np.int64)
    try:
        return None if history is None else unpack_history(history)
    except CodecError:
        return None


def _score(
    version: ServingVersion,
    requests: Sequence[RankRequest],
    histories: Sequence[History],
    hot_set: HotItems | None,
    may_miss: bool,
) -> list[_Scored] | set[int]:
    """Return each request's scores, or else the items to get first; the view is held for as long as the runs."""
    scored: dict[int, _Scored] = {}
    with version.rows.view() as view:
        runs = plan_runs([len(request.candidates) for request in requests])
        batches = [assemble(view, [requests[u] for u in run], [histories[u] for u in run]) for run in runs]
        missing = [hot_set.missing(version, batch) if hot_set else {} for batch in batches]
        if may_miss and any(missing):
            return set[int]().union(*itertools.chain.from_iterable(of_users.values() for of_users in missing))
        for run, batch, of_users in zip(runs, batches, missing, strict=True):
            scores = version.scorer.score(view.tables, batch.candidate_rows, batch.history_rows, batch.levels)
            for row, u in enumerate(run):
                n = len(requests[u].candidates)
                unknown = np.flatnonzero(batch.candidate_rows[row, :n] == 0)
                scored[u] = _Scored(scores[row, :n], unknown, row in of_users)
    return [scored[u] for u in range(len(requests))]
