"""One operation of the domain `qin` at a time: random operands, and a model that calls it by kernel or by body."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from contract.manifest import Precision
from export.precision import weight_tensors
from tests.fakes import attention_model, tower_model

Operands = dict[str, NDArray[np.generic]]
Value = NDArray[np.generic] | ort.OrtValue

NUM_ROWS = 37
NUM_LIKES = 11
NUM_VIEWS = 13
WEIGHTS = ("bias", "shift", "slope", "output_weight", "output_bias", "weight_scale")


@dataclass(frozen=True, slots=True)
class Size:
    """U users, N candidates of each, H history length, E embedding_dim, D item width, L layers."""

    num_users: int = 1
    num_candidates: int = 7
    history_length: int = 5
    embedding_dim: int = 5
    item_width: int = 9
    num_layers: int = 3
    split: bool = True

    @property
    def input_width(self) -> int:
        """X."""
        return 2 * (self.embedding_dim + self.item_width)


def attention_operands(size: Size, seed: int) -> Operands:
    """Return operands of `qin.SparseTargetAttention`, about half of whose scores are negative."""
    generator, width = np.random.default_rng(seed), size.item_width
    operands: Operands = {
        "target": _normal(generator, NUM_ROWS, width),
        "key": _normal(generator, NUM_ROWS, width) / np.float32(np.sqrt(width)),
        "value": _normal(generator, NUM_ROWS, width),
        "candidate_rows": generator.integers(-NUM_ROWS, NUM_ROWS, (size.num_users, size.num_candidates)),
        "history_rows": generator.integers(-NUM_ROWS, NUM_ROWS, (size.num_users, size.history_length)),
    }
    if size.split:
        operands["input_part"] = _normal(generator, NUM_ROWS, size.input_width)
        operands["history_part"] = _normal(generator, NUM_ROWS, size.input_width)
    return operands


def tower_operands(size: Size, seed: int) -> Operands:
    """Return operands of `qin.QuadraticTower`, with weights in float32 and slopes of both signs."""
    generator, width = np.random.default_rng(seed), size.input_width
    shape = size.num_users, size.num_candidates
    num_products = size.num_layers - size.split
    operands: Operands = {
        "target": _normal(generator, NUM_ROWS, size.item_width),
        "pooled": _normal(generator, *shape, size.item_width),
        "candidate_rows": generator.integers(-NUM_ROWS, NUM_ROWS, shape),
        "levels": np.stack([generator.integers(-rows, rows, shape) for rows in (NUM_LIKES, NUM_VIEWS)], axis=-1),
        "likes": _normal(generator, NUM_LIKES, size.embedding_dim),
        "views": _normal(generator, NUM_VIEWS, size.embedding_dim),
        "weight": _normal(generator, num_products, width, width) * np.float32(0.3 / np.sqrt(width)),
        "bias": _normal(generator, num_products, width) * np.float32(0.1),
        "shift": _normal(generator, size.num_layers, width) * np.float32(0.1),
        "slope": np.linspace(-0.3, 1.2, size.num_layers, dtype=np.float32)[:, None],
        "output_weight": _normal(generator, width, 1) / np.float32(np.sqrt(width)),
        "output_bias": _normal(generator, 1),
    }
    if size.split:
        operands["partial"] = _normal(generator, *shape, width) * np.float32(0.3)
        operands["likes_first"] = _normal(generator, NUM_LIKES, width) * np.float32(0.1)
        operands["views_first"] = _normal(generator, NUM_VIEWS, width) * np.float32(0.1)
    return operands


class Operation:
    """A model of one operation.

    Parameters
    ----------
    operands
        Whose names, types and ranks the model's inputs have. With a tower, `weight` is float32 and is rounded here;
        int8 weights get their own `weight_scale` unless one is given.
    size
        Of the operands.
    precision
        Of a tower's weights.
    weights_in_graph
        Let a tower's weights be part of the graph, as they are when served; else they are inputs.
    """

    def __init__(
        self, operands: Operands, size: Size, precision: Precision = "float32", *, weights_in_graph: bool = True
    ) -> None:
        self._given: dict[str, Value] = {}
        if "pooled" not in operands:
            self._names, self._model = list(operands), attention_model(size.split)
            return
        weights = {tensor.name: tensor for tensor in weight_tensors(operands["weight"], precision)}
        weights |= {name: onnx.numpy_helper.from_array(operands[name], name) for name in WEIGHTS if name in operands}
        self._names = [name for name in operands if name not in ("weight", *WEIGHTS)]
        if weights_in_graph:
            self._model = tower_model(size.num_layers, size.split, precision, list(weights.values()))
        else:
            self._model = _of_any_shape(tower_model(size.num_layers, size.split, precision))
            self._given = {name: _value(tensor) for name, tensor in weights.items()}
            self._names += self._given

    def run(
        self,
        operands: Mapping[str, NDArray[np.generic]],
        library: Path | None = None,
        num_threads: int = 1,
        *,
        tf32: bool = False,
    ) -> list[NDArray[np.float32]]:
        """Return the outputs, by the kernel in `library` or by the function's body."""
        return self.session(library, num_threads, tf32=tf32).run(None, self.feed(operands))

    def cuda_session(
        self, library: Path, tf32: bool = False, provider_options: Mapping[str, str] | None = None
    ) -> ort.InferenceSession:
        """Return a session of the model on a GPU, by the CUDA kernels in `library`."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("qin.tf32", str(int(tf32)))
        options.register_custom_ops_library(str(library))
        providers = [("CUDAExecutionProvider", dict(provider_options or {}))]
        return ort.InferenceSession(self._model, options, providers=providers)

    def session(
        self,
        library: Path | None = None,
        num_threads: int = 1,
        pool_threads: int | None = None,
        *,
        tf32: bool = False,
    ) -> ort.InferenceSession:
        """Return a session of the model; its pool has as many threads as the kernels take, unless another number."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = pool_threads or num_threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if library is not None:
            options.add_session_config_entry("qin.num_threads", str(num_threads))
            options.add_session_config_entry("qin.tf32", str(int(tf32)))  # CUDA's kernels read it
            options.register_custom_ops_library(str(library))
        return ort.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])

    def feed(self, operands: Mapping[str, NDArray[np.generic]]) -> dict[str, Value]:
        """Return those operands that are inputs of the model, with weights in its precision."""
        return {name: self._given[name] if name in self._given else operands[name] for name in self._names}


def _value(tensor: onnx.TensorProto) -> Value:
    """Return a tensor's values as a session takes them: numpy has no bfloat16."""
    values = onnx.numpy_helper.to_array(tensor)
    if tensor.data_type != onnx.TensorProto.BFLOAT16:
        return values
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(values.view(np.uint16), tensor.data_type)


def _of_any_shape(model: bytes) -> bytes:
    """Let a model's inputs be of any shape, so that only its operations can object to one."""
    loose = onnx.ModelProto.FromString(model)
    for given in loose.graph.input:
        for axis, dimension in enumerate(given.type.tensor_type.shape.dim):
            dimension.dim_param = f"{given.name}_{axis}"
    return loose.SerializeToString()


def _normal(generator: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return generator.standard_normal(shape, dtype=np.float32)
