"""What a version must pass before it answers anybody: its AUC, and its scores on recent requests."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from contract.manifest import Manifest
from contract.wire import GateResult
from service.background import BackgroundScorer, background_thread
from service.errors import ConflictError
from service.items import batched
from service.recent import RecentRequest, RecentRequests, thinned
from service.serving import ServingVersion
from service.timed import REDIS_ERRORS

T = TypeVar("T")

_NUM_BINS = 10
_FEWEST_SCORES = 200
"""Of so many scores each, drawn by chance from one distribution, the stability index is 0.09 in the mean and below
0.21 in 99 of 100 cases; scores of the same requests differ by less than that."""
_MOST_SCORES = 512
"""Of so many it is 0.04 in the mean and below 0.09: more would cost those who ask meanwhile, and tell nothing."""
_LEAST_OF_EACH = 16
"""Candidates of a request that has more than can be scored: fewer would cost as much, for each user's history."""
_SCORED_AT_ONCE = 128
"""Candidates in one run: so few that a request which comes meanwhile waits for a moment, so many that what is around
a run costs little."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Some users' candidates that are scored together."""

    candidates: NDArray[np.int64]  # (U, N)
    histories: Sequence[NDArray[np.int64]]  # U times (k,)
    levels: NDArray[np.int64]  # (U, N, 2)


