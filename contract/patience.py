"""Calls that may hang, each given up after a time."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_BYTES_A_SECOND = 2**20
"""What a store at least moves: a call that moves more bytes may take longer."""
_NOT_ASKED_AGAIN_S = 5.0
_MOST_HANGING = 8


class ImpatientError(Exception):
    """A call took too long, or was not made because one before it did a moment ago."""


class Patience:
    """Makes calls in threads of their own and waits for them, but not for ever.

    A thread that hangs in a library cannot be ended: it is left behind. So that they stay few, nothing is called for
    a moment after one hung, nor while many hang.

    Parameters
    ----------
    timeout_s
        How long a call may take that moves no bytes.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._num_hanging = 0
        self._ask_again = 0.0

    def call(self, function: Callable[[], T], num_bytes: int = 0) -> T:
        """Return what a function returns, and raise what it raises.

        Parameters
        ----------
        num_bytes
            What it moves.

        Raises
        ------
        ImpatientError
            It did not return in time.
        """
        with self._lock:
            if time.monotonic() < self._ask_again or self._num_hanging >= _MOST_HANGING:
                raise ImpatientError("it did not answer a moment ago")
        future: Future[T] = Future()
        threading.Thread(target=_run, args=(function, future), name="store", daemon=True).start()
        timeout_s = self._timeout_s + num_bytes / _BYTES_A_SECOND
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.done():  # the function's own
                raise
            with self._lock:
                self._ask_again = time.monotonic() + _NOT_ASKED_AGAIN_S
                self._num_hanging += 1
            future.add_done_callback(self._came_back)
            raise ImpatientError(f"it did not answer within {timeout_s:.3g} s") from None

    def _came_back(self, _future: "Future[T]") -> None:
        with self._lock:
            self._num_hanging -= 1


def _run(function: Callable[[], T], future: "Future[T]") -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
