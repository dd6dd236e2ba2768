"""The functions of the CUDA runtime that scoring calls: ctypes on the library that ONNX Runtime itself runs by.

It needs neither a toolkit nor a package of bindings, and nothing is loaded before the first `CudaRuntime`.
"""

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

import onnxruntime as ort

from scoring.errors import DeviceError, DeviceMemoryError

HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3
_NON_BLOCKING = 1
_CAPTURE_RELAXED = 2
_PORTABLE = 1
_NO_MEMORY = 2
_LASTING = frozenset({214, 220, 226, 700, 702, 710, *range(714, 720), 721, 911, 999})
"""Codes that every later call returns too: an error in a kernel, in the memory or in the connection to the GPU."""

_FUNCTIONS = {
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMemsetAsync": (c_void_p, c_int, c_size_t, c_void_p),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cudaGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaEventCreate": (POINTER(c_void_p),),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventDestroy": (c_void_p,),
    "cudaEventElapsedTime": (POINTER(ctypes.c_float), c_void_p, c_void_p),
    "cudaGetLastError": (),
}


class CudaRuntime:
    """The CUDA runtime of this process, on the first device that CUDA_VISIBLE_DEVICES leaves.

    Parameters
    ----------
    library
        Where it lies; None: the one that ONNX Runtime loads, of its own version of CUDA.

    Raises
    ------
    DeviceError
        The library is not there, or a call of it fails.
    """

    def __init__(self, library: str | None = None) -> None:
        name = library or _library_of_onnxruntime()
        try:
            self._library = ctypes.CDLL(name)
            # A launch takes microseconds: less than it takes to give the interpreter's lock up and get it back.
            self.launch = ctypes.PyDLL(name).cudaGraphLaunch
            self._function("cudaGraphLaunch", self.launch)
            for function in _FUNCTIONS:
                self._function(function, getattr(self._library, function))
            self._library.cudaGetErrorString.argtypes, self._library.cudaGetErrorString.restype = [c_int], c_char_p
        except (OSError, AttributeError) as error:
            raise DeviceError(f"{error}; pip install 'qin-ranker[cuda]' brings it") from error
        self.synchronize = self._library.cudaStreamSynchronize

    def call(self, function: str, *arguments: object) -> None:
        """Call a function; raises DeviceError where it does not succeed."""
        self.check(getattr(self._library, function)(*arguments), function)

    def check(self, code: int, function: str) -> None:
        """Raise DeviceError unless `function` returned success."""
        if code:
            self._clear()
            reason = self._library.cudaGetErrorString(code).decode()
            raise DeviceError(f"the GPU failed: {function}: {reason} ({code})", lasting=code in _LASTING)

    def made(self, function: str, *arguments: object) -> int:
        """Call a function that puts a handle or an address into its first argument, and return that."""
        handle = c_void_p()
        self.call(function, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def forget(self, function: str, handle: int) -> None:
        """Call a function that frees something; at the process's end the driver may be gone already."""
        if getattr(self._library, function)(handle):
            self._clear()

    def allocated(self, num_bytes: int) -> int:
        """Return the address of memory of the device; raises DeviceMemoryError where it has not so much."""
        address = c_void_p()
        code = self._library.cudaMalloc(ctypes.byref(address), num_bytes)
        if code == _NO_MEMORY:
            self._clear()
            raise DeviceMemoryError(
                "arrays", num_bytes, self.free_bytes(), "is free on the device, perhaps in pieces"
            )
        self.check(code, "cudaMalloc")
        return address.value or 0

    def free_bytes(self) -> int:
        """Return the device's free memory."""
        free, total = c_size_t(), c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def new_stream(self) -> int:
        """Return a stream that waits for no other."""
        return self.made("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def page_locked(self, num_bytes: int) -> int:
        """Return the address of page-locked memory."""
        return self.made("cudaHostAlloc", num_bytes, _PORTABLE)

    def begin_capture(self, stream: int) -> None:
        """Record what is enqueued; other streams, and whatever this thread does with them, are left alone."""
        self.call("cudaStreamBeginCapture", stream, _CAPTURE_RELAXED)

    def end_capture(self, stream: int) -> int:
        """Return what was recorded, as a graph that can be launched."""
        graph = c_void_p()
        self.call("cudaStreamEndCapture", stream, ctypes.byref(graph))
        try:
            return self.made("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)

    def abandon_capture(self, stream: int) -> None:
        """Stop recording; what was recorded, and what the runtime says of a recording that failed, is dropped."""
        graph = c_void_p()
        self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
        if graph:
            self._library.cudaGraphDestroy(graph)
        self._clear()

    def span_ms(self, stream: int, work: Callable[[], object], times: int = 1) -> float:
        """Do some work so often, and return for how long that kept a stream, by the device's own clock."""
        start, end = self.made("cudaEventCreate"), self.made("cudaEventCreate")
        try:
            self.call("cudaEventRecord", start, stream)
            for _ in range(times):
                work()
            self.call("cudaEventRecord", end, stream)
            self.check(self.synchronize(stream), "cudaStreamSynchronize")
            elapsed = ctypes.c_float()
            self.call("cudaEventElapsedTime", ctypes.byref(elapsed), start, end)
            return elapsed.value
        finally:
            self.forget("cudaEventDestroy", start)
            self.forget("cudaEventDestroy", end)

    def _clear(self) -> None:
        """Forget this thread's last error, or ONNX Runtime takes it for that of the next kernel that it starts."""
        self._library.cudaGetLastError()

    def _function(self, name: str, function: Any) -> None:
        function.argtypes, function.restype = list(_FUNCTIONS[name]), c_int


def _library_of_onnxruntime() -> str:
    ort.preload_dlls()
    return f"libcudart.so.{ort.cuda_version.split('.')[0]}"
