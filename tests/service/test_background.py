"""Threads of low priority."""

import ctypes
import os
import platform
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.background import background_thread
from service.loader import opening_thread

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
