"""Graphs and their weights apart: together they are the model that was published."""

from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from contract.bundle import ITEM_ENCODER, RANKER
from contract.graphfile import GraphFileError, Weight, without_weights
from tests.fakes import make_bundle

KINDS = (TensorProto.FLOAT, TensorProto.INT8, TensorProto.BFLOAT16)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published bundle of random weights."""
    return make_bundle(tmp_path_factory.mktemp("store"))


def reading(*names: str) -> onnx.NodeProto:
    """A node that reads all of these."""
    return helper.make_node("Concat", names, ["joined"], axis=0)


def together(small: bytes, weights: dict[str, Weight]) -> onnx.ModelProto:
    """The model with its weights put back."""
    model = onnx.load_from_string(small)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            weight = weights[tensor.name]
            assert tensor.data_location == TensorProto.EXTERNAL
            assert (list(tensor.dims), tensor.data_type) == (weight.shape, weight.element_type)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = bytes(weight.raw)
    return model


@pytest.mark.parametrize("name", [RANKER, ITEM_ENCODER])
def test_a_graph_and_its_weights_are_the_model(bundle: Path, name: str) -> None:
    """Nothing is lost or changed, and all that is large is taken out."""
    content = (bundle / name).read_bytes()
    small, weights = without_weights(content, KINDS)
    assert together(small, weights) == onnx.load_from_string(content)
    large = {each.name for each in onnx.load_from_string(content).graph.initializer if len(each.raw_data) >= 1024}
    assert set(weights) == large
    assert large
    assert sum(len(weight.raw) for weight in weights.values()) > 0.9 * (len(content) - len(small))


@pytest.mark.parametrize("packed", [False, True])
def test_a_tensor_is_known_by_its_type_and_shape(packed: bool) -> None:
    """Dimensions may come one by one or together; types that nobody asked for stay in the graph."""
    tensors = [
        helper.make_tensor("float", TensorProto.FLOAT, [2, 300], bytes(2400), raw=True),
        helper.make_tensor("double", TensorProto.DOUBLE, [600], bytes(4800), raw=True),
        helper.make_tensor("small", TensorProto.FLOAT, [2], bytes(8), raw=True),
        helper.make_tensor("not raw", TensorProto.FLOAT, [600], [0.5] * 600),
    ]
    graph = helper.make_graph([reading(*(each.name for each in tensors))], "g", [], [], tensors)
    content = helper.make_model(graph).SerializeToString()
    if packed:
        content = content.replace(b"\x08\x02\x08\xac\x02\x10", b"\x0a\x03\x02\xac\x02\x10")
    small, weights = without_weights(content, KINDS)
    assert {name: (weight.shape, weight.element_type) for name, weight in weights.items()} == {"float": ([2, 300], 1)}
    model = together(small, weights)
    assert [each.name for each in model.graph.initializer] == ["float", "double", "small", "not raw"]
    assert numpy_helper.to_array(model.graph.initializer[3])[0] == 0.5


def test_what_a_runtime_might_drop_stays_in_the_graph() -> None:
    """An initialiser that no node reads, and those that share a name, of which it keeps but one."""
    names = ["read", "not read", "twice", "twice"]
    tensors = [helper.make_tensor(name, TensorProto.FLOAT, [600], bytes(2400), raw=True) for name in names]
    graph = helper.make_graph([reading("read", "twice")], "g", [], [], tensors)
    content = helper.make_model(graph).SerializeToString()
    small, weights = without_weights(content, KINDS)
    assert set(weights) == {"read"}
    assert together(small, weights) == onnx.load_from_string(content)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_bytes_are_taken_apart_or_refused(bundle: Path, data: st.DataObject) -> None:
    """Damage is one error, or what is apart is what the protobuf library reads."""
    content = (bundle / RANKER).read_bytes()
    at = data.draw(st.integers(0, 2000) | st.integers(0, len(content)))
    content = content[:at] + data.draw(st.binary(max_size=8)) + content[at + data.draw(st.integers(0, 8)) :]
    try:
        small, weights = without_weights(content, KINDS)
    except GraphFileError:
        return
    try:
        model = onnx.load_from_string(content)
    except Exception:  # of the protobuf library, which looks into strings and nodes too
        return
    names = [each.name for each in model.graph.initializer]
    if len(set(names)) == len(names) and not any(each.external_data for each in model.graph.initializer):
        for found, each in zip(together(small, weights).graph.initializer, model.graph.initializer, strict=True):
            assert (found.name, found.raw_data) == (each.name, each.raw_data)
