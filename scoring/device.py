"""Where a scorer runs: ONNX Runtime's providers behind `auto`, `cpu` and `cuda`, and the fused kernels."""

import functools
import logging
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from contract.graphfile import Weight, without_weights
from kernels.cuda_library import CudaKernelLibrary, find_cuda_library
from kernels.library import KernelLibrary, find_library
from scoring.accelerator import Provider
from scoring.cuda_driver import architecture_for, capability, gpu_answers
from scoring.errors import DeviceError, GraphError

Device = Literal["auto", "cpu", "cuda"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
BODY = "function body"
"""What an operation runs by that no kernel was found for: the standard operations in the graph itself."""

_HELD_IN: Mapping[int, str] = {1: "f4", 2: "u1", 3: "i1", 10: "f2", 16: "u2"}
"""What numpy holds weights in, by `TensorProto.DataType`: float, uint8, int8, float16 and bfloat16."""

_OPENING = threading.Lock()
"""Held while a session opens whose kernels are counted: the library counts them for the whole process."""

_log = logging.getLogger(__name__)


def runs_on_cuda(device: Device) -> bool:
    """Return whether a device means a GPU on this machine.

    Raises
    ------
    DeviceError
        CUDA was asked for, and this ONNX Runtime is built without it.
    """
    if device == "cpu" or (device == "auto" and not _cuda_runs()):
        return False
    if CUDA not in ort.get_available_providers():
        raise DeviceError("CUDA was asked for, but the installed ONNX Runtime is built without it")
    return True


def open_session(
    graph: bytes, device: Device | Provider, num_threads: int = 0, *, keeps_memory: bool = True
) -> ort.InferenceSession:
    """Open a session on a device and make sure that it is this device that runs.

    Parameters
    ----------
    graph
        A serialised ONNX model.
    device
        `auto` takes CUDA where a GPU answers and the CPU elsewhere; or a provider with its options.
    num_threads
        Threads of one run; 0 takes one per physical core. They do not spin while they wait.
    keeps_memory
        Whether memory of one run is kept for the next. What is not kept is freed by the run, which holds no lock of
        the interpreter; what is kept by the session's end, which holds it for milliseconds.

    Raises
    ------
    DeviceError
        CUDA should run and does not; it is never replaced silently.
    GraphError
        ONNX Runtime refuses the graph; on CUDA also because the CPU would have to run some of it.
    """
    provider = _provider(device)
    options = _options(num_threads, provider[0])
    options.enable_cpu_mem_arena = keeps_memory
    return _open(graph, provider, options)


def open_fused(
    graph: bytes, ops: Collection[str], device: Device | Provider, num_threads: int = 0
) -> tuple[ort.InferenceSession, dict[str, str]]:
    """Open a session whose fused operations run by a kernel library where they can; see `open_session`.

    Parameters
    ----------
    ops
        The graph's fused operations, such as `qin.QuadraticTower`. A graph that kernels refuse is opened without
        them, on CUDA only where an operation itself refused it: other errors pass, and slow it would stay.

    Returns
    -------
        The session, and what each operation runs by: the instruction set of its kernel, on a GPU the architecture
        that it was compiled for, or BODY.
    """
    provider = _provider(device)
    library = _library_for(provider[0]) if ops else None
    options = _options(num_threads, provider[0])
    if library is None:
        return _open(graph, provider, options), dict.fromkeys(ops, BODY)
    options.add_session_config_entry("qin.num_threads", str(num_threads))
    options.register_custom_ops_library(str(library.path))
    with _OPENING:
        before = {op: library.created(_kernel_name(op)) for op in ops}
        try:
            session = _open(graph, provider, options)
        except GraphError as error:
            if provider[0] == CUDA and not any(f"{op}: " in str(error) for op in ops):
                raise
            # What the kernels refuse their bodies may run; a graph that is none fails again.
            session = _open(graph, provider, _options(num_threads, provider[0]))
            _log.warning("the fused kernels refuse a graph, it runs without them: %s", error)
            return session, dict.fromkeys(ops, BODY)
        created = {op for op in ops if library.created(_kernel_name(op)) > before[op]}
        return session, {op: _runs_by(library) if op in created else BODY for op in ops}


def why_unfused(provider: str = CPU) -> str:
    """Return what keeps operations from running by kernels on a provider, for a person."""
    on_cuda = provider == CUDA
    path = find_cuda_library() if on_cuda else find_library()
    if path is None:
        return f"no kernel library was built; python -m kernels.{'build_cuda' if on_cuda else 'build'} does it"
    if _library_for(provider) is None:
        return f"{path} cannot be used"
    return "the kernel library has none for this version of them on this device"


def _open(graph: bytes, provider: Provider, options: ort.SessionOptions) -> ort.InferenceSession:
    name, given = provider
    weights: list[ort.OrtValue] = []
    if name == CPU:
        graph, weights = _apart(graph, options)
    # ONNX Runtime's own way out of an error is to try another provider.
    strict = {} if name == CPU else {"provider_options": [dict(given)], "enable_fallback": False}
    try:
        session = ort.InferenceSession(graph, options, providers=[name], **strict)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
        raise GraphError(f"ONNX Runtime refuses the graph: {error}") from error
    running = session.get_providers()[0]
    if running != name:
        raise DeviceError(f"{name} was asked for, but {running} runs: is the GPU's driver installed?")
    if name != CPU:
        session.disable_fallback()
    session.weights = weights  # it only borrows them
    return session


def _apart(graph: bytes, options: ort.SessionOptions) -> tuple[bytes, list[ort.OrtValue]]:
    """Return a graph without its weights, which go into the options; they must live as long as the session.

    ONNX Runtime parses and copies what is in a graph while it holds the interpreter, for 10 ms at the paper's size.
    """
    try:
        small, weights = without_weights(graph, _HELD_IN)
        values = {name: _borrowed(weight) for name, weight in weights.items()}
    except (ValueError, OverflowError):
        return graph, []  # ONNX Runtime says what is wrong with it
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    return small, list(values.values())


def _borrowed(weight: Weight) -> ort.OrtValue:
    values = np.frombuffer(weight.raw, _HELD_IN[weight.element_type]).reshape(weight.shape).copy()
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(values, weight.element_type)


def _options(num_threads: int, provider: str) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if provider == CUDA:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return options


def _library_for(provider: str) -> KernelLibrary | CudaKernelLibrary | None:
    return _usable_cuda(find_cuda_library()) if provider == CUDA else _usable(find_library())


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


@functools.cache
def _usable_cuda(path: Path | None) -> CudaKernelLibrary | None:
    """Load the library of CUDA kernels; see `_usable`. One without code for this GPU counts as none, too."""
    if path is None:
        return None
    try:
        library = CudaKernelLibrary(path)
        ort.SessionOptions().register_custom_ops_library(str(path))
    except Exception as error:  # as above
        _log.warning("the fused CUDA kernels cannot be used, everything runs without them: %s", error)
        return None
    if architecture_for(capability(), library.architectures) is None:
        built = ", ".join(library.architectures)
        _log.warning("the fused CUDA kernels were compiled for %s and not for this GPU: they are not used", built)
        return None
    if library.is_stale:
        _log.warning("%s was compiled from other sources than lie beside it", path)
    return library


def _runs_by(library: KernelLibrary | CudaKernelLibrary) -> str:
    if isinstance(library, KernelLibrary):
        return library.instruction_set
    return architecture_for(capability(), library.architectures) or BODY


def _kernel_name(op: str) -> str:
    return op.removeprefix("qin.")


def _provider(device: Device | Provider) -> Provider:
    if isinstance(device, tuple):
        return device
    if not runs_on_cuda(device):
        return CPU, {}
    ort.preload_dlls()
    return CUDA, {}


def _cuda_runs() -> bool:
    """Ask the driver itself: a CUDA build of ONNX Runtime says nothing of the machine it is on."""
    return CUDA in ort.get_available_providers() and gpu_answers()
