"""Where a scorer runs: ONNX Runtime's providers behind `auto`, `cpu` and `cuda`."""

import ctypes
from typing import Literal

import onnxruntime as ort

from scoring.errors import DeviceError, GraphError

Device = Literal["auto", "cpu", "cuda"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


def open_session(graph: bytes, device: Device, num_threads: int = 0) -> ort.InferenceSession:
    """Open a session on a device and make sure that it is this device that runs.

    Parameters
    ----------
    graph
        A serialised ONNX model.
    device
        `auto` takes CUDA where a GPU answers and the CPU elsewhere.
    num_threads
        Threads of one run; 0 takes one per physical core. They do not spin while they wait.

    Raises
    ------
    DeviceError
        CUDA should run and does not; it is never replaced silently.
    GraphError
        ONNX Runtime refuses the graph.
    """
    wanted = _providers(device)
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(graph, options, providers=wanted)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
        raise GraphError(f"ONNX Runtime refuses the graph: {error}") from error
    running = session.get_providers()[0]
    if running != wanted[0]:
        raise DeviceError(f"{wanted[0]} was asked for, but {running} runs: is the GPU's driver installed?")
    return session


def _providers(device: Device) -> list[str]:
    if device == "cpu" or (device == "auto" and not _cuda_runs()):
        return [CPU]
    if CUDA not in ort.get_available_providers():
        raise DeviceError("CUDA was asked for, but the installed ONNX Runtime is built without it")
    ort.preload_dlls()
    return [CUDA, CPU]


def _cuda_runs() -> bool:
    """Ask the driver itself: a CUDA build of ONNX Runtime says nothing of the machine it is on."""
    if CUDA not in ort.get_available_providers():
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
