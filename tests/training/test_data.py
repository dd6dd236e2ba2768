import hashlib
import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from contract.mmctr import ItemInfo, MmctrError, read_items
from tests.training.clicks import replace_column, write_data
from training.data import (
    build_catalogue,
    fingerprint,
    item_vocabulary,
    read_click_rows,
    schema_of,
    shuffled,
)
from training.dataset import read_dataset
from training.errors import DataError

ITEMS = ItemInfo(
    item_id=np.array([70, 0, 5]),
    tags=np.array([[1, 2], [3, 0], [0, 9]]),
    embedding=np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], dtype=np.float32),
)
SCHEMA = schema_of(ITEMS, history_length=8)


def test_the_vocabulary_is_padding_and_then_the_ids_ascending() -> None:
    """Item 0 is padding to the id embedding, whether or not it is in the catalogue."""
    assert item_vocabulary(ITEMS).tolist() == [0, 5, 70]
    assert (SCHEMA.num_items, SCHEMA.num_tags, SCHEMA.max_tags, SCHEMA.embedding_width) == (3, 10, 2, 3)


def test_item_i_lies_in_table_row_i_plus_1_below_a_row_of_zeros() -> None:
    """Item id, vocabulary row and table row are three numbers; item 0 has features and vocabulary row 0."""
    catalogue = build_catalogue(ITEMS, item_vocabulary(ITEMS), SCHEMA)
    assert catalogue.index.rows(np.array([70, 0, 5, 6])).tolist() == [1, 2, 3, 0]
    assert catalogue.items.vocabulary_row.tolist() == [0, 2, 0, 1]
    assert catalogue.items.tags.tolist() == [[0, 0], [1, 2], [3, 0], [0, 9]]
    assert catalogue.items.embedding[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(catalogue.items.embedding[1:], torch.from_numpy(ITEMS.embedding))


def test_what_a_model_was_not_trained_on_is_cold_or_dropped() -> None:
    """An id outside the vocabulary gets vocabulary row 0; a tag outside it an empty slot, and is counted."""
    smaller = SCHEMA.model_copy(update={"num_items": 2, "num_tags": 3})
    catalogue = build_catalogue(ITEMS, np.array([0, 5]), smaller)
    assert catalogue.items.vocabulary_row.tolist() == [0, 0, 0, 1]
    assert catalogue.items.tags.tolist() == [[0, 0], [1, 2], [0, 0], [0, 0]]
    assert catalogue.num_unknown_tags == 2


@pytest.mark.parametrize("change", [{"max_tags": 3}, {"embedding_width": 4}])
def test_items_of_another_width_than_the_model_are_refused(change: dict[str, int]) -> None:
    """Tag slots and embedding width must be the model's."""
    with pytest.raises(DataError, match="2 tag slots and embeddings of width 3"):
        build_catalogue(ITEMS, item_vocabulary(ITEMS), SCHEMA.model_copy(update=change))


def test_items_that_no_model_could_hold_are_refused() -> None:
    """No item at all, or more tag slots than a schema allows."""
    with pytest.raises(DataError, match="item_info cannot be learned from: max_tags"):
        schema_of(ItemInfo(ITEMS.item_id[:0], ITEMS.tags[:0, :0], ITEMS.embedding[:0, :0]), 8)
    with pytest.raises(DataError, match="max_tags: Input should be less than or equal to 64"):
        schema_of(ItemInfo(ITEMS.item_id, np.ones((3, 65), dtype=np.int64), ITEMS.embedding), 8)


def test_clicks_become_the_table_rows_of_their_items(clicks: Path) -> None:
    """Candidates and histories point at their own items; padding points at row 0; nothing else changes."""
    data = read_dataset(clicks, history_length=8)
    table = pq.read_table(clicks / "train.parquet")
    ids = np.concatenate([[-1], read_items(clicks / "item_info.parquet").item_id])
    histories = np.array([row[-8:] for row in table["item_seq"].to_pylist()])
    assert ids[data.train.candidate].tolist() == table["item_id"].to_pylist()
    np.testing.assert_array_equal(np.where(data.train.history > 0, ids[data.train.history], 0), histories)
    assert (histories == 0).all(axis=1).any()
    assert data.train.levels[:, 1].tolist() == table["views_level"].to_pylist()
    assert data.train.label is not None
    assert data.train.label.tolist() == table["label"].to_pylist()


def test_item_0_is_a_candidate_but_padding_in_a_history(own_clicks: Path) -> None:
    """Id 0 has a table row of its own as a candidate; in a history it is row 0."""
    replace_column(own_clicks / "train.parquet", "item_id", 3, 0)
    data = read_dataset(own_clicks, history_length=8)
    assert data.train.candidate[3] == 1
    assert not (data.train.history == 1).any()


def test_batches_carry_row_numbers_only(clicks: Path) -> None:
    """A batch holds rows, levels and labels of the clicks asked for, and no feature of an item."""
    rows = read_dataset(clicks, history_length=8).train
    batch = rows.batch(np.array([5, 2]))
    assert rows.label is not None
    assert batch.label is not None
    assert batch.candidate.tolist() == rows.candidate[[5, 2]].tolist()
    assert batch.history.tolist() == rows.history[[5, 2]].tolist()
    assert batch.levels.tolist() == rows.levels[[5, 2]].tolist()
    assert batch.label.tolist() == rows.label[[5, 2]].tolist()


def test_clicks_are_kept_as_int32(clicks: Path) -> None:
    """A history of 64 takes 256 bytes, not 512."""
    rows = read_dataset(clicks, history_length=64).train
    assert (rows.history.dtype, rows.history.shape[1]) == (np.int32, 64)
    assert (rows.candidate.dtype, rows.levels.dtype) == (np.int32, np.int32)


def test_shuffling_follows_from_seed_and_epoch() -> None:
    """Each epoch has every row once, the last batch is kept, and the same pair gives the same order."""
    batches = [list(map(list, shuffled(10, 4, seed, epoch))) for seed, epoch in ((1, 1), (1, 1), (1, 2), (2, 1))]
    assert [len(batch) for batch in batches[0]] == [4, 4, 2]
    assert sorted(row for batch in batches[0] for row in batch) == list(range(10))
    assert batches[0] == batches[1]
    assert batches[0] != batches[2]
    assert batches[0] != batches[3]


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "sizes"),
    [(9, 4, [4, 5]), (5, 4, [5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1])],
)
def test_a_lone_last_row_joins_the_batch_before_it(num_rows: int, batch_size: int, sizes: list[int]) -> None:
    """BatchNorm cannot take one row; every row is still there once."""
    batches = list(shuffled(num_rows, batch_size, seed=1, epoch=1))
    assert [len(batch) for batch in batches] == sizes
    assert sorted(np.concatenate(batches)) == list(range(num_rows))


