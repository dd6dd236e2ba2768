"""What is counted of every ranking, for Prometheus, in microseconds."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.counters import SUMMED, process_name
from service.observers import Served
from service.score_counts import ScoreCounts
from service.stages import STAGES

if TYPE_CHECKING:
    from service.ranker import Ranking

SHED = ("candidates", "wait", "deadline", "expired")
DEGRADED = ("history", "items", "scores")

_WHOLE = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03),
    *(0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5),
)
_STAGE = (
    *(0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015),
    *(0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0),
)
_CANDIDATES = (1, 5, 10, 20, 50, 100, 200, 500, 1000, 1500, 2000, 3000, 4096, 10_000)


class RankMetrics:
    """An observer of every answer.

    Parameters
    ----------
    registry
        Of what all processes of a service count together.
    shared
        Where they count; None where there is but one process.
    """

    def __init__(self, registry: CollectorRegistry, shared: Path | None) -> None:
        self._seconds = Histogram(
            "qin_rank_seconds",
            "Time from a rank request's headers to its answer",
            registry=registry,
            buckets=_WHOLE,
        )
        stages = Histogram(
            "qin_rank_stage_seconds", "Time of a rank request by stage", ["stage"], registry=registry, buckets=_STAGE
        )
        self._stages = [(stage, stages.labels(stage)) for stage in STAGES]
        self._of_request = Histogram(
            "qin_request_candidates", "Candidates of a rank request", registry=registry, buckets=_CANDIDATES
        )
        self._candidates = Counter("qin_candidates", "Candidates ranked", registry=registry)
        self._unknown = Counter("qin_unknown_candidates", "Candidates that the catalogue lacks", registry=registry)
        degraded = Counter("qin_degraded", "Rank answers without something", ["reason"], registry=registry)
        self._degraded = {reason: degraded.labels(reason) for reason in DEGRADED}
        shed = Counter(
            "qin_shed",
            "Rank requests not ranked: too many candidates under way, too long a wait, too near a deadline, "
            "or a deadline that passed (expired)",
            ["reason"],
            registry=registry,
        )
        self._shed = {reason: shed.labels(reason) for reason in SHED}
        self._queued = Gauge(
            "qin_queued_candidates",
            "Candidates being ranked or waiting for it, in all processes",
            registry=registry,
            multiprocess_mode=SUMMED,
        )
        self._queued.set(0)
        self.scores = ScoreCounts(None if shared is None else shared / "scores", process_name())

    def note(self, served: Served) -> None:
        """Count an answer."""
        call, rankings = served.call, served.rankings
        self._seconds.observe(time.monotonic() - call.arrived_s)
        stages = call.stages
        for stage, histogram in self._stages:
            histogram.observe(getattr(stages, stage))
        num_candidates, num_unknown = 0, 0
        for ranking in rankings:
            num_candidates += len(ranking.scores)
            num_unknown += len(ranking.unknown_items)
            self.scores.count(ranking.version, ranking.scores)
        self._of_request.observe(num_candidates)
        self._candidates.inc(num_candidates)
        if num_unknown:
            self._unknown.inc(num_unknown)
        self._count_degraded(rankings)

    def shed(self, reason: str) -> None:
        """Count a request that is not ranked; the reasons are `SHED`."""
        self._shed[reason].inc()

    def queue(self, num_candidates: int) -> None:
        """Note how many candidates are under way in this process."""
        self._queued.set(num_candidates)

    def _count_degraded(self, rankings: "Sequence[Ranking]") -> None:
        for reason in {reason for ranking in rankings for reason in ranking.degraded}:
            self._degraded[reason].inc()
