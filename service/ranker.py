"""Ranking, the heart: queries in, scores out."""

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from contract.bundle import EXPLAIN
from contract.codec import CodecError, unpack_history
from service.call import Call
from service.errors import ConflictError, NotFoundError
from service.history_reader import HistoryReader
from service.lane import Lane
from service.query import Query
from service.score import History, Job, Scored
from service.serving import Catalogue, HotItems, ServingVersion, Versions
from service.users import Histories

_log = structlog.get_logger(__name__)

_EMPTY = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The scores of one query, in the order of its candidates.

    `degraded` says what the scores lack: "history" could not be read, "items" were lost by Redis and are ranked
    as last seen, could not be read in time and are ranked as unknown, or may have changed since Redis was heard of;
    "scores" overflowed in the model and count as 0.
    """

    query: Query
    version: str
    scores: NDArray[np.float32]  # (N,)
    unknown_items: NDArray[np.int64]  # positions of candidates that the catalogue lacks
    degraded: tuple[str, ...]
    history: NDArray[np.int64]  # (k,) item ids as they were used, oldest first, k <= H; 0 is padding
    levels: NDArray[np.int64]  # (N, 2) likes and views level as they were used
    weights: NDArray[np.float32] | None  # (N, H) attention, right-aligned with the history; None if not asked for


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
    most_candidates
        How many candidates of several requests are scored together; 0 scores each request alone.
    """

    def __init__(
        self,
        registry: Versions,
        histories: Histories,
        mirror: Catalogue,
        history_timeout_ms: float,
        max_item_lag_ms: float,
        hot_set: HotItems | None = None,
        most_candidates: int = 0,
    ) -> None:
        self._registry, self._mirror, self._hot_set = registry, mirror, hot_set
        self.history_reader = HistoryReader(histories, history_timeout_ms / 1000)
        self._max_item_lag_s = max_item_lag_ms / 1000
        self._lane = Lane(hot_set, most_candidates)

    async def rank(self, queries: Sequence[Query], call: Call) -> list[Ranking]:
        """Rank each query's candidates; all users of one version are scored with the same state of the catalogue.

        Raises
        ------
        InvalidError, NotFoundError, ConflictError, DeadlineError
            See `service.pipeline.ranked`.
        """
        versions = [self._version(query, call) for query in queries]
        histories = await self._read_histories(queries, call)
        rankings: dict[int, Ranking] = {}
        for version, positions in _grouped(versions).items():
            job = Job(version, [queries[i] for i in positions], [histories[i] for i in positions], call.explain)
            await self._score(job, call)
            lags = self._lag_s(version) > self._max_item_lag_s
            for i, history, scored in zip(positions, job.histories, job.scored, strict=True):
                rankings[i] = _ranking(queries[i], version, history, scored, self._lacking(history, scored, lags))
        return [rankings[i] for i in range(len(queries))]

    def lag_s(self) -> float:
        """Return since when writes to the catalogue may be missing in what is ranked with."""
        return self._lag_s(self._registry.serving)

    def _lag_s(self, version: ServingVersion) -> float:
        return time.monotonic() - min(self._mirror.followed_s, version.followed_s)

    def _version(self, query: Query, call: Call) -> ServingVersion:
        """Return the version that ranks a query; nothing is awaited until all of a request's are known."""
        if call.version is None:
            version = self._registry.choose(query.user_id)
        elif (named := self._registry.named(call.version)) is not None:
            version = named
        else:
            raise NotFoundError(f"version {call.version} is not served here", "version")
        query.check_fits(version.scorer.features)
        if call.explain and EXPLAIN not in version.scorer.bundle.manifest.files:
            raise ConflictError(f"version {version.name} was exported unfolded and cannot explain", "explain")
        return version

    async def _read_histories(self, queries: Sequence[Query], call: Call) -> list[History]:
        users = [query.user_id for query in queries if query.history is None]
        if not users:
            return [query.history for query in queries]
        started = time.perf_counter()
        read = iter(await self.history_reader.read(users))
        call.stages.history += time.perf_counter() - started
        return [query.history if query.history is not None else _history(next(read)) for query in queries]

    async def _score(self, job: Job, call: Call) -> None:
        """Score in the lane; where the mirror lacks items, get them and start again, once."""
        call.check_deadline()
        stages = call.stages
        stages.queue += await self._lane.run(job, call.deadline_s)
        if job.missing:
            assert self._hot_set is not None
            started = time.perf_counter()
            await self._hot_set.admit(job.version, job.missing)
            stages.history += time.perf_counter() - started
            job.may_miss, job.missing = False, set()
            stages.queue += await self._lane.run(job, call.deadline_s)
        stages.rows += job.rows_s
        stages.score += job.score_s
        call.cost_s += job.cost_s

    def _lacking(self, history: History, scored: Scored, lags: bool) -> tuple[str, ...]:
        items = ("items",) if scored.lacks_items or self._mirror.degraded or lags else ()
        return items if history is not None else ("history", *items)

    async def aclose(self) -> None:
        """End the scoring thread once it is idle, and whatever waits for Redis to come back."""
        await self._lane.aclose()
        await self.history_reader.aclose()


def _grouped(versions: Sequence[ServingVersion]) -> dict[ServingVersion, list[int]]:
    """Return the positions at which each version stands."""
    groups: defaultdict[ServingVersion, list[int]] = defaultdict(list)
    for position, version in enumerate(versions):
        groups[version].append(position)
    return groups


def _ranking(
    query: Query, version: ServingVersion, history: History, scored: Scored, degraded: tuple[str, ...]
) -> Ranking:
    """Return the answer to a query; a score that overflowed counts as 0, and the answer says so."""
    scores = scored.scores
    if not math.isfinite(scores.sum()):
        finite = np.isfinite(scores)
        num_lost = int(len(scores) - finite.sum())
        _log.warning("scores are not finite and count as 0", user_id=query.user_id, num_scores=num_lost)
        scores, degraded = np.where(finite, scores, np.float32(0)), (*degraded, "scores")
    used = _EMPTY if history is None else history[-version.scorer.features.history_length :]
    return Ranking(query, version.name, scores, scored.unknown, degraded, used, scored.levels, scored.weights)


def _history(history: bytes | None) -> History:
    try:
        return None if history is None else unpack_history(history)
    except CodecError:
        return None
