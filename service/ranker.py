"""Ranking, the heart: requests in, scores out."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from contract.codec import CodecError, unpack_history
from contract.wire import RankRequest
from service.batch import assemble, plan_runs
from service.connection import REDIS_ERRORS
from service.mirror import Mirror
from service.registry import Registry
from service.users import Histories
from service.version import LoadedVersion

_log = structlog.get_logger(__name__)

History = NDArray[np.int64] | None
"""A user's last item ids, or None where they could not be read."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The scores of one request, in the order of its candidates.

    `degraded` says what the scores lack: "history" could not be read, "items" were lost by Redis and are ranked
    as last seen, "scores" overflowed in the model and count as 0.
    """

    request: RankRequest
    version: str
    scores: NDArray[np.float32]  # (N,)
    unknown_items: NDArray[np.int64]  # positions of candidates that the catalogue lacks
    degraded: tuple[str, ...]


class Ranker:
    """Ranks with whatever version serves when a request comes.

    Parameters
    ----------
    registry, histories, mirror
        Where the version, the histories and the catalogue's state come from.
    history_timeout_ms
        How long a request waits for histories; then they count as empty and the answer says so.
    """

    def __init__(self, registry: Registry, histories: Histories, mirror: Mirror, history_timeout_ms: float) -> None:
        self._registry, self._histories, self._mirror = registry, histories, mirror
        self._history_timeout_s = history_timeout_ms / 1000
        self._scoring = ThreadPoolExecutor(1, "score")

    async def rank(self, requests: Sequence[RankRequest]) -> list[Ranking]:
        """Rank each request's candidates, all with the same version."""
        version = self._registry.serving
        histories = await self._read_histories(requests)
        scored = asyncio.get_running_loop().run_in_executor(self._scoring, _score, version, requests, histories)
        items = ("items",) if self._mirror.degraded else ()
        return [
            _ranking(request, version.name, scores, unknown, items if history is not None else ("history", *items))
            for request, history, (scores, unknown) in zip(requests, histories, await scored, strict=True)
        ]

    async def _read_histories(self, requests: Sequence[RankRequest]) -> list[History]:
        stored: list[bytes] | None = []
        users = [request.user_id for request in requests if request.history is None]
        if users:
            try:
                async with asyncio.timeout(self._history_timeout_s):
                    stored = await self._histories.read(users)
            except REDIS_ERRORS:
                stored = None
        left = iter(stored if stored is not None else [None] * len(users))
        return [_history(request.history if request.history is not None else next(left)) for request in requests]

    def close(self) -> None:
        """End the scoring thread once it is idle."""
        self._scoring.shutdown()


def _ranking(
    request: RankRequest,
    version: str,
    scores: NDArray[np.float32],
    unknown: NDArray[np.int64],
    degraded: tuple[str, ...],
) -> Ranking:
    """Return the answer to a request; a score that overflowed counts as 0, and the answer says so."""
    finite = np.isfinite(scores)
    if not finite.all():
        num_lost = int(len(scores) - finite.sum())
        _log.warning("scores are not finite and count as 0", user_id=request.user_id, num_scores=num_lost)
        scores, degraded = np.where(finite, scores, np.float32(0)), (*degraded, "scores")
    return Ranking(request, version, scores, unknown, degraded)


def _history(history: list[int] | bytes | None) -> History:
    if isinstance(history, list):
        return np.array(history, dtype=np.int64)
    try:
        return None if history is None else unpack_history(history)
    except CodecError:
        return None


def _score(
    version: LoadedVersion, requests: Sequence[RankRequest], histories: Sequence[History]
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Return each request's scores and unknown positions; the view is held for exactly as long as the runs."""
    scored: dict[int, tuple[NDArray[np.float32], NDArray[np.int64]]] = {}
    with version.rows.view() as view:
        for run in plan_runs([len(request.candidates) for request in requests]):
            batch = assemble(view, [requests[u] for u in run], [histories[u] for u in run])
            scores = version.scorer.score(view.tables, batch.candidate_rows, batch.history_rows, batch.levels)
            for row, u in enumerate(run):
                n = len(requests[u].candidates)
                scored[u] = scores[row, :n], np.flatnonzero(batch.candidate_rows[row, :n] == 0)
    return [scored[u] for u in range(len(requests))]
