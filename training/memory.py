"""Memory that a training process keeps, so that each step need not get it from the system again."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for what is allocated next; return whether it can.

    By default glibc takes each block of more than 32 MiB from the system and gives it back when it is freed, and the
    system fills it with zeros, page by page, every time: of a step at the paper's size that was two thirds. The
    process now never shrinks. Nothing is changed where the C library is another.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
