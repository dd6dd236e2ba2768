import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from preparation.catalogue import read_catalogue
from preparation.errors import PreparationError, SourceError
from preparation.events import read_log
from preparation.settings import make_settings
from preparation.source import read_table, read_times
from tests.preparation.logs import clicks, prepared, write

LOG = {"user_id": ["u", "v"], "item_id": ["7", "08"], "time": [10, 20], "label": [1, 0]}


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_the_three_formats_say_the_same(tmp_path: Path, suffix: str) -> None:
    """Ids that look like numbers stay text where one of them is."""
    log = read_log([write(tmp_path / f"log.{suffix}", LOG)], make_settings())
    assert log.user.to_pylist() == ["u", "v"]
    assert log.item.to_pylist() == ["7", "08"]
    assert log.time.tolist() == [10_000_000, 20_000_000]
    assert log.clicked is not None
    assert log.clicked.tolist() == [True, False]


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-01T00:00:10Z", "2024-01-01T00:00:20Z"],
        ["2024-01-01 00:00:10", "2024-01-01 00:00:20"],
        ["2024-01-01T01:00:10+01:00", "2024-01-01T01:00:20+01:00"],
        [datetime(2024, 1, 1, 0, 0, 10), datetime(2024, 1, 1, 0, 0, 20)],
        [1_704_067_210, 1_704_067_220],
        [1_704_067_210.0, 1_704_067_220.0],
    ],
)
def test_times_may_be_text_timestamps_or_numbers(tmp_path: Path, times: list) -> None:
    """All become microseconds since 1970."""
    path = write(tmp_path / "log.parquet", {"time": times})
    table = read_table(path, ["time"])
    assert read_times(path, table, "time", "s").tolist() == [1_704_067_210_000_000, 1_704_067_220_000_000]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"user_id": ["u", None]}, "user_id is missing in 1 rows, the first of them row 1"),
        ({"time": ["today", "tomorrow"]}, "time holds string that cannot be read as times"),
        ({"time": [1_704_067_210_000] * 2}, "time lies after the year 2100 if its unit is s"),
        ({"label": [1, 2]}, "label of row 1 is 2, neither 0 nor 1"),
        ({"label": ["yes", "no"]}, "label holds string, not 0 and 1"),
        ({"item_id": [1.5, 2.5]}, "item_id holds double; ids are integers or text"),
    ],
)
def test_a_log_that_cannot_be_used_says_where(tmp_path: Path, change: dict, complaint: str) -> None:
    """File, column and row."""
    path = write(tmp_path / "log.parquet", LOG | change)
    with pytest.raises(SourceError, match=rf"log\.parquet: {complaint}"):
        read_log([path], make_settings())


def test_missing_files_columns_and_unknown_formats_are_named(tmp_path: Path) -> None:
    """With what there is instead."""
    with pytest.raises(SourceError, match=r"gone\.csv does not exist"):
        read_log([tmp_path / "gone.csv"], make_settings())
    with pytest.raises(SourceError, match=r"the suffix is none of \.parquet, \.csv"):
        read_log([tmp_path / "log.xls"], make_settings())
    path = write(tmp_path / "log.csv", {"user_id": [1], "item_id": [2]})
    with pytest.raises(SourceError, match="no column time; it has user_id, item_id"):
        read_log([path], make_settings())
    (tmp_path / "broken.parquet").write_bytes(b"no")
    with pytest.raises(SourceError, match="cannot be read as parquet"):
        read_log([tmp_path / "broken.parquet"], make_settings())


def test_several_logs_are_one(tmp_path: Path) -> None:
    """In the order given; but not some with labels and some without."""
    first = write(tmp_path / "a.csv", LOG)
    second = write(tmp_path / "b.jsonl", LOG)
    assert len(read_log([first, second], make_settings())) == 4
    bare = write(tmp_path / "c.parquet", {name: values for name, values in LOG.items() if name != "label"})
    with pytest.raises(SourceError, match=r"c\.parquet has no column label, the other logs have"):
        read_log([first, bare], make_settings())


def test_columns_may_be_called_otherwise(tmp_path: Path) -> None:
    """--column role=name."""
    path = write(tmp_path / "log.csv", {"who": [1], "what": [2], "when": [3]})
    settings = make_settings(["user=who", "item=what", "time=when"])
    assert read_log([path], settings).item.to_pylist() == [2]


def test_a_catalogue_has_text_tags_and_images_as_far_as_it_has_them(tmp_path: Path) -> None:
    """Texts are joined, tags come as a list or with separators, images are found beside the file."""
    rows = [
        {"item_id": 4, "title": " one ", "description": "two", "tags": ["x", "y", "x"], "image": "a.png"},
        {"item_id": 5, "title": None, "description": None, "tags": None, "image": None},
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    catalogue = read_catalogue(path, make_settings())
    assert catalogue.text == ["one two", ""]
    assert catalogue.tags == [["x", "y"], []]
    assert catalogue.image == [tmp_path / "a.png", None]
    (tmp_path / "items.csv").write_text("item_id,tags\n4,x|y\n5,\n")
    assert read_catalogue(tmp_path / "items.csv", make_settings()).tags == [["x", "y"], []]
    (tmp_path / "ids.csv").write_text("item_id\n4\n5\n")
    assert read_catalogue(tmp_path / "ids.csv", make_settings()).text == ["", ""]


def test_an_id_twice_in_a_catalogue_is_refused(tmp_path: Path) -> None:
    """It would not be known which one counts."""
    (tmp_path / "items.csv").write_text("item_id,title\n4,x\n5,y\n4,z\n")
    with pytest.raises(SourceError, match="item_id 4 occurs more than once; 1 ids do"):
        read_catalogue(tmp_path / "items.csv", make_settings())


@pytest.mark.parametrize(
    ("columns", "settings", "complaint"),
    [
        (["users=x"], [], "there is no column 'users'; there are image, item, label, tags, text, time, user"),
        ([], ["widht=3"], "there is no setting 'widht'"),
        ([], ["width=none"], "width: Input should be a valid integer"),
        ([], ["valid_share=0.6", "test_share=0.6"], "leave nothing to train on"),
    ],
)
def test_settings_that_cannot_be_taken_are_named(columns: list[str], settings: list[str], complaint: str) -> None:
    """With what could be."""
    with pytest.raises(PreparationError, match=complaint):
        make_settings(columns, settings)


def test_ids_of_a_large_csv_do_not_depend_on_where_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of numbers before a block of text is no reason to fail."""
    monkeypatch.setattr("preparation.source._BLOCK_BYTES", 4096)
    columns = clicks(1000)
    ids = [*(str(item) for item in columns["item_id"][:-1]), "last"]
    table = pa.table(columns | {"item_id": ids})
    path = write(tmp_path / "log.csv", {name: table[name] for name in table.column_names})
    assert read_log([path], make_settings()).item.to_pylist() == ids


def test_tags_of_a_csv_stay_as_they_are_written(tmp_path: Path) -> None:
    """007 is no number, whatever the other rows hold."""
    (tmp_path / "items.csv").write_text("item_id,title,tags\n4,12,007\n5,013,8\n")
    catalogue = read_catalogue(tmp_path / "items.csv", make_settings())
    assert (catalogue.text, catalogue.tags) == (["12", "013"], [["007"], ["8"]])


def test_a_log_without_events_is_refused(tmp_path: Path) -> None:
    """There is nothing to learn from."""
    with pytest.raises(SourceError, match="events: there are none"):
        prepared(tmp_path, {name: values[:0] for name, values in clicks().items()})
