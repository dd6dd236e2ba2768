import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.bundle import read_bundle
from contract.codec import item_records
from export.exporter import export_model
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from scoring.tables import Tables
from tests.fakes import make_bundle, make_items, make_trained


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """A bundle on the CPU."""
    return Scorer(read_bundle(make_bundle(tmp_path_factory.mktemp("store"))), num_threads=1)


def records(values: list[float], levels: tuple[int, int] = (1, 2)) -> np.ndarray:
    """Item records whose embedding is one value, so that a row can be told by looking at it."""
    return item_records(np.zeros((len(values), 5)), [levels] * len(values), [[value] * 8 for value in values])


def put(rows: ItemRows, items: dict[int, float]) -> None:
    rows.update(np.array(list(items)), records(list(items.values())))


def embedding_part(rows: ItemRows, scorer: Scorer, item: int) -> np.ndarray:
    """The stored row of an item's vector, or None where it is unknown."""
    with rows.view() as view:
        row = view.rows(np.array([item]))
        return view.tables._host["target"][row[0]].copy()


def row_of(rows: ItemRows, item: int) -> np.ndarray:
    """All that the tables hold of an item."""
    with rows.view() as view:
        row = view.rows(np.array([item]))[0]
        return np.concatenate([table[row] for table in view.tables.arrays])


def encoded(scorer: Scorer, item: int, value: float) -> np.ndarray:
    return scorer.encode(np.array([item]), np.zeros((1, 5), int), np.full((1, 8), value, np.float32))[0]["target"][0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.one_of(st.none(), st.floats(-3, 3, width=32))), max_size=25))
def test_the_rows_are_a_dictionary_of_items(scorer: Scorer, steps: list[tuple[int, float | None]]) -> None:
    """After any updates and removals every item has its latest row, and every other id row 0."""
    rows, latest = ItemRows(scorer, capacity=1), {}
    for item, value in steps:
        if value is None:
            rows.remove(np.array([item]))
            latest.pop(item, None)
        else:
            put(rows, {item: value})
            latest[item] = value
    assert len(rows) == len(latest)
    for item in range(13):
        wanted = encoded(scorer, item, latest[item]) if item in latest else np.zeros(24, np.float32)
        np.testing.assert_allclose(embedding_part(rows, scorer, item), wanted, atol=1e-6)


def test_a_held_view_never_changes(scorer: Scorer) -> None:
    """Whatever is written meanwhile, the rows that a view leads to keep their values."""
    rows = ItemRows(scorer, capacity=4)
    put(rows, {1: 1.0, 2: 2.0})
    with rows.view() as view:
        row = view.rows(np.array([1, 2]))
        before = view.tables._host["target"][row].copy()
        for step in range(50):
            put(rows, {1: float(step), 2: -float(step)})
        rows.remove(np.array([1]))
        assert np.array_equal(view.rows(np.array([1, 2])), row)
        assert np.array_equal(view.tables._host["target"][row], before)


def test_rows_are_used_again_once_nobody_sees_them(scorer: Scorer) -> None:
    """A thousand updates of one item need no more rows than a few."""
    rows = ItemRows(scorer, capacity=4)
    put(rows, {1: 1.0})
    with rows.view() as view:
        capacity = view.tables.capacity
    for step in range(1000):
        put(rows, {1: float(step)})
    with rows.view() as view:
        assert view.tables.capacity == capacity
    assert rows.num_free_rows == capacity - 2


