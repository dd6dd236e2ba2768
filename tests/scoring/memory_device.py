"""A device in the host's memory: the same buckets, slots, bindings and copies as on a GPU, over ONNX Runtime's CPU.

It is as unforgiving as a GPU where that can be had: copies to tables are made when somebody waits for them and not
before, memory that was freed is overwritten, and while a queue records nobody may wait for it.
"""

import ctypes
import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scoring.accelerator import Provider
from scoring.buckets import Buckets
from scoring.budget import MemoryBudget
from scoring.errors import DeviceError
from scoring.gpu import Gpu

SMALL = Buckets(candidates=(1, 4, 16), users=(1, 2, 4), most_rows=32)


class HostMemory:
    """Memory that is spoilt when it is freed."""

    def __init__(self, device: "MemoryDevice", num_bytes: int) -> None:
        array = np.zeros(num_bytes + 256, dtype=np.uint8)
        self.address = -(-array.ctypes.data // 256) * 256
        self.num_bytes = num_bytes
        weakref.finalize(self, device._free, array, num_bytes)


class HostQueue:
    """Copies that wait until somebody waits for them, or that are made at once."""

    def __init__(self, device: "MemoryDevice", at_once: bool) -> None:
        self._device, self._at_once = device, at_once
        self._enqueued: list[tuple[int, int, int]] = []
        self._records = False

    def copy_in(self, target: int, source: int, num_bytes: int) -> None:
        """Note a copy, and make it if copies are made at once."""
        if self._at_once and self._device.errors:
            raise self._device.errors.pop(0)
        self._device.num_copies += 1
        self._enqueued.append((target, source, num_bytes))
        if self._at_once:
            self._flush()

    copy_out = copy_within = copy_in

    def wait(self) -> None:
        """Make what copies there are."""
        assert not self._records, "a queue that records was waited for"
        if self._device.broken:
            raise DeviceError("the GPU failed: an illegal memory access was encountered")
        self._flush()

    def _flush(self) -> None:
        for target, source, num_bytes in self._enqueued:
            ctypes.memmove(target, source, num_bytes)
        self._enqueued.clear()

    def provider(self, memory_limit: int, for_capture: bool) -> Provider:  # noqa: ARG002
        """Return the CPU's provider: it computes at once."""
        self._device.memory_limits.append(memory_limit)
        return "CPUExecutionProvider", {}

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Do the work, for ONNX Runtime's CPU records nothing, and return what does it again."""
        self._records = True
        try:
            work()
        finally:
            self._records = False
        self._device.num_captures += 1

        def replay() -> None:
            self._device.num_replays += 1
            if self._device.broken:
                raise RuntimeError("an illegal memory access was encountered")
            if self._device.forgets:
                return
            work()

        return replay


class MemoryDevice:
    """The device.

    `broken` lets every replay and every wait fail, `forgets` lets replays do nothing; each of `errors` fails one run.
    """

    kind = "cpu"

    def __init__(self, num_bytes: int = 2**30) -> None:
        self.num_bytes, self.allocated = num_bytes, 0
        self.num_copies = self.num_captures = self.num_replays = 0
        self.memory_limits: list[int] = []
        self.broken = self.forgets = False
        self.errors: list[Exception] = []

    def allocate(self, num_bytes: int) -> HostMemory:
        """Return zeros."""
        self.allocated += num_bytes
        return HostMemory(self, num_bytes)

    def page_locked(self, num_bytes: int) -> NDArray[np.uint8]:
        """Return zeros that are the host's alone."""
        return np.zeros(num_bytes, dtype=np.uint8)

    def free_bytes(self) -> int:
        """Return what is not allocated."""
        return self.num_bytes - self.allocated

    def copies(self) -> HostQueue:
        """Return a queue that makes copies when it is waited for."""
        return HostQueue(self, at_once=False)

    def stream(self) -> HostQueue:
        """Return a queue that makes copies at once, as the session beside it runs at once."""
        return HostQueue(self, at_once=True)

    def _free(self, array: NDArray[np.uint8], num_bytes: int) -> None:
        array[:] = 0xFF
        self.allocated -= num_bytes


def memory_gpu(
    device: MemoryDevice | None = None, num_bytes: int = 2**30, buckets: Buckets = SMALL, graphs: bool = True
) -> Gpu:
    """Return such a device as scorers take it, with so much of its memory for them."""
    device = MemoryDevice() if device is None else device
    return Gpu(device, MemoryBudget(num_bytes, device.free_bytes), buckets, graphs)
