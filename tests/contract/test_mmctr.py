from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract.mmctr import MmctrError, read_clicks, read_items

CLICKS = {
    "user_id": [1, 2],
    "item_id": [7, 8],
    "item_seq": [[0, 3, 4], [5, 6, 7]],
    "likes_level": [1, 10],
    "views_level": [0, 2],
    "label": [1.0, 0.0],
}
ITEMS = {"item_id": [0, 7], "item_tags": [[0, 0], [1, 2]], "item_emb_d128": [[0.0, 0.0], [0.5, -0.5]]}


def write(path: Path, columns: dict) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_clicks_are_read_as_they_are_written(tmp_path: Path) -> None:
    """Every column arrives, in row order."""
    clicks = read_clicks(write(tmp_path / "rows.parquet", CLICKS), history_length=3)
    assert clicks.user_id.tolist() == [1, 2]
    assert clicks.history.tolist() == [[0, 3, 4], [5, 6, 7]]
    assert clicks.levels.tolist() == [[1, 0], [10, 2]]
    assert clicks.label is not None
    assert clicks.label.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("length", "wanted"), [(2, [[3, 4], [6, 7]]), (5, [[0, 0, 0, 3, 4], [0, 0, 5, 6, 7]])])
def test_histories_are_cut_and_padded_on_the_left(tmp_path: Path, length: int, wanted: list) -> None:
    """The last items of a history are the ones that count."""
    assert read_clicks(write(tmp_path / "rows.parquet", CLICKS), length).history.tolist() == wanted


def test_histories_may_differ_in_length(tmp_path: Path) -> None:
    """Lists need not be padded in the file."""
    ragged = CLICKS | {"item_seq": [[], [5, 6, 7]]}
    assert read_clicks(write(tmp_path / "rows.parquet", ragged), 2).history.tolist() == [[0, 0], [6, 7]]


def test_rows_without_labels_are_read(tmp_path: Path) -> None:
    """Test rows have no label column."""
    columns = {name: values for name, values in CLICKS.items() if name != "label"}
    assert read_clicks(write(tmp_path / "rows.parquet", columns), 3).label is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"item_id": [7, -8]}, "item_id of row 1 is negative"),
        ({"item_id": [7, None]}, "item_id of row 1 is missing"),
        ({"item_id": [7.5, 8.0]}, "column item_id holds double, not integers"),
        ({"item_seq": [[1], [-1]]}, "item_seq of row 1 holds a negative id"),
        ({"item_seq": [[1.7, 2.2], [3.0]]}, "column item_seq holds double, not integers"),
        ({"item_seq": [[1, 2], [3, None]]}, "item_seq of row 1 holds a missing value"),
        ({"item_seq": [[], [None]]}, "item_seq of row 1 holds a missing value"),
        ({"item_seq": [[1, 2], None]}, "item_seq of row 1 is missing"),
        ({"item_seq": [1, 2]}, "column item_seq holds int64, not lists"),
        ({"likes_level": [11, 0]}, "likes_level or views_level of row 0 is above 10"),
        ({"label": [0.0, float("nan")]}, "label of row 1 is not between 0 and 1"),
    ],
)
def test_clicks_out_of_range_name_column_and_row(tmp_path: Path, change: dict, complaint: str) -> None:
    """Bad values are refused, and the message leads to them."""
    with pytest.raises(MmctrError, match=complaint):
        read_clicks(write(tmp_path / "rows.parquet", CLICKS | change), 3)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    """The message tells which column is missing and which are there."""
    path = write(tmp_path / "rows.parquet", {"user_id": [1], "item_id": [2]})
    with pytest.raises(MmctrError, match="no column item_seq, likes_level, views_level; it has user_id, item_id"):
        read_clicks(path, 3)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"item_id": [7, 7]}, "item_id of row 1 repeats an id"),
        (
            {"item_tags": [[0, 0], [1]]},
            r"item_tags of row 1 has another length than row 0's \(2\); fill all up to one length",
        ),
        ({"item_tags": [[0, 0], [1, -2]]}, "item_tags of row 1 holds a negative tag"),
        ({"item_tags": [[0.0, 0.0], [1.5, 2.5]]}, "column item_tags holds double, not integers"),
        ({"item_tags": [[0, 0], [None, 2]]}, "item_tags of row 1 holds a missing value"),
        ({"item_emb_d128": [[0.0, 0.0], [0.5, None]]}, "item_emb_d128 of row 1 holds a missing value"),
        ({"item_emb_d128": [[0.0, 0.0], [0.5, float("inf")]]}, "item_emb_d128 of row 1 is not finite"),
    ],
)
def test_items_out_of_range_name_column_and_row(tmp_path: Path, change: dict, complaint: str) -> None:
    """Bad items are refused, and the message leads to them."""
    with pytest.raises(MmctrError, match=complaint):
        read_items(write(tmp_path / "items.parquet", ITEMS | change))


def test_a_file_that_is_not_parquet_is_an_error_of_its_own(tmp_path: Path) -> None:
    """A wrong file is told from a missing one."""
    wrong = tmp_path / "rows.parquet"
    wrong.write_bytes(b"not parquet at all")
    with pytest.raises(MmctrError, match="cannot be read as parquet"):
        read_clicks(wrong, 3)
    with pytest.raises(MmctrError, match="does not exist"):
        read_items(tmp_path / "nothing.parquet")


def test_fixed_size_lists_are_lists_too(tmp_path: Path) -> None:
    """Writers that know the width may say so."""
    table = pa.table(CLICKS).set_column(2, "item_seq", pa.array(CLICKS["item_seq"], pa.list_(pa.int32(), 3)))
    pq.write_table(table, tmp_path / "rows.parquet")
    assert np.array_equal(read_clicks(tmp_path / "rows.parquet", 3).history, CLICKS["item_seq"])


def test_a_missing_value_is_named_by_its_row_in_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of any length before it, and parts read before it, count as rows, not as values."""
    monkeypatch.setattr("contract.mmctr._BATCH_IDS", 4 * 64)
    histories = [[1], [], [2, 3, 4], [5], [6, 7], [], [], [8, None], [9]]
    columns = {name: [1] * len(histories) for name in CLICKS} | {"item_seq": histories}
    with pytest.raises(MmctrError, match="item_seq of row 7 holds a missing value"):
        read_clicks(write(tmp_path / "rows.parquet", columns), 2)


def test_a_damaged_column_name_is_an_error_of_its_own(tmp_path: Path) -> None:
    """Names that are no text are found on reading them."""
    path = write(tmp_path / "rows.parquet", CLICKS)
    path.write_bytes(path.read_bytes().replace(b"likes_level", b"likes_\xffevel"))
    with pytest.raises(MmctrError, match=r"rows\.parquet cannot be read as parquet"):
        read_clicks(path, 3)


@pytest.mark.parametrize(("columns", "read"), [(CLICKS, lambda path: read_clicks(path, 3)), (ITEMS, read_items)])
def test_damaged_pages_are_an_error_of_their_own(
    tmp_path: Path, columns: dict, read: Callable[[Path], object]
) -> None:
    """The footer may be whole where the data is not."""
    path = write(tmp_path / "rows.parquet", columns)
    data = path.read_bytes()
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    path.write_bytes(data[:start] + b"\xff" * 40 + data[start + 40 :])
    with pytest.raises(MmctrError, match=r"rows\.parquet cannot be read as parquet"):
        read(path)
