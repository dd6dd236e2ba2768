"""The CUDA library inside ONNX Runtime where there is no GPU: all of it but the chip, which the CPU plays.

Kernels, launches, packed weights, checks of operands and memory are those that a GPU runs; see `emulator.h`.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.bundle import RANKER, read_bundle
from contract.manifest import Precision
from scoring.scorer import Scorer
from tests.fakes import make_bundle
from tests.kernels.cuda.emulated import ARCHITECTURES, build_library
from tests.kernels.operations import NUM_ROWS, Operation, Size, attention_operands, tower_operands
from tests.kernels.test_build import COMPILER, needs_compiler

pytestmark = needs_compiler

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
TOLERANCE: dict[Precision, float] = {"float32": 4e-6, "bfloat16": 2e-3, "int8": 2e-2}
"""Of scores. Kernel and body add in another order; where that moves a number across the middle between two of its
rounded values, they differ by one such step."""

sizes = st.builds(
    Size,
    num_users=st.sampled_from([1, 3]),
    num_candidates=st.sampled_from([1, 7, 33, 64]),
    history_length=st.sampled_from([1, 5, 64, 70]),
    embedding_dim=st.integers(1, 17),
    item_width=st.integers(1, 50),
    num_layers=st.integers(1, 3),
    split=st.booleans(),
)
some = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def emulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library for a GPU with or without tensor cores."""
    assert COMPILER is not None
    return build_library(COMPILER, tmp_path_factory.mktemp("emulated"), request.param)


def assert_close(got: list[np.ndarray], wanted: list[np.ndarray], relative: float, num_terms: int = 1) -> None:
    """Equal but for rounding, NaN included; sums of many terms may be smaller than what was added."""
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        scale = float(np.abs(other[np.isfinite(other)]).max(initial=num_terms**0.5))
        np.testing.assert_allclose(one, other, rtol=0, atol=relative * scale)


@some
@given(size=sizes, seed=st.integers(0, 2**32 - 1))
def test_attention_gives_what_its_body_gives(emulated: Path, size: Size, seed: int):
    """Pooled items and layer 1's part are the body's at any shape."""
    operands = attention_operands(size, seed)
    operation = Operation(operands, size)
    assert_close(operation.run(operands, emulated), operation.run(operands), 4e-6, size.history_length)


@some
@given(size=sizes, seed=st.integers(0, 2**32 - 1), precision=st.sampled_from(PRECISIONS))
def test_the_tower_gives_what_its_body_gives(emulated: Path, size: Size, seed: int, precision: Precision):
    """Scores are the body's at any shape and depth, in each precision."""
    operands = tower_operands(size, seed)
    operation = Operation(operands, size, precision)
    assert_close(operation.run(operands, emulated), operation.run(operands), TOLERANCE[precision])


@some
@given(
    size=sizes,
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(["target", "pooled", "likes", "views", "partial", "likes_first", "views_first"]),
    precision=st.sampled_from(PRECISIONS),
)
def test_a_nan_spoils_what_it_spoils_in_the_body(
    emulated: Path, size: Size, seed: int, name: str, precision: Precision
):
    """A candidate that meets one has the score NaN, and no other candidate has."""
    operands = tower_operands(size, seed)
    name = name if name in operands else "pooled"
    operands[name].reshape(-1)[seed % operands[name].size] = np.nan
    operation = Operation(operands, size, precision)
    assert_close(operation.run(operands, emulated), operation.run(operands), TOLERANCE[precision])


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_golden_rows_come_out_as_in_float64(emulated: Path, tmp_path: Path, precision: Precision, split: bool):
    """A published ranker gives what the trained network gave, within the tolerance that its bundle states."""
    bundle = read_bundle(make_bundle(tmp_path, precision=precision, split_first_layer=split, num_layers=3))
    golden = bundle.golden
    encoded, _ = Scorer(bundle, "cpu", num_threads=1).encode(golden.item_id, golden.tags, golden.embedding)
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(emulated))
    ranker = ort.InferenceSession(bundle.graph(RANKER), options, providers=["CPUExecutionProvider"])
    tables = {name: np.concatenate([np.zeros_like(rows[:1]), rows]) for name, rows in encoded.items()}
    rows = {name: getattr(golden, name) for name in ("candidate_rows", "history_rows", "levels")}
    scores = ranker.run(["scores"], tables | rows)[0]
    np.testing.assert_allclose(scores, golden.scores, rtol=0, atol=bundle.manifest.tolerance.scores)


def test_rows_in_no_table_give_nan(emulated: Path):
    """Nothing is read there, and no other candidate is touched."""
    size = Size(num_candidates=40)
    operands = tower_operands(size, 3)
    operation = Operation(operands, size)
    before = operation.run(operands, emulated)[0]
    operands["candidate_rows"][0, 5], operands["levels"][0, 9, 1] = NUM_ROWS, 1 << 40
    after = operation.run(operands, emulated)[0]
    unknown = np.isin(np.arange(40), (5, 9))
    assert np.isnan(after[:, unknown]).all()
    np.testing.assert_array_equal(after[:, ~unknown], before[:, ~unknown])


def test_tf32_is_near_float32_and_no_more(emulated: Path, request: pytest.FixtureRequest):
    """Only a session that asks for it is rounded, and only where tensor cores know how."""
    size = Size(1, 40, embedding_dim=20, item_width=50)
    operands = tower_operands(size, 4)
    operation = Operation(operands, size)
    body = operation.run(operands)[0]
    off, on = (np.abs(operation.run(operands, emulated, tf32=tf32)[0] - body).max() for tf32 in (False, True))
    assert off < 4e-6
    if "800" in request.node.name:
        assert off < on < 2e-3
    else:
        assert on == off


def test_weights_that_are_no_part_of_the_graph_are_refused(emulated: Path):
    """To pack them would mean to wait for the GPU in every run."""
    size = Size()
    operands = tower_operands(size, 5)
    operation = Operation(operands, size, weights_in_graph=False)
    with pytest.raises(Exception, match="the weights must be part of the graph"):
        operation.run(operands, emulated)


def test_no_candidates_are_fine(emulated: Path):
    """Nothing to rank gives nothing."""
    size = Size(num_candidates=0)
    operands = tower_operands(size, 6)
    assert Operation(operands, size).run(operands, emulated)[0].shape == (1, 0)
    operands = attention_operands(size, 6)
    assert Operation(operands, size).run(operands, emulated)[0].shape == (1, 0, size.item_width)


def test_operands_that_do_not_match_are_refused(emulated: Path):
    """The checks of shapes are the CPU's."""
    size = Size()
    operands = tower_operands(size, 7)
    operation = Operation(operands, size)
    with pytest.raises(Exception, match="pooled must be"):
        operation.run(operands | {"pooled": operands["pooled"][..., :-1].copy()}, emulated)
