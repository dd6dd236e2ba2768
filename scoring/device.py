"""Where a scorer runs: ONNX Runtime's providers behind `auto`, `cpu` and `cuda`, and the fused kernels."""

import ctypes
import functools
import logging
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import onnxruntime as ort

from kernels.library import KernelLibrary, find_library
from scoring.errors import DeviceError, GraphError

Device = Literal["auto", "cpu", "cuda"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
BODY = "function body"
"""What an operation runs by that no kernel was found for: the standard operations in the graph itself."""

_OPENING = threading.Lock()
"""Held while a session opens whose kernels are counted: the library counts them for the whole process."""

_log = logging.getLogger(__name__)


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
    return _open(graph, _providers(device), _options(num_threads))


def open_fused(
    graph: bytes, ops: Collection[str], device: Device, num_threads: int = 0
) -> tuple[ort.InferenceSession, dict[str, str]]:
    """Open a session whose fused operations run by the kernel library where they can; see `open_session`.

    Parameters
    ----------
    ops
        The graph's fused operations, such as `qin.QuadraticTower`.

    Returns
    -------
        The session, and what each operation runs by: the instruction set of its kernel, or BODY.
    """
    providers, options = _providers(device), _options(num_threads)
    library = _usable(find_library()) if ops and providers == [CPU] else None
    if library is None:
        return _open(graph, providers, options), dict.fromkeys(ops, BODY)
    options.add_session_config_entry("qin.num_threads", str(num_threads))
    options.register_custom_ops_library(str(library.path))
    with _OPENING:
        before = {op: library.created(_kernel_name(op)) for op in ops}
        try:
            session = _open(graph, providers, options)
        except GraphError as error:
            # What the kernels refuse their bodies may run; a graph that is none fails again.
            session = _open(graph, providers, _options(num_threads))
            _log.warning("the fused kernels refuse a graph, it runs without them: %s", error)
            return session, dict.fromkeys(ops, BODY)
        created = {op for op in ops if library.created(_kernel_name(op)) > before[op]}
        return session, {op: library.instruction_set if op in created else BODY for op in ops}


def why_unfused() -> str:
    """Return what keeps operations from running by kernels, for a person."""
    path = find_library()
    if path is None:
        return "no kernel library was built; python -m kernels.build does it"
    if _usable(path) is None:
        return f"{path} cannot be used"
    return "the kernel library has none for this version of them on this device"


def _open(graph: bytes, providers: list[str], options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        session = ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
        raise GraphError(f"ONNX Runtime refuses the graph: {error}") from error
    running = session.get_providers()[0]
    if running != providers[0]:
        raise DeviceError(f"{providers[0]} was asked for, but {running} runs: is the GPU's driver installed?")
    return session


def _options(num_threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


@functools.cache
def _usable(path: Path | None) -> KernelLibrary | None:
    """Load the kernel library; one that cannot be used is warned about, once, and counts as none.

    One that was compiled from other sources than lie beside it is used all the same, and warned about too.
    """
    if path is None:
        return None
    try:
        library = KernelLibrary(path)
        ort.SessionOptions().register_custom_ops_library(str(path))
    except Exception as error:  # as above
        _log.warning("the fused kernels cannot be used, everything runs without them: %s", error)
        return None
    if library.is_stale:
        _log.warning("%s was compiled from other sources than lie beside it; make kernels compiles it again", path)
    return library


def _kernel_name(op: str) -> str:
    return op.removeprefix("qin.")


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
