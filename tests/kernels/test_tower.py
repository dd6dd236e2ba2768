"""`qin.QuadraticTower`: the kernel against its function's body, in each precision."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from contract.manifest import Precision
from export.precision import int8_weights
from tests.kernels.operations import Operands, Operation, Size, tower_operands

TOLERANCE: dict[Precision, float] = {"float32": 2e-6, "bfloat16": 2e-3, "int8": 2e-2}
"""Of scores. Kernel and body add in another order; where that moves a number across the middle between two of its
rounded values, they differ by one such step."""

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")

POISON = (np.nan, np.inf, -np.inf)

sizes = st.builds(
    Size,
    num_users=st.sampled_from([1, 3]),
    num_candidates=st.sampled_from([1, 7, 13, 64]),
    embedding_dim=st.integers(1, 17),
    item_width=st.integers(1, 50),
    num_layers=st.integers(1, 4),
    split=st.booleans(),
)
everything = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def cut(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The first of some values, in another shape."""
    return values.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def assert_same(got: np.ndarray, wanted: np.ndarray, precision: Precision) -> None:
    """Equal but for rounding, NaN included."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE[precision])


@everything
@given(
    size=sizes,
    seed=st.integers(0, 2**32 - 1),
    num_threads=st.integers(1, 4),
    precision=st.sampled_from(PRECISIONS),
)
def test_it_gives_what_its_body_gives(
    library: Path, instruction_set: str, size: Size, seed: int, num_threads: int, precision: Precision
) -> None:
    """Scores are the body's at any shape and depth, with any number of threads."""
    operands = tower_operands(size, seed)
    operation = Operation(operands, size, precision)
    assert_same(operation.run(operands, library, num_threads)[0], operation.run(operands)[0], precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_candidates", [1000, 4096])
def test_it_gives_what_its_body_gives_for_many_candidates(
    library: Path, instruction_set: str, num_candidates: int, precision: Precision
) -> None:
    """Blocks of rows, shared among threads, are the body's rows."""
    size = Size(1, num_candidates, embedding_dim=11, item_width=30, num_layers=4)
    operands = tower_operands(size, seed=num_candidates)
    operation = Operation(operands, size, precision)
    body = operation.run(operands)[0]
    for num_threads in (1, 2, 4):
        assert_same(operation.run(operands, library, num_threads)[0], body, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_wide_rows_of_few_candidates_are_shared_by_columns(
    library: Path, instruction_set: str, precision: Precision
) -> None:
    """At the paper's width a handful of candidates is scored as by the body, on one thread or on four."""
    size = Size(1, 10, embedding_dim=128, item_width=384, num_layers=2)
    operands = tower_operands(size, 1)
    operation = Operation(operands, size, precision)
    body = operation.run(operands)[0]
    one = operation.run(operands, library, 1)[0]
    assert_same(one, body, precision)
    for num_threads in (2, 3, 4):
        np.testing.assert_array_equal(operation.run(operands, library, num_threads)[0], one)


@everything
@given(
    size=sizes,
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(["target", "pooled", "likes", "views", "partial", "likes_first", "views_first"]),
    poison=st.sampled_from(POISON),
    precision=st.sampled_from(PRECISIONS),
)
def test_numbers_that_are_none_end_up_where_the_body_has_them(
    library: Path, instruction_set: str, size: Size, seed: int, name: str, poison: float, precision: Precision
) -> None:
    """A NaN or an infinity in an operand spoils the same scores in the kernel as in the body, and no others."""
    operands = tower_operands(size, seed)
    if name not in operands:
        name = "pooled"
    operands[name].reshape(-1)[seed % operands[name].size] = poison
    operation = Operation(operands, size, precision)
    assert_same(operation.run(operands, library)[0], operation.run(operands)[0], precision)


@everything
@given(
    size=sizes,
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(["weight", "bias", "shift", "slope", "output_weight", "output_bias"]),
    poison=st.sampled_from(POISON),
    precision=st.sampled_from(PRECISIONS),
    weights_in_graph=st.booleans(),
)
def test_weights_that_are_no_numbers_spoil_what_they_spoil_in_the_body(
    library: Path,
    instruction_set: str,
    size: Size,
    seed: int,
    name: str,
    poison: float,
    precision: Precision,
    weights_in_graph: bool,
) -> None:
    """A NaN or an infinity in a weight is met as in the body; of int8 weights the steps can hold one."""
    operands = tower_operands(size, seed)
    if precision == "int8":
        operands["weight_scale"] = int8_weights(operands["weight"])[1]
        name = "weight_scale" if name == "weight" else name
    if operands[name].size == 0:
        name = "shift"
    operands[name].reshape(-1)[seed % operands[name].size] = poison
    operation = Operation(operands, size, precision, weights_in_graph=weights_in_graph)
    assert_same(operation.run(operands, library)[0], operation.run(operands)[0], precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_infinity_that_stays_one_scores_as_in_the_body(
    library: Path, instruction_set: str, precision: Precision
) -> None:
    """Where all that an infinity meets is positive the score is 1; int8, which has no infinity, gives NaN."""
    size = Size(num_layers=2, split=False)
    operands = {
        name: np.abs(values) + np.float32(0.1) if values.dtype == np.float32 else values
        for name, values in tower_operands(size, 14).items()
    }
    operands["pooled"][0, 2, 3] = np.inf
    operation = Operation(operands, size, precision)
    kernel, body = operation.run(operands, library)[0], operation.run(operands)[0]
    assert_same(kernel, body, precision)
    assert np.isnan(kernel[0, 2]) if precision == "int8" else kernel[0, 2] == 1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("factor", [0, 1e-44, 1e-38, 1e-20, 1e6, 1e18])
def test_rows_of_any_magnitude_are_scored_as_by_the_body(
    library: Path, instruction_set: str, precision: Precision, factor: float
) -> None:
    """Rows of zeros, of numbers that are next to nothing and of huge ones are scaled as in the body."""
    size = Size(num_candidates=20, num_layers=2, split=False)
    operands = tower_operands(size, 6)
    for name in ("target", "pooled", "likes", "views"):
        operands[name] = operands[name] * np.float32(factor)
    operation = Operation(operands, size, precision)
    assert_same(operation.run(operands, library)[0], operation.run(operands)[0], precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_may_be_inputs(library: Path, instruction_set: str, precision: Precision) -> None:
    """Weights that are not part of the graph are taken from each run."""
    size = Size(num_layers=3)
    operation = Operation(tower_operands(size, 7), size, precision, weights_in_graph=False)
    fixed = Operation(tower_operands(size, 7), size, precision)
    operands = tower_operands(size, 7)
    np.testing.assert_array_equal(operation.run(operands, library)[0], fixed.run(operands, library)[0])


def _scores(
    operation: Operation, operands: Operands, library: Path, rows: np.ndarray, num_threads: int
) -> np.ndarray:
    some = {
        name: operands[name][:, rows]
        for name in ("pooled", "candidate_rows", "levels", "partial")
        if name in operands
    }
    return operation.run(operands | some, library, num_threads)[0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_candidate_does_not_depend_on_the_others(library: Path, instruction_set: str, precision: Precision) -> None:
    """Permuting or splitting a request, or more threads, changes not one bit of a candidate's score."""
    size = Size(num_candidates=300, embedding_dim=9, item_width=33, num_layers=3)
    operands = tower_operands(size, 8)
    operation = Operation(operands, size, precision)
    whole = operation.run(operands, library)[0]
    order = np.random.default_rng(9).permutation(300)
    for part in [order, *np.split(order, [1, 8, 31, 130])]:
        for num_threads in (1, 3):
            np.testing.assert_array_equal(_scores(operation, operands, library, part, num_threads), whole[:, part])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_huge_neighbour_changes_nothing(library: Path, instruction_set: str, precision: Precision) -> None:
    """Rows are rounded one by one: one that is a million times larger leaves the others as they are."""
    size = Size(num_candidates=12, num_layers=2, split=False)
    operands = tower_operands(size, 10)
    operation = Operation(operands, size, precision)
    before = operation.run(operands, library)[0]
    pooled = operands["pooled"].copy()
    pooled[0, 5] *= 1e6
    after = operation.run(operands | {"pooled": pooled}, library)[0]
    others = np.arange(12) != 5
    np.testing.assert_array_equal(after[:, others], before[:, others])


def test_no_candidates_are_fine(library: Path, instruction_set: str) -> None:
    """Nothing to rank gives nothing."""
    size = Size(num_candidates=0)
    operands = tower_operands(size, 11)
    assert Operation(operands, size).run(operands, library)[0].shape == (1, 0)


@pytest.mark.parametrize(
    ("name", "at", "value", "num_rows"),
    [
        ("candidate_rows", (0, 3), 37, 37),
        ("candidate_rows", (0, 6), -38, 37),
        ("levels", (0, 3, 0), 11, 11),
        ("levels", (0, 6, 0), -12, 11),
        ("levels", (0, 3, 1), 13, 13),
        ("levels", (0, 6, 1), -14, 13),
    ],
)
def test_a_row_outside_the_tables_is_refused(
    library: Path, name: str, at: tuple[int, ...], value: int, num_rows: int
) -> None:
    """A row or a level past its table is an error that says so, and nothing is read there."""
    size = Size()
    operands = tower_operands(size, 12)
    operands[name][at] = value
    with pytest.raises(InvalidArgument, match=f"{name} holds {value}, but its table has {num_rows} rows"):
        Operation(operands, size).run(operands, library)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("pooled", (1, 7, 8), "pooled must be"),
        ("levels", (1, 6, 2), "pooled must be .U, N, D. and levels .U, N, 2."),
        ("partial", (1, 7, 27), "partial must be"),
        ("views", (11, 4), "are not X = 28"),
        ("likes_first", (10, 28), "likes_first and views_first"),
        ("likes_first", (11, 27), "likes_first and views_first"),
        ("views_first", (12, 28), "likes_first and views_first"),
        ("views_first", (13, 27), "likes_first and views_first"),
    ],
)
def test_operands_that_do_not_match_are_refused(
    library: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    """Operands of unlike shapes are an error that says which."""
    size = Size()
    operands = tower_operands(size, 13)
    operands[name] = cut(operands[name], shape)
    with pytest.raises(InvalidArgument, match=message):
        Operation(operands, size).run(operands, library)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("weight", (2, 27, 28), "weight must be .G, X, X. and bias"),
        ("weight", (2, 28, 27), "weight must be .G, X, X. and bias"),
        ("weight", (1, 28, 28), "1 products do not go with 3 layers"),
        ("bias", (1, 28), "weight must be .G, X, X. and bias"),
        ("bias", (2, 27), "weight must be .G, X, X. and bias"),
        ("shift", (3, 27), "weight must be .G, X, X. and bias .G, X. with X = 27"),
        ("slope", (2, 1), "slope must be"),
        ("output_weight", (27, 1), "slope must be .L, 1., output_weight"),
        ("output_bias", (0,), "slope must be .L, 1., output_weight .X, 1. and output_bias"),
        ("weight_scale", (1, 28), "int8 weights need weight_scale"),
        ("weight_scale", (2, 27), "int8 weights need weight_scale"),
    ],
)
def test_weights_that_do_not_match_are_refused(
    library: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    """Weights of unlike shapes, which only a run can tell where they are inputs, are an error that says which."""
    size = Size()
    operands = tower_operands(size, 15)
    operands["weight_scale"] = int8_weights(operands["weight"])[1]
    operands[name] = cut(operands[name], shape)
    with pytest.raises(InvalidArgument, match=message):
        Operation(operands, size, "int8", weights_in_graph=False).run(operands, library)