@pytest.mark.parametrize(("num_rows", "window"), [(1000, 128), (1000, 640), (1000, 64), (130, 128), (100, 200)])
def test_a_window_mixes_pieces_from_anywhere(num_rows: int, window: int) -> None:
    """Every row comes once, batches are full and ascending, two epochs differ, a batch is no neighbourhood."""
    first, second = ([batch.tolist() for batch in shuffled(num_rows, 16, 1, epoch, window)] for epoch in (1, 2))
    assert sorted(itertools.chain(*first)) == list(range(num_rows))
    assert {len(batch) for batch in first[:-1]} == {16}
    assert all(batch == sorted(batch) for batch in first)
    assert first != second
    assert max(first[0]) - min(first[0]) > num_rows / 4


def test_a_window_keeps_little_in_memory() -> None:
    """The order of a billion rows begins at once, since only the order of its pieces is drawn at first."""
    batch = next(shuffled(10**9, 4096, seed=1, epoch=1, window=2**20))
    assert len(np.unique(batch)) == 4096
    assert np.ptp(batch) > 5e8


def test_the_fingerprint_is_of_contents_in_order(tmp_path: Path) -> None:
    """The same bytes under other names count as the same data; other bytes or another order do not."""
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (tmp_path / name for name in "abc")
    assert fingerprint(a, b) == fingerprint(c, b)
    assert fingerprint(a, b) != fingerprint(b, a)
    digests = hashlib.sha256(b"1").digest() + hashlib.sha256(b"2").digest()
    assert fingerprint(a, b) == hashlib.sha256(digests).hexdigest()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("item_id", 123_456, "train.parquet: item_id of row 7 is 123456, which item_info does not hold"),
        ("item_seq", [0, 5, 123_456], "train.parquet: item_seq of row 7 is 123456, which item_info does not hold"),
    ],
)
def test_an_item_outside_item_info_is_named(own_clicks: Path, column: str, value: object, message: str) -> None:
    """The error says file, column, row and id."""
    if column == "item_seq":
        value = [int(read_items(own_clicks / "item_info.parquet").item_id[3]), 0, 123_456]
    replace_column(own_clicks / "train.parquet", column, 7, value)
    with pytest.raises(DataError, match=message):
        read_dataset(own_clicks, history_length=8)


