import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from contract.manifest import Precision
from export.functions import model_with
from export.graph import parse_graph
from export.precision import CONSTANTS, bfloat16_bits, int8_weights, product, weight_tensors
from tests.fakes import tower_model

REDUCED: list[Precision] = ["bfloat16", "int8"]
PRECISIONS: list[Precision] = ["float32", *REDUCED]
WIDTH, EMBEDDING, ITEM_WIDTH, LAYERS = 32, 4, 12, 3


def bfloat16(values: np.ndarray) -> np.ndarray:
    return (bfloat16_bits(values).astype(np.uint32) << 16).view(np.float32)


def reference_product(x: np.ndarray, weight: np.ndarray, precision: Precision) -> np.ndarray:
    """The product in numpy, step by step as the operation is defined."""
    if precision == "float32":
        return x @ weight.astype(np.float32)
    if precision == "bfloat16":
        return bfloat16(x) @ bfloat16(weight)
    whole, scale = int8_weights(weight[None])
    magnitude = np.abs(x).max(axis=1, keepdims=True)
    inverse = np.divide(np.float32(127), magnitude, out=np.zeros_like(magnitude), where=magnitude > 0)
    rows = np.rint(x * inverse).astype(np.int64)
    return (rows @ whole[0].astype(np.int64)).astype(np.float32) * (magnitude / np.float32(127)) * scale[0]


def product_session(weight: np.ndarray, precision: Precision) -> ort.InferenceSession:
    """The product of a body, alone."""
    body = f"""
        {CONSTANTS[precision]}
        weights_0 = Constant <value_int = 0> ()
        weight_0 = Gather <axis = 0> (weight, weights_0)
        {product(precision, 0)}
    """
    graph = parse_graph("product", f"float[U,N,{len(weight)}] x_0", "float[U,N,X] mapped_0", body, {})
    graph.initializer.extend(weight_tensors(weight[None], precision))
    return open_session(model_with(graph, []))


def open_session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def multiply(x: np.ndarray, weight: np.ndarray, precision: Precision) -> np.ndarray:
    return product_session(weight, precision).run(None, {"x_0": x[None].astype(np.float32)})[0][0]


def operands(split: bool, precision: Precision, seed: int = 3) -> tuple[list[TensorProto], dict[str, np.ndarray]]:
    """Constants and inputs of a tower whose every operand matters."""
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    constants = {
        "likes": draw(11, EMBEDDING),
        "views": draw(11, EMBEDDING),
        "bias": draw(LAYERS - split, WIDTH) * 0.1,
        "shift": draw(LAYERS, WIDTH) * 0.1,
        "slope": draw(LAYERS, 1) * 0.5,
        "output_weight": draw(WIDTH, 1) / 16,
        "output_bias": draw(1),
    }
    rows = {
        "target": draw(50, ITEM_WIDTH),
        "pooled": draw(2, 40, ITEM_WIDTH),
        "candidate_rows": generator.integers(0, 50, (2, 40)),
        "levels": generator.integers(0, 11, (2, 40, 2)),
    }
    if split:
        constants |= {"likes_first": draw(11, WIDTH), "views_first": draw(11, WIDTH)}
        rows["partial"] = draw(2, 40, WIDTH)
    weight = draw(LAYERS - split, WIDTH, WIDTH).astype(np.float64) / WIDTH
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return tensors + weight_tensors(weight, precision), rows


def reference_tower(tensors: list[TensorProto], rows: dict[str, np.ndarray], split: bool) -> np.ndarray:
    """The tower in numpy, in float32 matrices."""
    of = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors} | rows
    likes, views = np.moveaxis(of["levels"], -1, 0)
    x = [of["likes"][likes], of["views"][views], of["target"][of["candidate_rows"]], of["pooled"]]
    x = np.concatenate(x, axis=-1).astype(np.float64)
    for layer in range(LAYERS):
        if split and layer == 0:
            linear = of["partial"] + of["likes_first"][likes] + of["views_first"][views]
        else:
            linear = x @ of["weight"][layer - split] + of["bias"][layer - split]
        shifted = x * linear + of["shift"][layer]
        x = x + np.where(shifted > 0, shifted, of["slope"][layer] * shifted)
    return 1 / (1 + np.exp(-(x @ of["output_weight"] + of["output_bias"])[..., 0]))


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    """To the nearest, ties to even, up to infinity and down to the smallest numbers."""
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    ties = (np.arange(1000, dtype=np.uint32) * 0x8000 + 0x3F80_0000).view(np.float32)
    values = np.concatenate([numbers[np.isfinite(numbers)], ties, [0, -0.0, np.inf, 3.4e38, 1e-45]]).astype("f4")
    wanted = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(bfloat16_bits(values), wanted)


def test_every_column_has_a_step_of_its_own() -> None:
    """The largest number of a column is 127 steps; a column of zeros, or as good as that, stays zero."""
    weight = np.array([[[1.0, 0, 1e-44, -300], [-2, 0, 0, 100], [0.5, 0, 0, 0]]])
    whole, scale = int8_weights(weight)
    assert whole.tolist() == [[[64, 0, 0, -127], [-127, 0, 0, 42], [32, 0, 0, 0]]]
    np.testing.assert_allclose(scale, [[2 / 127, 1, 1, 300 / 127]], rtol=1e-6)


