"""How the C library gives memory back: a service that swaps models for months must not grow."""

import _thread
import ctypes
import time
import weakref
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_LARGE = 2**20
_NUM_ARENAS = 2
_SOON_S = 0.1


def settle() -> None:
    """Let memory of tables and bundles go back to the system when it is freed; called before any thread is started.

    Left alone, glibc takes the first large block that is freed for a sign that such blocks had better be kept, and
    keeps them, in an arena for each thread that ever had one. Other C libraries are left as they are.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return
    mallopt(_ARENA_MAX, _NUM_ARENAS)
    mallopt(_MMAP_THRESHOLD, _LARGE)
    mallopt(_TRIM_THRESHOLD, _LARGE)


def give_back_after(owner: object) -> None:
    """Give the system the memory of what goes with `owner`, once nobody, such as a request in flight, holds that.

    What it refers to is freed after whoever waits for its end is told of it: hence a moment later.
    """
    weakref.finalize(owner, _give_back_soon).atexit = False


def _give_back_soon() -> None:
    # Whoever frees it, perhaps the event loop, does not wait for the thread to start, as a `threading.Thread` would.
    _thread.start_new_thread(_give_back_later, ())


def _give_back_later() -> None:
    time.sleep(_SOON_S)
    give_back()


def give_back() -> None:
    """Give the system what lies free between what is in use, as a model leaves behind; takes milliseconds."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """Return a function of glibc; None where the C library lacks it."""
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None
    return function
