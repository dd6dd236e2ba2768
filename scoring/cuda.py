"""NVIDIA's GPUs: memory, copies and graphs by the CUDA runtime.

Runs are captured here rather than by ONNX Runtime. Its own graphs (`gpu_graph_id`) belong to the thread that recorded
them: what a version's warm-up recorded could not be replayed by the thread that scores. They are recorded in a mode
in which an allocation by any other thread fails, and every replay goes through the session. A graph of ours holds the
copies in and out too, and any thread replays it with one launch. It asks of the session that runs go to the stream
that is recorded, allocate nothing (they were made before), synchronise nothing, and that every node runs on the GPU,
which ONNX Runtime checks where `enable_cuda_graph` is set.

While a stream records other threads may allocate, copy and run. What waits for the whole device, as cuBLAS does when
a session is freed and ONNX Runtime may when one is opened, fails meanwhile and spoils the recording, which is then
made again.
"""

import contextlib
import ctypes
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scoring.accelerator import Provider
from scoring.cudart import DEVICE_TO_DEVICE, DEVICE_TO_HOST, HOST_TO_DEVICE, CudaRuntime

CUDA = "CUDAExecutionProvider"
_MOST_CAPTURES = 3


class CudaMemory:
    """Memory of the device."""

    def __init__(self, runtime: CudaRuntime, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.address = runtime.allocated(max(num_bytes, 1))
        weakref.finalize(self, runtime.forget, "cudaFree", self.address).atexit = False


class CudaGraph:
    """What a stream recorded; a call launches it and waits until it ran."""

    def __init__(self, runtime: CudaRuntime, stream: "CudaStream", graph: int) -> None:
        self._runtime, self._stream, self._graph, self._handle = runtime, stream, graph, stream.handle
        self._launch, self._synchronize = runtime.launch, runtime.synchronize
        weakref.finalize(self, runtime.forget, "cudaGraphExecDestroy", graph).atexit = False

    def __call__(self) -> None:
        """Launch it and wait; raises DeviceError."""
        code = self._launch(self._graph, self._handle) or self._synchronize(self._handle)
        if code:
            self._runtime.check(code, "cudaGraphLaunch")

    def span_us(self, times: int) -> float:
        """Return what one launch takes on the device, of so many that follow each other without a gap."""
        return (
            self._runtime.span_ms(self._handle, lambda: self._launch(self._graph, self._handle), times) * 1e3 / times
        )


class CudaStream:
    """A stream of the CUDA runtime; its handle outlives it, for a session may outlive it."""

    def __init__(self, runtime: CudaRuntime, idle: "deque[int]") -> None:
        self._runtime = runtime
        try:
            self.handle = idle.popleft()
        except IndexError:
            self.handle = runtime.new_stream()
        weakref.finalize(self, idle.append, self.handle).atexit = False

    def span_us(self, work: Callable[[], object]) -> float:
        """Return for how long some work keeps the stream."""
        return self._runtime.span_ms(self.handle, work) * 1e3

    def provider(self, memory_limit: int, for_capture: bool) -> Provider:
        """Return what makes a session run in this stream; see `Stream`."""
        options = {
            "device_id": "0",
            "has_user_compute_stream": "1",
            "user_compute_stream": str(self.handle),
            "enable_cuda_graph": "1" if for_capture else "0",
            "gpu_mem_limit": str(memory_limit),
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "0",  # what a bundle rounds is said in the bundle
        }
        return CUDA, options

    def copy_in(self, target: int, source: int, num_bytes: int) -> None:
        """Enqueue a copy to the device."""
        self._copy(target, source, num_bytes, HOST_TO_DEVICE)

    def copy_out(self, target: int, source: int, num_bytes: int) -> None:
        """Enqueue a copy from the device."""
        self._copy(target, source, num_bytes, DEVICE_TO_HOST)

    def copy_within(self, target: int, source: int, num_bytes: int) -> None:
        """Enqueue a copy from one place on the device to another."""
        self._copy(target, source, num_bytes, DEVICE_TO_DEVICE)

    def wait(self) -> None:
        """Return once all that was enqueued is done."""
        self._runtime.check(self._runtime.synchronize(self.handle), "cudaStreamSynchronize")

    def capture(self, work: Callable[[], object]) -> CudaGraph:
        """Record what `work` enqueues; see `Stream`. What another thread may have spoilt is tried three times."""
        for _ in range(_MOST_CAPTURES - 1):
            with contextlib.suppress(Exception):
                return self._captured(work)
        return self._captured(work)

    def _captured(self, work: Callable[[], object]) -> CudaGraph:
        self._runtime.begin_capture(self.handle)
        try:
            work()
        except BaseException:
            self._runtime.abandon_capture(self.handle)
            raise
        return CudaGraph(self._runtime, self, self._runtime.end_capture(self.handle))

    def _copy(self, target: int, source: int, num_bytes: int, direction: int) -> None:
        self._runtime.call("cudaMemcpyAsync", target, source, num_bytes, direction, self.handle)


class CudaAccelerator:
    """The GPU of this process. Made after the process forked, if it does; raises DeviceError."""

    kind = "cuda"

    def __init__(self, runtime: CudaRuntime | None = None) -> None:
        self.runtime = runtime or CudaRuntime()
        self._idle: deque[int] = deque()
        self._zeroing = self.runtime.new_stream()

    def allocate(self, num_bytes: int) -> CudaMemory:
        """Return memory of the device, filled with zeros."""
        memory = CudaMemory(self.runtime, num_bytes)
        self.runtime.call("cudaMemsetAsync", memory.address, 0, num_bytes, self._zeroing)
        self.runtime.call("cudaStreamSynchronize", self._zeroing)
        return memory

    def page_locked(self, num_bytes: int) -> NDArray[np.uint8]:
        """Return memory of the host that the device reads and writes itself, freed with the last array over it."""
        address = self.runtime.page_locked(max(num_bytes, 1))
        buffer = (ctypes.c_uint8 * max(num_bytes, 1)).from_address(address)
        weakref.finalize(buffer, self.runtime.forget, "cudaFreeHost", address).atexit = False
        locked: NDArray[np.uint8] = np.frombuffer(memoryview(buffer).cast("B"), dtype=np.uint8)[:num_bytes]
        return locked

    def free_bytes(self) -> int:
        """Return how much memory of the device nobody has taken."""
        return self.runtime.free_bytes()

    def copies(self) -> CudaStream:
        """Return a queue for copies."""
        return CudaStream(self.runtime, self._idle)

    def stream(self) -> CudaStream:
        """Return a queue for a session."""
        return CudaStream(self.runtime, self._idle)
