"""Scoring, in the scoring thread: queries and histories in, scores out."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scoring.scorer import Scorer
from scoring.views import View
from service.batch import Batch, assemble, plan_runs
from service.query import Query
from service.serving import HotItems, ServingVersion

History = NDArray[np.int64] | None
"""A user's last item ids, or None where they could not be read."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What comes out for one query."""

    scores: NDArray[np.float32]  # (N,)
    unknown: NDArray[np.int64]  # positions of candidates
    levels: NDArray[np.int64]  # (N, 2) as used
    lacks_items: bool
    weights: NDArray[np.float32] | None  # (N, H)


@dataclass(slots=True, eq=False)
class Job:
    """Queries to score with one version, and then what came of it.

    Attributes
    ----------
    explain
        Whether attention weights are wanted too.
    may_miss
        Whether to stop before scoring where the mirror lacks items; `missing` are those then.
    scored
        One for each query, unless items are missing.
    rows_s, score_s
        Seconds that looking up ids and running the model took, of all jobs that were scored together.
    cost_s
        This job's share of both, by candidates.
    """

    version: ServingVersion
    queries: Sequence[Query]
    histories: Sequence[History]
    explain: bool = False
    may_miss: bool = True
    scored: list[Scored] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)
    rows_s: float = 0.0
    score_s: float = 0.0
    cost_s: float = 0.0

    @property
    def num_candidates(self) -> int:
        """Of all queries."""
        return sum(query.num_candidates for query in self.queries)


def score(jobs: Sequence[Job], hot_set: HotItems | None) -> None:
    """Score jobs of one version together, in as few runs as pay, and note in each what came of it.

    The view of the catalogue is held for as long as the runs. Jobs that may miss items are scored alone.
    """
    version, explain = jobs[0].version, jobs[0].explain
    queries = [query for job in jobs for query in job.queries]
    histories = [history for job in jobs for history in job.histories]
    scored: dict[int, Scored] = {}
    started = time.perf_counter()
    with version.rows.view() as view:
        runs = plan_runs([query.num_candidates for query in queries])
        batches = [assemble(view, [queries[u] for u in run], [histories[u] for u in run]) for run in runs]
        missing = [hot_set.missing(version, batch) if hot_set else {} for batch in batches]
        looked_up = time.perf_counter()
        if jobs[0].may_miss and any(missing):
            jobs[0].missing = set[int]().union(*itertools.chain.from_iterable(users.values() for users in missing))
        else:
            for run, batch, users in zip(runs, batches, missing, strict=True):
                outputs = _run(version.scorer, view, batch, explain)
                for row, u in enumerate(run):
                    scored[u] = _scored(outputs, batch, row, queries[u].num_candidates, row in users)
    ended = time.perf_counter()
    position, num_candidates = itertools.count(), sum(job.num_candidates for job in jobs)
    for job in jobs:
        job.rows_s, job.score_s = looked_up - started, ended - looked_up
        job.cost_s = (ended - started) * job.num_candidates / num_candidates
        job.scored = [scored[next(position)] for _ in job.queries] if scored else []


def _run(
    scorer: Scorer, view: View, batch: Batch, explain: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return (U, N) scores and, if they are wanted, (U, N, H) weights."""
    inputs = view.tables, batch.candidate_rows, batch.history_rows, batch.levels
    return scorer.score(*inputs), scorer.explain(*inputs) if explain else None


def _scored(
    outputs: tuple[NDArray[np.float32], NDArray[np.float32] | None], batch: Batch, row: int, n: int, lacks_items: bool
) -> Scored:
    scores, weights = outputs
    unknown = np.flatnonzero(batch.candidate_rows[row, :n] == 0)
    of_user = None if weights is None else weights[row, :n]
    return Scored(scores[row, :n], unknown, batch.levels[row, :n], lacks_items, of_user)
