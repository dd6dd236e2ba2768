import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.ids import MAX_ID, IdIndex

ids = st.integers(0, MAX_ID)


@given(st.lists(ids, unique=True, max_size=30), st.lists(ids, max_size=30))
def test_every_id_gives_its_row_and_every_other_id_row_0(known: list[int], asked: list[int]) -> None:
    """A look-up agrees with a dictionary for any ids, whatever their order."""
    index = IdIndex(np.array(known, dtype=np.int64), np.arange(1, len(known) + 1))
    rows = dict(zip(known, range(1, len(known) + 1), strict=True))
    wanted = np.array([*asked, *known], dtype=np.int64)
    assert index.rows(wanted).tolist() == [rows.get(item, 0) for item in wanted.tolist()]


def test_rows_come_in_the_shape_of_the_ids() -> None:
    """A matrix of ids gives a matrix of rows."""
    index = IdIndex(np.array([5, 3]), np.array([1, 2]))
    assert index.rows(np.array([[3, 5], [4, 3]])).tolist() == [[2, 1], [0, 2]]


@given(
    st.dictionaries(ids, st.integers(1, 99), max_size=20),
    st.dictionaries(ids, st.integers(1, 99), max_size=20),
    st.lists(ids, unique=True, max_size=10),
)
def test_a_changed_map_is_a_changed_dictionary(
    before: dict[int, int], change: dict[int, int], gone: list[int]
) -> None:
    """Adding, replacing and removing give a new map, and the old one stays as it was."""

    def index_of(rows: dict[int, int]) -> IdIndex:
        return IdIndex(np.array(list(rows), dtype=np.int64), np.array(list(rows.values()), dtype=np.int64))

    def contents(index: IdIndex) -> dict[int, int]:
        return dict(zip(index.ids.tolist(), index.rows(index.ids).tolist(), strict=True))

    gone = [*gone, *list(before)[:3], *list(change)[:3]]
    index = index_of(before)
    changed = index.updated(np.array(list(change), dtype=np.int64), np.array(list(change.values()), dtype=np.int64))
    rest = changed.without(np.array(gone, dtype=np.int64))
    after = before | change
    assert contents(index) == before
    assert contents(changed) == after
    assert contents(rest) == {item: row for item, row in after.items() if item not in gone}
    assert changed.ids.tolist() == sorted(after)


def test_an_id_that_repeats_is_refused() -> None:
    """Two rows for one id would make a look-up arbitrary."""
    with pytest.raises(ValueError, match="item id 4 occurs more than once"):
        IdIndex(np.array([4, 2, 4]), np.array([1, 2, 3]))