@pytest.mark.parametrize("precision", REDUCED)
def test_weights_are_stored_in_their_precision(precision: Precision) -> None:
    """A matrix takes two bytes or one of what it takes in float32, and means nearly the same."""
    weight = np.random.default_rng(1).normal(size=(2, 16, 16))
    stored, *scale = weight_tensors(weight, precision)
    assert stored.data_type == {"bfloat16": TensorProto.BFLOAT16, "int8": TensorProto.INT8}[precision]
    assert len(stored.raw_data) == weight.size * {"bfloat16": 2, "int8": 1}[precision]
    means = numpy_helper.to_array(stored).astype(np.float64)
    if scale:
        means *= numpy_helper.to_array(scale[0])[:, None]
    assert 0 < np.abs(means - weight).max() < 0.02


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_body_multiplies_as_defined(precision: Precision) -> None:
    """Rows of every size, zeros and ties among them, give what the definition gives; in int8 to the last bit."""
    generator = np.random.default_rng(2)
    x = (generator.normal(size=(64, 48)) * 10.0 ** generator.integers(-20, 20, (64, 1))).astype(np.float32)
    x[0] = 0
    x[1] = np.linspace(-1e38, 3.38e38, 48)
    x[2] = np.concatenate([[127], np.arange(47) + 0.5])
    x[3] = 127
    weight = generator.normal(size=(48, 48))
    weight[:, 7] = 0
    weight[:, 8] = 1000
    got = multiply(x, weight, precision)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = reference_product(x, weight, precision)
    if precision == "int8":
        assert np.array_equal(got, wanted)
    else:
        terms = np.abs(x).astype(np.float64) @ np.abs(weight)
        fits = terms < 1e38
        assert (np.abs(got[fits] - wanted[fits]) <= 1e-6 * terms[fits]).all()
    assert not got[0].any()
    assert not got[2:, 7].any()


def test_int8_sums_do_not_overflow() -> None:
    """The largest products, all of one sign, add up exactly at the width of the paper's model."""
    x, weight = np.full((3, 1024), 127, np.float32), np.full((1024, 1024), 127.0)
    assert (multiply(x, weight, "int8") == 1024 * 127 * 127).all()
    assert (multiply(-x, weight, "int8") == -1024 * 127 * 127).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_never_passes_for_a_number(precision: Precision, bad: float) -> None:
    """Its products are not finite, in int8 all NaN, and the rows beside it do not notice."""
    generator = np.random.default_rng(4)
    x, weight = generator.normal(size=(5, 32)).astype(np.float32), generator.normal(size=(32, 32))
    healthy = multiply(x, weight, precision)
    x[2, 9] = bad
    spoiled = multiply(x, weight, precision)
    assert not np.isfinite(spoiled[2]).any()
    assert precision != "int8" or np.isnan(spoiled[2]).all()
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(spoiled[others], healthy[others], rtol=1e-5, atol=1e-5)


def test_a_row_too_small_for_its_scale_gives_zeros_in_int8() -> None:
    """127 divided by a magnitude near the smallest float is infinite: such a row counts as zeros."""
    x = np.zeros((2, 32), np.float32)
    x[0, 3], x[1, 3] = 1e-40, -1e-38
    assert not multiply(x, np.ones((32, 32)), "int8").any()


@pytest.mark.parametrize("split", [False, True])
def test_a_tower_computes_what_it_says(split: bool) -> None:
    """Look-ups, layers and output agree with numpy."""
    tensors, rows = operands(split, "float32")
    scores = open_session(tower_model(LAYERS, split, "float32", tensors)).run(None, rows)[0]
    assert np.abs(scores - reference_tower(tensors, rows, split)).max() < 1e-6
    assert scores.std() > 0.05


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("precision", REDUCED)
def test_a_reduced_tower_is_close_and_not_equal(precision: Precision, split: bool) -> None:
    """The precision is really applied, and costs what it should, in ONNX Runtime and in another runtime."""
    tensors, rows = operands(split, precision)
    model = tower_model(LAYERS, split, precision, tensors)
    scores = open_session(model).run(None, rows)[0]
    exact = reference_tower(operands(split, "float32")[0], rows, split)
    assert 1e-5 < np.abs(scores - exact).max() < 0.02
    other = ReferenceEvaluator(onnx.load_from_string(model)).run(None, rows)[0]
    assert np.abs(scores - other).max() < 1e-4


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_score_depends_on_no_other_row(precision: Precision, split: bool) -> None:
    """Rows in another order, or in requests of their own, keep their scores."""
    tensors, rows = operands(split, precision)
    session = open_session(tower_model(LAYERS, split, precision, tensors))
    whole = session.run(None, rows)[0]
    order = np.random.default_rng(6).permutation(40)
    permuted = {name: value if name == "target" else value[:, order] for name, value in rows.items()}
    np.testing.assert_allclose(session.run(None, permuted)[0], whole[:, order], atol=1e-6)
    for user, part in ((0, slice(0, 7)), (1, slice(39, 40))):
        one = {name: value if name == "target" else value[user : user + 1, part] for name, value in rows.items()}
        np.testing.assert_allclose(session.run(None, one)[0], whole[user : user + 1, part], atol=1e-6)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_operands_may_be_inputs(precision: Precision, split: bool) -> None:
    """A graph that computes or is given its weights can call the tower as well as one that holds them."""
    tensors, rows = operands(split, precision)
    held = open_session(tower_model(LAYERS, split, precision, tensors)).run(None, rows)[0]
    feeds = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in rows.items()}
    for tensor in tensors:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.BFLOAT16:
            values = values.view(np.uint16)
        feeds[tensor.name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(values, tensor.data_type)
    given = open_session(tower_model(LAYERS, split, precision)).run_with_ort_values(None, feeds)[0].numpy()
    np.testing.assert_allclose(given, held, atol=1e-6)
