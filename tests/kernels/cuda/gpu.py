"""Whether this machine can run the CUDA kernels inside ONNX Runtime, and what it lacks where it cannot."""

import ctypes

import onnxruntime as ort

from kernels.cuda_library import find_cuda_library


def why_no_gpu() -> str | None:
    """Return what is missing, for a person; None where nothing is."""
    if find_cuda_library() is None:
        return "no CUDA kernel library was built; make kernels-cuda does it"
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "the installed ONNX Runtime is built without CUDA"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed"
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the driver finds no GPU"
    return None
