"""Threads of low priority."""

import ctypes
import os
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from contract.bundle import read_bundle
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from service.background import BackgroundScorer, background_thread
from service.loader import opening_thread
from tests.fakes import make_bundle

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
_SLICE_AT = 24  # bytes into `struct sched_attr`


def slice_ns() -> int:
    """Return the slice of the calling thread; 0 where Linux has none of its own for each thread."""
    attributes = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(_SCHED_GETATTR[platform.machine()], 0, attributes, len(attributes), 0) == 0
    return int.from_bytes(attributes[_SLICE_AT : _SLICE_AT + 8], "little")


def priority(thread: ThreadPoolExecutor) -> int:
    """Return the niceness of an executor's thread."""
    return thread.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result()


def test_a_background_thread_yields_to_all_others():
    """It alone is nicer by ten, and its slice is longer than that of threads that ask for none, which preempt it."""
    with background_thread("some") as low, ThreadPoolExecutor(1) as other:
        usual = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        assert (priority(low), priority(other)) == (min(usual + 10, 19), usual)
        if platform.machine() not in _SCHED_GETATTR or not slice_ns():
            pytest.skip("this kernel has no slices to choose")
        assert low.submit(slice_ns).result() > slice_ns() == other.submit(slice_ns).result()


@pytest.mark.parametrize(("num_threads", "lower"), [(1, 10), (2, 0), (0, 0)])
def test_threads_of_a_session_are_not_started_from_a_background_thread(num_threads: int, lower: int):
    """Sessions that start threads are opened at the priority that those are to have, others in the background."""
    usual = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with opening_thread(num_threads) as thread:
        assert priority(thread) == min(usual + lower, 19)


@pytest.mark.parametrize(
    ("num_threads", "is_brief", "shares"),
    [(1, False, True), (2, False, False), (2, True, True), (4, True, True), (5, True, False), (0, True, False)],
)
def test_the_own_session_scores_briefly_where_it_has_few_threads(
    tmp_path: Path, num_threads: int, is_brief: bool, shares: bool
) -> None:
    """Elsewhere another one is opened, whose runs take one thread."""
    scorer = Scorer(read_bundle(make_bundle(tmp_path)), "cpu", num_threads)
    version = SimpleNamespace(name="v", scorer=scorer, rows=ItemRows(scorer))
    background = BackgroundScorer(version, is_brief=is_brief)
    assert (background._scorer is scorer) == shares
    assert shares or background._scorer.num_threads == 1