class PromotionGate:
    """Compares a loaded version with the one that serves.

    Parameters
    ----------
    recent
        The requests that both score.
    max_auc_drop, max_auc_drop_other_data
        How far the AUC in the manifest may lie below that of the serving version, where both were measured on the
        same clicks, and where they were not: one day is harder to tell than another.
    max_psi
        How far the distribution of scores may lie from that of the serving version; see `stability_index`.
    """

    def __init__(
        self, recent: RecentRequests, max_auc_drop: float, max_auc_drop_other_data: float, max_psi: float
    ) -> None:
        self._recent, self._max_psi = recent, max_psi
        self._max_auc_drop, self._max_auc_drop_other_data = max_auc_drop, max_auc_drop_other_data
        self._thread: ThreadPoolExecutor | None = None

    async def judge(self, version: ServingVersion, serving: ServingVersion, force: bool) -> GateResult:
        """Return what was found.

        Raises
        ------
        ConflictError
            The version does not pass, and is not forced through; the message has the figures.
        """
        manifest, serving_manifest = (each.scorer.bundle.manifest for each in (version, serving))
        auc, serving_auc = stated_auc(manifest), stated_auc(serving_manifest)
        requests: list[RecentRequest] = []
        with contextlib.suppress(*REDIS_ERRORS):
            # Those that `sampled_runs` keeps: the others are not even unpacked.
            requests = await self._recent.read(lambda lengths: evenly(lengths, _MOST_SCORES))
        runs = await self._in_thread(sampled_runs, requests, _MOST_SCORES) if requests else []
        scores, serving_scores = await self._score(version, serving, runs)
        psi = stability_index(serving_scores, scores) if len(scores) >= _FEWEST_SCORES else None
        reasons = [
            *self._auc_reasons(auc, serving_auc, have_same_data(manifest, serving_manifest)),
            *self._psi_reasons(psi),
        ]
        found = GateResult(
            passed=not reasons,
            forced=force,
            auc=auc,
            serving_auc=serving_auc,
            psi=psi,
            num_requests=sum(len(run.candidates) for run in runs),
            num_scores=len(scores),
            reasons=reasons,
            passed_over=_passed_over(auc, serving_auc, len(scores)),
        )
        _log.info("version judged", version=version.name, serving=serving.name, found=found)
        if reasons and not force:
            raise ConflictError(f"version {version.name} is held back: {'; '.join(reasons)}; force it to promote it")
        return found

    def close(self) -> None:
        """End the thread once it is idle."""
        if self._thread is not None:
            self._thread.shutdown()

    async def _score(
        self, version: ServingVersion, serving: ServingVersion, runs: Sequence[Run]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return (n,) all scores of either version; neither where there are too few to compare."""
        nothing = np.zeros(0, np.float32)
        if sum(run.candidates.size for run in runs) < _FEWEST_SCORES:
            return nothing, nothing
        return await self._in_thread(score_all, version, runs), await self._in_thread(score_all, serving, runs)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        if self._thread is None:
            self._thread = background_thread("gate")
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _auc_reasons(self, auc: float | None, serving_auc: float | None, same_data: bool) -> list[str]:
        name, most = "gate_max_auc_drop", self._max_auc_drop
        if not same_data:
            name, most = "gate_max_auc_drop_other_data", self._max_auc_drop_other_data
        if auc is None or serving_auc is None or auc >= serving_auc - most:
            return []
        return [
            f"its AUC is {auc:.4f}, {serving_auc - auc:.4f} below the serving version's {serving_auc:.4f} "
            f"({name} is {most:g})"
        ]

    def _psi_reasons(self, psi: float | None) -> list[str]:
        if psi is None or psi <= self._max_psi:
            return []
        return [f"its scores on recent requests lie elsewhere: PSI {psi:.3f} (gate_max_psi is {self._max_psi:g})"]


def have_same_data(one: Manifest, other: Manifest) -> bool:
    """Return whether two versions are known to have been trained and measured on the same clicks and items."""
    fingerprints = {one.provenance.data_fingerprint, other.provenance.data_fingerprint}
    return len(fingerprints) == 1 and None not in fingerprints


def stated_auc(manifest: Manifest) -> float | None:
    """Return the AUC that training measured, less what the bundle's precision costs."""
    auc, measured = manifest.provenance.auc, manifest.measured
    if auc is None or measured is None:
        return auc
    return auc + measured.auc - measured.auc_float32


def sampled_runs(requests: Sequence[RecentRequest], most: int) -> list[Run]:
    """Put requests of the same number of candidates into runs, about `most` candidates in all.

    Of large requests some candidates are left out, and where that is not enough some requests are, both evenly.
    """
    share = _share(len(requests), most)
    by_length: dict[int, list[RecentRequest]] = {}
    for i in evenly([len(each.candidates) for each in requests], most):
        request = thinned(requests[i], share)
        by_length.setdefault(len(request.candidates), []).append(request)
    return [
        Run(
            np.stack([each.candidates for each in some]),
            [each.history for each in some],
            np.stack([each.levels for each in some]),
        )
        for length, alike in by_length.items()
        for some in batched(alike, max(1, _SCORED_AT_ONCE // length))
    ]


def evenly(lengths: Sequence[int], most: int) -> list[int]:
    """Return the positions of requests with so many candidates each that go into runs of about `most` in all."""
    share = _share(len(lengths), most)
    num_candidates = sum(min(share, length) for length in lengths)
    count = math.ceil(len(lengths) * min(1.0, most / max(1, num_candidates)))
    return [i * len(lengths) // count for i in range(count)]


def _share(num_requests: int, most: int) -> int:
    """Return how many candidates of a request are scored, if it has more."""
    return max(_LEAST_OF_EACH, most // max(1, num_requests))


def score_all(version: ServingVersion, runs: Sequence[Run]) -> NDArray[np.float32]:
    """Return (n,) the scores of all candidates of all runs, one after the other."""
    scorer = BackgroundScorer(version, is_brief=True)
    return np.concatenate([scorer.score(run.candidates, run.histories, run.levels).ravel() for run in runs])


def stability_index(before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
    """Return the population stability index of scores: sum over bins of (q - p) ln(q / p).

    Bins are the deciles of `before`. By custom in credit scoring (Siddiqi, Credit Risk Scorecards, 2006) below 0.1 is
    no change worth mention, above 0.25 a large one. Half a score is added to every bin, so that none is empty.

    Parameters
    ----------
    before, after
        (n,) and (m,) scores.
    """
    edges = np.unique(np.quantile(before, np.linspace(0, 1, _NUM_BINS + 1)[1:-1]))
    p, q = (_shares(np.searchsorted(edges, scores, side="right"), len(edges) + 1) for scores in (before, after))
    return float(((q - p) * np.log(q / p)).sum())


def _shares(bins: NDArray[np.int64], num_bins: int) -> NDArray[np.float64]:
    counts = np.bincount(bins, minlength=num_bins) + 0.5
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _passed_over(auc: float | None, serving_auc: float | None, num_scores: int) -> list[str]:
    reasons = []
    if auc is None or serving_auc is None:
        reasons.append("auc: not in both manifests")
    if num_scores < _FEWEST_SCORES:
        reasons.append(f"scores: fewer than {_FEWEST_SCORES} candidates in recent requests")
    return reasons
