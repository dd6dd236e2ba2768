"""Rows on their way to tables on a device."""

import threading

import numpy as np
from numpy.typing import NDArray

from scoring.accelerator import Accelerator

_STAGED_BYTES = 8 * 2**20


class Uploads:
    """Writes rows of tables on a device, beside the runs that read other rows of them.

    Rows go through page-locked memory, from where the device fetches them itself, in a queue of their own. Each
    stretch of adjacent rows is one copy: filling a catalogue takes one for every few thousand rows, an update of
    scattered ones one for each, at a few microseconds, in the thread that follows the catalogue. ONNX Runtime's
    `update_inplace` copies whole tables, and its `ScatterND` makes new ones.

    Parameters
    ----------
    accelerator
        The device.
    num_bytes
        Of page-locked memory; a longer row is too long.
    """

    def __init__(self, accelerator: Accelerator, num_bytes: int = _STAGED_BYTES) -> None:
        self._copies = accelerator.copies()
        self._staged = accelerator.page_locked(num_bytes)
        self._address: int = self._staged.ctypes.data
        self._lock = threading.Lock()

    def write(self, address: int, rows: NDArray[np.int64], values: NDArray[np.generic]) -> None:
        """Return once `values` (n, width) are in the given (n,) rows of a table at an address."""
        order = np.argsort(rows, kind="stable")
        row_bytes = values.shape[1] * values.dtype.itemsize
        at_once = len(self._staged) // row_bytes
        assert at_once >= 1
        with self._lock:
            for start in range(0, len(rows), at_once):
                part = order[start : start + at_once]
                staged = self._staged[: len(part) * row_bytes].view(values.dtype)
                np.take(values, part, axis=0, out=staged.reshape(len(part), -1))
                self._enqueue(address, rows[part], row_bytes)
                self._copies.wait()

    def copy_within(self, target: int, source: int, num_bytes: int) -> None:
        """Return once one stretch of the device's memory is copied to another."""
        with self._lock:
            self._copies.copy_within(target, source, num_bytes)
            self._copies.wait()

    def read(self, address: int, shape: tuple[int, int], dtype: str) -> NDArray[np.generic]:
        """Return what a table at an address holds."""
        values = np.zeros(shape, dtype)
        with self._lock:
            self._copies.copy_out(values.ctypes.data, address, values.nbytes)
            self._copies.wait()
        return values

    def _enqueue(self, address: int, rows: NDArray[np.int64], row_bytes: int) -> None:
        """Enqueue the staged rows, which ascend, a stretch of adjacent ones at a time."""
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for first, after in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            target = address + int(rows[first]) * row_bytes
            self._copies.copy_in(target, self._address + first * row_bytes, (after - first) * row_bytes)
