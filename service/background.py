"""Work that nobody waits for, such as scoring, at a priority that yields to requests."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from contract.bundle import BundleError
from scoring.device import CPU
from scoring.scorer import Scorer
from service.serving import ServingVersion

_NICENESS = 10
"""Added to that of the process: low enough a priority to yield the cores to requests, high enough not to starve while
it holds the interpreter's lock."""
_NICEST = 19
_FEW_THREADS = 4
"""So few that the kernels give each a block of candidates; more would share one, and wait for the slowest."""
_SLICE_NS = 10_000_000
"""Longer than any thread's that asks for none, so that each of those takes the core as soon as it wakes. Without it
Linux lets a thread that runs, however low its priority, go on until its slice of some milliseconds ends."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The number of the system call: most C libraries have no function for it."""


class _SchedAttr(ctypes.Structure):
    """`struct sched_attr` of Linux."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


def lower_priority() -> None:
    """Let the thread that calls this, and those that it starts, yield to all others."""
    niceness = min(os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS, _NICEST)
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    _lengthen_slice(niceness)


def _lengthen_slice(niceness: int) -> None:
    """Ask for a long slice, which Linux has granted since 6.12; elsewhere nothing changes."""
    if (number := _SCHED_SETATTR.get(platform.machine())) and platform.system() == "Linux":
        size = ctypes.sizeof(_SchedAttr)
        wanted = _SchedAttr(size=size, sched_policy=os.SCHED_OTHER, sched_nice=niceness, sched_runtime=_SLICE_NS)
        ctypes.CDLL(None).syscall(number, 0, ctypes.byref(wanted), 0)


def background_thread(name: str) -> ThreadPoolExecutor:
    """Return an executor of one thread of low priority."""
    return ThreadPoolExecutor(1, name, initializer=lower_priority)


class BackgroundScorer:
    """Scores with a version beside those who answer with it, whose threads run at a priority of their own.

    To be made and used in a thread of low priority: its session runs in that thread alone. The version's own session
    is used where that does so too, on a GPU, or where the bundle is not in the store any more.

    Parameters
    ----------
    version
        A loaded version; its tables are read, not copied.
    is_brief
        Use the version's own session where its runs take few threads: on few cores opening another one costs those
        who ask meanwhile more than some short runs do. Many threads would wait for this one of lower priority.
    """

    def __init__(self, version: ServingVersion, *, is_brief: bool = False) -> None:
        self.name = version.name
        self._rows = version.rows
        self._scorer = version.scorer
        most_threads = _FEW_THREADS if is_brief else 1
        if self._scorer.provider == CPU and not 1 <= self._scorer.num_threads <= most_threads:
            with contextlib.suppress(BundleError):
                self._scorer = Scorer(self._scorer.bundle, "cpu", 1, encodes=False)

    def score(
        self, candidates: NDArray[np.int64], histories: Sequence[NDArray[np.int64]], levels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return (U, N) the scores of some users' candidates as they would be answered now.

        Parameters
        ----------
        candidates
            (U, N) item ids.
        histories
            (k,) item ids of each user, oldest first.
        levels
            (U, N, 2) likes and views level of each candidate; one that the model does not have counts as 0.
        """
        features = self._scorer.features
        known = np.where(levels < (features.num_likes_levels, features.num_views_levels), levels, 0)
        with self._rows.view() as view:
            rows, history_rows = view.rows(candidates), view.history_rows(histories)
            scores = self._scorer.score(view.tables, rows, history_rows, known)
        finite: NDArray[np.float32] = np.where(np.isfinite(scores), scores, np.float32(0))
        return finite
