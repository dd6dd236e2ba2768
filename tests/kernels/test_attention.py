"""`qin.SparseTargetAttention`: the kernel against its function's body."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from tests.kernels.operations import Operation, Size, attention_operands

POISON = (np.nan, np.inf, -np.inf)

sizes = st.builds(
    Size,
    num_users=st.sampled_from([1, 3]),
    num_candidates=st.sampled_from([1, 7, 25, 64]),
    history_length=st.sampled_from([1, 5, 64, 200]),
    embedding_dim=st.integers(1, 17),
    item_width=st.integers(1, 70),
    split=st.booleans(),
)
everything = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def assert_same(kernel: list[np.ndarray], body: list[np.ndarray], relative: float = 2e-6) -> None:
    """Equal but for the order of additions, NaN and infinities included."""
    assert len(kernel) == len(body)
    for got, wanted in zip(kernel, body, strict=True):
        finite = wanted[np.isfinite(wanted)]
        scale = float(np.abs(finite).max(initial=1))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=relative * scale)


@everything
@given(size=sizes, seed=st.integers(0, 2**32 - 1), num_threads=st.integers(1, 4))
def test_it_gives_what_its_body_gives(
    library: Path, instruction_set: str, size: Size, seed: int, num_threads: int
) -> None:
    """Pooled items and layer 1's part are the body's at any shape, with any number of threads."""
    operands = attention_operands(size, seed)
    operation = Operation(operands, size)
    assert_same(operation.run(operands, library, num_threads), operation.run(operands))


@pytest.mark.parametrize("num_candidates", [1000, 4096])
@pytest.mark.parametrize("history_length", [1, 64, 200])
def test_it_gives_what_its_body_gives_for_many_candidates(
    library: Path, num_candidates: int, history_length: int
) -> None:
    """Long candidate lists are shared among threads without a difference."""
    size = Size(3, num_candidates, history_length, embedding_dim=8, item_width=24)
    operands = attention_operands(size, seed=num_candidates)
    operation = Operation(operands, size)
    body = operation.run(operands)
    for num_threads in (1, 2, 4):
        assert_same(operation.run(operands, library, num_threads), body)


@everything
@given(
    size=sizes,
    seed=st.integers(0, 2**32 - 1),
    table=st.sampled_from(["target", "key", "value", "input_part", "history_part"]),
    poison=st.sampled_from(POISON),
)
def test_numbers_that_are_none_end_up_where_the_body_has_them(
    library: Path, instruction_set: str, size: Size, seed: int, table: str, poison: float
) -> None:
    """A NaN or an infinity in a table spoils the same outputs in the kernel as in the body."""
    operands = attention_operands(size, seed)
    if table not in operands:
        table = "target"
    operands[table][seed % len(operands[table]), seed % operands[table].shape[1]] = poison
    operation = Operation(operands, size)
    assert_same(operation.run(operands, library), operation.run(operands))


def test_no_candidates_and_no_history_are_fine(library: Path, instruction_set: str) -> None:
    """Nothing to rank gives nothing; without a history candidates are pooled with nothing."""
    for size in (Size(num_candidates=0), Size(num_users=0), Size(history_length=0)):
        operands = attention_operands(size, 1)
        operation = Operation(operands, size)
        assert_same(operation.run(operands, library), operation.run(operands), relative=0)


def test_a_candidate_does_not_depend_on_the_others(library: Path, instruction_set: str) -> None:
    """Permuting or splitting the candidates, or more threads, changes not one bit."""
    size = Size(num_candidates=1000, history_length=64, embedding_dim=9, item_width=33)
    operands = attention_operands(size, 2)
    operation = Operation(operands, size)
    whole = operation.run(operands, library)
    rows = operands["candidate_rows"]
    order = np.random.default_rng(3).permutation(1000)
    parts = np.split(order, [1, 8, 31, 200, 999])
    for num_threads in (1, 3):
        session = operation.session(library, num_threads)
        for part in [order, *parts]:
            some = session.run(None, operation.feed(operands | {"candidate_rows": rows[:, part]}))
            for got, all_of_them in zip(some, whole, strict=True):
                np.testing.assert_array_equal(got, all_of_them[:, part])


@pytest.mark.parametrize(("name", "row"), [("candidate_rows", 37), ("history_rows", -38)])
def test_a_row_outside_the_tables_is_refused(library: Path, name: str, row: int) -> None:
    """A row number past the tables is an error that says so, as in the body, and nothing is read there."""
    size = Size()
    operands = attention_operands(size, 4)
    operands[name][0, 1] = row
    operation = Operation(operands, size)
    with pytest.raises(InvalidArgument, match=f"{name} holds {row}, but its table has 37"):
        operation.run(operands, library)
    with pytest.raises(Exception, match="indices"):
        operation.run(operands)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("key", "key and value must have the shape of target"),
        ("value", "key and value must have the shape of target"),
        ("input_part", "must be .n, X. alike"),
        ("history_part", "must be .n, X. alike"),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_tables_that_do_not_match_are_refused(library: Path, name: str, message: str, axis: int) -> None:
    """Tables of unlike shapes are an error that says which."""
    size = Size()
    operands = attention_operands(size, 5)
    operation = Operation(operands, size)
    shorter = np.delete(operands[name], -1, axis)
    with pytest.raises(InvalidArgument, match=message):
        operation.run(operands | {name: shorter}, library)


@pytest.mark.parametrize("num_histories", [1, 2, 4])
def test_other_histories_than_users_are_refused(library: Path, num_histories: int) -> None:
    """Every user has one history: none is read past the last, and a single one is not everybody's."""
    size = Size(num_users=3)
    operands = attention_operands(size, 6)
    histories = np.resize(operands["history_rows"], (num_histories, size.history_length))
    with pytest.raises(InvalidArgument, match=r"candidate_rows \(U, N\) and history_rows \(U, H\)"):
        Operation(operands, size).run(operands | {"history_rows": histories}, library)
