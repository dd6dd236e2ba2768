"""What each version has done in this process, as Triton's statistics extension counts it."""

import time
from dataclasses import dataclass

from prometheus_client import Counter

from contract import inference as wire
from service.observers import Served


@dataclass(slots=True)
class _Sums:
    """Of one version; durations in seconds."""

    last_ms: int = 0
    num_users: int = 0
    num_requests: int = 0
    total: float = 0.0
    queue: float = 0.0
    prepare: float = 0.0
    score: float = 0.0
    encode: float = 0.0


class VersionStatistics:
    """Counts answers by version; an observer of the replica's answers.

    Parameters
    ----------
    requests
        Counts all requests by route and status.
    """

    def __init__(self, requests: Counter) -> None:
        self._requests = requests
        self._sums: dict[str, _Sums] = {}

    def note(self, served: Served) -> None:
        """Count an answer; a request that several versions answered counts, with all its time, for each."""
        now_ms, stages = time.time_ns() // 1_000_000, served.call.stages
        for version in {ranking.version for ranking in served.rankings}:
            sums = self._sums.get(version)
            if sums is None:
                sums = self._sums[version] = _Sums()
            sums.last_ms = now_ms
            sums.num_requests += 1
            sums.total += stages.total
            sums.queue += stages.queue
            sums.prepare += stages.parse + stages.history + stages.rows
            sums.score += stages.score
            sums.encode += stages.encode
        for ranking in served.rankings:
            self._sums[ranking.version].num_users += 1

    def of(self, model: str, version: str, *, serves: bool) -> wire.ModelStatistics:
        """Return what a version did; what failed had no version yet, and counts for the one that serves."""
        sums = self._sums.get(version, _Sums())

        def duration(seconds: float) -> wire.DurationStatistic:
            return wire.DurationStatistic(sums.num_requests, round(seconds * 1e9))

        nothing = wire.DurationStatistic(0, 0)
        return wire.ModelStatistics(
            name=model,
            version=version,
            last_inference=sums.last_ms,
            inference_count=sums.num_users,
            execution_count=sums.num_requests,
            inference_stats=wire.InferStatistics(
                success=duration(sums.total),
                fail=wire.DurationStatistic(self._num_failed() if serves else 0, 0),
                queue=duration(sums.queue),
                compute_input=duration(sums.prepare),
                compute_infer=duration(sums.score),
                compute_output=duration(sums.encode),
                cache_hit=nothing,
                cache_miss=nothing,
            ),
            batch_stats=[],
        )

    def _num_failed(self) -> int:
        """Return how many requests to rank failed for a reason that lies here."""
        samples = [sample for metric in self._requests.collect() for sample in metric.samples]
        return round(
            sum(
                sample.value
                for sample in samples
                if sample.name.endswith("_total")
                and sample.labels["status"] >= "500"
                and sample.labels["route"].endswith(("/rank", "/infer"))
            )
        )
