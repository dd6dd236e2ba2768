"""What the processor's arithmetic gives at most, measured: the bound of every kernel."""

import ctypes
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from kernels.compiler import KernelBuildError, find_compiler

_SOURCE = Path(__file__).with_name("peak.cpp")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")


class Peak:
    """Multiplies and adds float32 numbers in registers, on several threads at once.

    Parameters
    ----------
    library
        As `measuring_peak` compiles it.
    threads
        An idle pool.
    num_threads
        How many of its threads share the work.
    """

    def __init__(self, library: ctypes.CDLL, threads: ThreadPoolExecutor, num_threads: int) -> None:
        library.multiply_adds_of_a_round.restype = ctypes.c_size_t
        library.multiply_and_add.argtypes = [ctypes.c_size_t]
        library.multiply_and_add.restype = ctypes.c_float
        self._library, self._threads, self._num_threads = library, threads, num_threads

    def run(self, num_multiply_adds: float) -> None:
        """Do at least so many."""
        rounds = int(num_multiply_adds / self._num_threads / self._library.multiply_adds_of_a_round()) + 1
        # ctypes lets go of the interpreter's lock for the length of a call.
        list(self._threads.map(self._library.multiply_and_add, [rounds] * self._num_threads))


@contextmanager
def measuring_peak(folder: Path, num_threads: int) -> Iterator[Peak | None]:
    """Compile the measurement for this very processor; None where no compiler can. 0 threads are one per core."""
    num_threads = num_threads or os.cpu_count() or 1
    try:
        done = find_compiler().run(*_FLAGS, _SOURCE, "-o", folder / "peak.so")
    except KernelBuildError:
        yield None
        return
    if done.returncode != 0:
        yield None
        return
    with ThreadPoolExecutor(num_threads) as threads:
        yield Peak(ctypes.CDLL(str(folder / "peak.so")), threads, num_threads)
