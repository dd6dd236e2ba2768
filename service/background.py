"""Scoring that nobody waits for: on one core, at a priority that yields to requests."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from contract.bundle import BundleError
from scoring.device import CPU
from scoring.scorer import Scorer
from scoring.views import View
from service.serving import ServingVersion

_NICENESS = 10
"""Added to that of the process: low enough a priority to yield the cores to requests, high enough not to starve while
it holds the interpreter's lock."""
_NICEST = 19


def lower_priority() -> None:
    """Let the thread that calls this, and those that it starts, yield to all others."""
    os.setpriority(os.PRIO_PROCESS, 0, min(os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS, _NICEST))


def background_thread(name: str) -> ThreadPoolExecutor:
    """Return an executor of one thread of low priority."""
    return ThreadPoolExecutor(1, name, initializer=lower_priority)


class BackgroundScorer:
    """Scores with a version beside those who answer with it, whose threads run at a priority of their own.

    To be made and used in a thread of low priority: its session runs in that thread alone. On a GPU, or where the
    bundle is not in the store any more, the version's own session is used.

    Parameters
    ----------
    version
        A loaded version; its tables are read, not copied.
    """

    def __init__(self, version: ServingVersion) -> None:
        self.name = version.name
        self._rows = version.rows
        self._scorer = version.scorer
        if self._scorer.provider == CPU:
            with contextlib.suppress(BundleError):
                self._scorer = Scorer(self._scorer.bundle, "cpu", 1, encodes=False)

    def score(
        self, candidates: NDArray[np.int64], history: NDArray[np.int64], levels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return (N,) the scores of a user's candidates as they would be answered now.

        Parameters
        ----------
        candidates, history
            (N,) and (k,) item ids; the history oldest first.
        levels
            (N, 2) likes and views level of each candidate; one that the model does not have counts as 0.
        """
        with self._rows.view() as view:
            return self._score(view, candidates, history, levels)

    def _score(
        self, view: View, candidates: NDArray[np.int64], history: NDArray[np.int64], levels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        features = self._scorer.features
        known = np.where(levels < (features.num_likes_levels, features.num_views_levels), levels, 0)
        rows, history_rows = view.rows(candidates), view.history_rows(history)
        scores = self._scorer.score(view.tables, rows[None], history_rows[None], known[None])[0]
        finite: NDArray[np.float32] = np.where(np.isfinite(scores), scores, np.float32(0))
        return finite
