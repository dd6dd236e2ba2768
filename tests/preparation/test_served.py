from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract.mmctr import read_clicks
from contract.requestlog import REQUEST_LOG
from preparation.errors import SourceError
from preparation.served import read_served
from preparation.settings import make_settings
from tests.preparation.logs import START_S, clicks, prepared

REQUEST = {
    "request_id": "a",
    "time": datetime.fromtimestamp(START_S + 3000, UTC),
    "model": "qin",
    "version": "v",
    "user_id": 7,
    "history": [3, 999, 4],
    "candidates": [11, 12, 13, 14],
    "likes_level": [1, 2, 3, 4],
    "views_level": [5, 6, 7, 8],
    "scores": [0.1, 0.9, 0.5, 0.7],
    "degraded": [],
}


def write_requests(path: Path, *rows: dict) -> Path:
    """Write requests as the service does."""
    pq.write_table(pa.Table.from_pylist([REQUEST | row for row in rows], schema=REQUEST_LOG), path)
    return path


def test_served_rows_have_the_history_and_levels_that_were_used(tmp_path: Path) -> None:
    """The label is from the clicks soon after; nothing is computed anew; unknown items of a history are left out."""
    columns = clicks()
    columns["user_id"][:] = np.where(columns["user_id"] == 7, 8, columns["user_id"])
    soon = {"user_id": [7], "item_id": [13], "time": [START_S + 3050]}
    columns = {name: np.append(columns[name], soon[name]) for name in columns}
    log = write_requests(tmp_path / "served.parquet", {}, {"request_id": "b", "degraded": ["history"]})
    folder = prepared(
        tmp_path / "p", columns, "valid_share=0", "test_share=0", "click_window_s=60", served=log
    ).folder
    rows = read_clicks(folder / "train.parquet", 4)
    assert rows.user_id.tolist() == [7] * 4
    assert rows.item_id.tolist() == [11, 12, 13, 14]
    assert rows.history.tolist() == [[0, 0, 3, 4]] * 4
    assert rows.levels.tolist() == [[1, 5], [2, 6], [3, 7], [4, 8]]
    assert rows.label is not None
    assert rows.label.tolist() == [0, 0, 1, 0]


def test_only_the_best_candidates_count_as_shown_where_that_is_asked(tmp_path: Path) -> None:
    """In the order of the log, with the levels that belong to them."""
    log = write_requests(tmp_path / "served.parquet", {}, {"candidates": [21], "scores": [0.1]} | levels(1))
    served, _ = read_served([log], np.arange(100), make_settings(served_top=2))
    assert served.item.tolist() == [12, 14, 21]
    assert served.request.tolist() == [0, 0, 1]
    assert served.levels.tolist() == [[2, 6], [4, 8], [1, 1]]


def levels(num: int) -> dict:
    return {"likes_level": [1] * num, "views_level": [1] * num}


def test_a_request_whose_clicks_may_still_come_is_no_row(tmp_path: Path) -> None:
    """The log of clicks must go on past the window."""
    late = datetime.fromtimestamp(int(clicks()["time"].max()) - 10, UTC)
    log = write_requests(tmp_path / "served.parquet", {}, {"time": late})
    made = prepared(tmp_path / "p", clicks(), "valid_share=0", "test_share=0", "click_window_s=60", served=log)
    assert sum(made.num_rows.values()) <= 4


def test_lists_of_different_length_are_refused(tmp_path: Path) -> None:
    """Scores belong to candidates."""
    log = write_requests(tmp_path / "served.parquet", {"scores": [0.5]})
    with pytest.raises(SourceError, match="scores and candidates differ in length"):
        read_served([log], np.arange(100), make_settings())
    log = write_requests(tmp_path / "served.parquet", {"likes_level": [1, 2, 3, 11]})
    with pytest.raises(SourceError, match="level outside 0 to 10"):
        read_served([log], np.arange(100), make_settings())


def test_a_folder_stands_for_the_files_in_it(tmp_path: Path) -> None:
    """A service leaves many files, one of them perhaps half written: hidden ones are passed over."""
    folder = tmp_path / "served"
    folder.mkdir()
    with pytest.raises(SourceError, match="folder without a file"):
        read_served([folder], np.arange(20), make_settings())
    for number, name in enumerate(("b.parquet", "a.parquet")):
        write_requests(folder / name, {"user_id": number})
    (folder / ".c.parquet").write_bytes(b"half of a f")
    served, _ = read_served([folder], np.arange(20), make_settings())
    assert served.user.tolist() == [1, 0]