@pytest.mark.parametrize(("owner", "name"), [(Tables, "write"), (Scorer, "encode"), (ItemRows, "_known_levels")])
def test_rows_that_could_not_be_written_are_free_again(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    """Or tables would grow by each try."""
    rows = ItemRows(scorer, capacity=4)
    free = rows.num_free_rows

    def fail(*_: object) -> None:
        raise OSError("the device is away")

    with monkeypatch.context() as patched:
        patched.setattr(Tables, "adjacent", lambda *_: None)
        patched.setattr(owner, name, fail)
        with pytest.raises(OSError, match="the device is away"):
            put(rows, {1: 1.0, 2: 2.0})
    assert (len(rows), rows.num_free_rows) == (0, free)
    put(rows, {1: 1.0, 2: 2.0})
    assert (len(rows), rows.num_free_rows) == (2, free - 2)


def test_an_id_removed_twice_frees_its_row_once(scorer: Scorer) -> None:
    """A row that were free twice would be given to two items."""
    rows = ItemRows(scorer, capacity=4)
    free = rows.num_free_rows
    put(rows, {1: 1.0})
    rows.remove(np.array([1, 1, 2]))
    assert rows.num_free_rows == free


def test_an_older_view_keeps_the_rows_of_younger_ones(scorer: Scorer) -> None:
    """Views given back out of order free nothing that an older one can see."""
    rows = ItemRows(scorer, capacity=8)
    put(rows, {1: 1.0})
    old, young = rows.view(), rows.view()
    with old as view:
        free = rows.num_free_rows
        put(rows, {1: 2.0})
        with young:
            put(rows, {1: 3.0})
        assert rows.num_free_rows == free - 2
        assert view.rows(np.array([1]))[0] != 0
    assert rows.num_free_rows == free


def test_tables_grow_when_the_catalogue_does(scorer: Scorer) -> None:
    """More items than expected are no error."""
    rows = ItemRows(scorer, capacity=2)
    put(rows, {item: float(item % 7) for item in range(1, 300)})
    assert len(rows) == 299
    np.testing.assert_allclose(embedding_part(rows, scorer, 250), encoded(scorer, 250, 250 % 7), atol=1e-6)


def test_item_0_is_a_candidate_but_padding_in_a_history(scorer: Scorer) -> None:
    """The three kinds of number meet here."""
    rows = ItemRows(scorer)
    put(rows, {0: 0.5, 7: 1.0})
    with rows.view() as view:
        assert (view.rows(np.array([0, 7, 99])) > 0).tolist() == [True, True, False]
        row = view.rows(np.array([7]))[0]
        assert view.history_rows([np.array([0, 7, 99]), np.array([7])]).tolist() == [
            [0] * 6 + [row, 0],
            [0] * 7 + [row],
        ]


def test_a_history_is_cut_first_and_then_looked_up(scorer: Scorer) -> None:
    """Unknown items among the last H take their places; older known ones do not move up."""
    rows = ItemRows(scorer)
    put(rows, {7: 1.0})
    with rows.view() as view:
        assert view.history_rows([np.array([7] + [99] * 8)]).tolist() == [[0] * 8]
        assert view.history_rows([np.zeros(0, np.int64)]).tolist() == [[0] * 8]


def test_stored_levels_go_with_the_row(scorer: Scorer) -> None:
    """An item's levels change with the item; unknown items have level 0."""
    rows = ItemRows(scorer)
    rows.update(np.array([7]), records([1.0], levels=(3, 9)))
    with rows.view() as view:
        assert view.levels(view.rows(np.array([[7, 99]]))).tolist() == [[[3, 9], [0, 0]]]


def test_scores_under_updates_are_old_or_new(scorer: Scorer) -> None:
    """Readers in other threads see each item before or after a change, never between."""
    rows = ItemRows(scorer, capacity=4)
    put(rows, {1: 1.0})
    history, levels = np.zeros((1, 8), np.int64), np.zeros((1, 1, 2), np.int64)

    def score() -> float:
        with rows.view() as view:
            return float(scorer.score(view.tables, view.rows(np.array([[1]])), history, levels)[0, 0])

    legal = {round(score(), 5)}
    put(rows, {1: -2.0})
    legal.add(round(score(), 5))
    assert len(legal) == 2
    seen: set[float] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(round(score(), 5))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    step = 0
    while step < 200 or (seen != legal and step < 100_000):
        put(rows, {1: 1.0 if step % 2 else -2.0})
        step += 1
    done.set()
    for reader in readers:
        reader.join()
    assert seen == legal


def test_an_item_that_overflows_is_unknown(scorer: Scorer) -> None:
    """Of features that the encoder makes infinite no row is ever seen, and an earlier row of the item goes."""
    rows = ItemRows(scorer)
    free = rows.num_free_rows
    put(rows, {1: 1.0, 2: 2.0})
    put(rows, {1: 3e38, 2: 1.5})
    with rows.view() as view:
        assert (view.rows(np.array([1, 2])) > 0).tolist() == [False, True]
    put(rows, {2: 3e38})
    assert len(rows) == 0
    assert rows.num_free_rows == free


def test_rows_of_an_update_that_failed_halfway_are_free_again(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where those items of it that overflow were to be removed."""
    rows = ItemRows(scorer)
    put(rows, {1: 1.0})
    free = rows.num_free_rows

    def fail(*_: object) -> None:
        raise OSError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(ItemRows, "remove", fail)
        with pytest.raises(OSError, match="out of memory"):
            put(rows, {1: 3e38, 2: 1.0})
    assert (len(rows), rows.num_free_rows) == (1, free)


def test_items_are_the_same_in_adjacent_rows_and_in_scattered_ones(scorer: Scorer) -> None:
    """The encoder writes the former itself; the latter, which updates leave, are copied."""
    items = {item_id: float(item_id) for item_id in range(2, 40)}
    adjacent, scattered = ItemRows(scorer, capacity=100), ItemRows(scorer, capacity=100)
    put(adjacent, items)
    scattered._free.rotate(7)
    scattered._free.reverse()
    put(scattered, items)
    for item_id in items:
        np.testing.assert_array_equal(row_of(adjacent, item_id), row_of(scattered, item_id))
    assert row_of(adjacent, 2).any()


def test_a_level_that_the_model_lacks_counts_as_level_0(tmp_path: Path) -> None:
    """Items are stored for any model; one with fewer levels still ranks them."""
    trained = make_trained(num_likes_levels=6)
    few = Scorer(read_bundle(export_model(trained, make_items(), tmp_path)), num_threads=1)
    rows = ItemRows(few)
    rows.update(np.array([7]), records([1.0], levels=(9, 9)))
    with rows.view() as view:
        assert view.levels(view.rows(np.array([7]))).tolist() == [[0, 9]]


def test_tables_end_with_their_last_user(scorer: Scorer) -> None:
    """Nothing keeps the memory of rows that were forgotten until the collector of circles comes by."""
    rows = ItemRows(scorer)
    put(rows, {1: 1.0})
    with rows.view() as view:
        freed = weakref.ref(view.tables)
    del view
    gc.disable()
    try:
        del rows
        assert freed() is None
    finally:
        gc.enable()