def test_a_row_is_named_by_its_place_in_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in parts; row numbers count from the file's start."""
    monkeypatch.setattr("contract.mmctr._BATCH_IDS", 100 * 64)
    folder = write_data(tmp_path, num_rows=300, num_items=60)
    replace_column(folder / "train.parquet", "item_id", 250, 99_999)
    with pytest.raises(DataError, match="row 250 is 99999"):
        read_dataset(folder, history_length=8)


@pytest.mark.parametrize("name", ["train.parquet", "valid.parquet"])
def test_rows_without_labels_cannot_be_trained_on(own_clicks: Path, name: str) -> None:
    """Both train and valid need the column label."""
    table = pq.read_table(own_clicks / name)
    pq.write_table(table.drop_columns(["label"]), own_clicks / name)
    with pytest.raises(DataError, match=f"{name} has no column label"):
        read_dataset(own_clicks, history_length=8)


REAL = Path(__file__).parents[2].parent / "shared" / "data" / "microlens-50k"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="needs MicroLens-50k")
def test_microlens_50k_is_read_whole() -> None:
    """The counts that the data set states: rows, vocabularies, five items a history, one click in five."""
    data = read_dataset(REAL, history_length=64)
    assert (len(data.train), len(data.valid)) == (1_048_540, 50_000)
    assert (data.schema.num_items, data.schema.num_tags, data.schema.embedding_width) == (19_221, 4_010, 128)
    assert (data.train.history != 0).sum(1).mean() == pytest.approx(4.8875, abs=1e-4)
    assert data.train.label is not None
    assert data.train.label.mean() == pytest.approx(0.2)


def test_a_missing_column_is_named(own_clicks: Path) -> None:
    """The error says which column of which file is missing."""
    table = pq.read_table(own_clicks / "valid.parquet")
    pq.write_table(table.drop_columns(["views_level"]), own_clicks / "valid.parquet")
    with pytest.raises(MmctrError, match=r"valid\.parquet has no column views_level"):
        read_dataset(own_clicks, history_length=8)


def test_validation_rows_of_one_class_are_refused(own_clicks: Path) -> None:
    """Without both classes there is no AUC, so no epoch could be chosen."""
    table = pq.read_table(own_clicks / "valid.parquet")
    position = table.column_names.index("label")
    constant = table.set_column(position, "label", [np.ones(len(table), dtype=np.int64)])
    pq.write_table(constant, own_clicks / "valid.parquet")
    with pytest.raises(DataError, match="every label is 1"):
        read_dataset(own_clicks, history_length=8)


def test_a_level_outside_the_vocabulary_of_a_model_is_refused(clicks: Path) -> None:
    """A model with fewer levels than the data says so rather than read past its table."""
    info = read_items(clicks / "item_info.parquet")
    schema = schema_of(info, 8).model_copy(update={"num_views_levels": 10})
    catalogue = build_catalogue(info, item_vocabulary(info), schema)
    with pytest.raises(DataError, match="level that the model does not know"):
        read_click_rows(clicks / "valid.parquet", catalogue, schema)


def test_a_soft_label_is_refused(own_clicks: Path) -> None:
    """Labels are 0 or 1."""
    table = pq.read_table(own_clicks / "train.parquet")
    position = table.column_names.index("label")
    pq.write_table(table.set_column(position, "label", [np.full(len(table), 0.5)]), own_clicks / "train.parquet")
    with pytest.raises(DataError, match="row 0 has a label that is neither 0 nor 1"):
        read_dataset(own_clicks, history_length=8)
