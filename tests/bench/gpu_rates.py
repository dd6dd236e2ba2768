"""What a device does at best: how fast it copies its own memory, and multiplies matrices by ONNX Runtime."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort

from scoring.cuda import CudaAccelerator, CudaGraph, CudaStream
from scoring.device import open_session
from tests.bench.gpu_forms import INPUT_WIDTH, host_us, median_of
from tests.scoring.memory_device import MemoryDevice

_COPIED = 2**28
_ROWS = 4096
_LAUNCHES = 10
_TYPES = {"float32": (onnx.TensorProto.FLOAT, 4), "bfloat16": (onnx.TensorProto.BFLOAT16, 2)}


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes read and written a second, and floating point operations a second by the type of the numbers."""

    copy: float
    matrix: dict[str, float]


def rates(device: CudaAccelerator | MemoryDevice, on_gpu: bool) -> Rates:
    """Measure a device; matrices in bfloat16 only on a GPU."""
    names = list(_TYPES) if on_gpu else ["float32"]
    return Rates(_copy_rate(device), {name: _matrix_rate(device, name) for name in names})


def _copy_rate(device: CudaAccelerator | MemoryDevice) -> float:
    source, target, stream = device.allocate(_COPIED), device.allocate(_COPIED), device.stream()

    def copy() -> None:
        stream.copy_within(target.address, source.address, _COPIED)

    span = median_of(lambda: stream.span_us(copy) if isinstance(stream, CudaStream) else host_us(copy), 10)
    return 2 * _COPIED / span * 1e6


def _matrix_rate(device: CudaAccelerator | MemoryDevice, name: str) -> float:
    """Return the rate of MatMul at a layer's shape with many rows."""
    kind, num_bytes = _TYPES[name]
    stream = device.stream()
    session = open_session(_matmul(kind), stream.provider(2**30, True), 1)
    memory = {
        "x": ([_ROWS, INPUT_WIDTH], device.allocate(_ROWS * INPUT_WIDTH * num_bytes)),
        "weight": ([INPUT_WIDTH, INPUT_WIDTH], device.allocate(INPUT_WIDTH**2 * num_bytes)),
        "y": ([_ROWS, INPUT_WIDTH], device.allocate(_ROWS * INPUT_WIDTH * num_bytes)),
    }
    binding, options = session.io_binding(), ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "-1")
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    element = np.float32 if name == "float32" else int(kind)
    for operand in ("x", "weight"):
        binding.bind_input(operand, device.kind, 0, element, memory[operand][0], memory[operand][1].address)
    binding.bind_output("y", device.kind, 0, element, memory["y"][0], memory["y"][1].address)

    def run() -> None:
        session.run_with_iobinding(binding, options)

    for _ in range(2):
        run()
        stream.wait()
    replay = stream.capture(run)
    span = median_of(lambda: replay.span_us(_LAUNCHES) if isinstance(replay, CudaGraph) else host_us(run), 10)
    return 2 * _ROWS * INPUT_WIDTH**2 / span * 1e6


def _matmul(kind: int) -> bytes:
    def value(name: str, rows: int) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, kind, [rows, INPUT_WIDTH])

    node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])
    inputs = [value("x", _ROWS), value("weight", INPUT_WIDTH)]
    graph = onnx.helper.make_graph([node], "matmul", inputs, [value("y", _ROWS)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    serialised: bytes = model.SerializeToString()
    return serialised
