"""Where a scorer runs: ONNX Runtime's providers behind `auto`, `cpu` and `cuda`."""

from typing import Literal, get_args

import onnxruntime as ort

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[str, ...] = get_args(Device)


class DeviceError(RuntimeError):
    """The device that was asked for is not the one that really runs."""


def session_options(num_threads: int) -> ort.SessionOptions:
    """Return options for a session that shares its machine: few threads, none of them spinning.

    Parameters
    ----------
    num_threads
        Threads of one run; 0 takes one per physical core.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def open_session(graph: bytes, device: Device, num_threads: int = 0) -> ort.InferenceSession:
    """Open a session on a device and make sure that it is the device that runs.

    Raises
    ------
    DeviceError
        `cuda` was asked for and ONNX Runtime runs something else.
    """
    wanted = _providers(device)
    session = ort.InferenceSession(graph, session_options(num_threads), providers=wanted)
    running = session.get_providers()[0]
    if device == "cuda" and running != "CUDAExecutionProvider":
        raise DeviceError(f"CUDA was asked for, but ONNX Runtime runs {running}: is a GPU with its driver here?")
    return session


def _providers(device: Device) -> list[str]:
    if device == "cpu" or (device == "auto" and not _cuda_present()):
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise DeviceError("CUDA was asked for, but this ONNX Runtime is built without it")
    ort.preload_dlls()
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]
