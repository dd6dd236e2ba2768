import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from contract.mmctr import read_items
from tests.training.clicks import replace_column
from training.clickcache import open_click_rows
from training.data import ClickRows, build_catalogue, item_vocabulary, schema_of
from training.errors import DataError, OutputError


@pytest.fixture
def opened(own_clicks: Path, tmp_path: Path) -> Callable[..., ClickRows]:
    """Return what opens the train file of a test's own data by a cache of its own."""

    def open_rows(length: int = 8, worth_bytes: int = 0, cache: Path | None = tmp_path / "cache") -> ClickRows:
        info = read_items(own_clicks / "item_info.parquet")
        schema = schema_of(info, length)
        catalogue = build_catalogue(info, item_vocabulary(info), schema)
        return open_click_rows(own_clicks / "train.parquet", catalogue, schema, cache, worth_bytes)

    return open_rows


def entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.exists() else []


def assert_same(one: ClickRows, other: ClickRows) -> None:
    for name in ("candidate", "history", "levels", "label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


def test_cached_clicks_are_those_of_the_file(
    opened: Callable[..., ClickRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first opening writes them, the second maps them without reading the parquet file's rows."""
    read, first = opened(cache=None), opened()
    monkeypatch.setattr("training.clickcache.iter_click_rows", None)
    second = opened()
    assert isinstance(second.history, np.memmap)
    assert_same(first, read)
    assert_same(second, read)
    assert second.batch(np.array([5, 2])).history.tolist() == read.history[[5, 2]].tolist()


def test_clicks_are_written_in_parts(opened: Callable[..., ClickRows], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that comes in several parts is whole in the cache."""
    read = opened(cache=None)
    monkeypatch.setattr("contract.mmctr._BATCH_IDS", 70 * 64)
    assert_same(opened(), read)


def test_a_changed_file_is_another_entry(opened: Callable[..., ClickRows], own_clicks: Path, tmp_path: Path) -> None:
    """Clicks, the items' order and history length decide what is cached; an old entry stays for its own."""
    opened()
    opened(length=4)
    replace_column(own_clicks / "train.parquet", "label", 0, 1 - int(opened().label[0]))
    changed = opened()
    turn_round(own_clicks / "item_info.parquet")
    opened()
    assert len(entries(tmp_path / "cache")) == 4
    turn_round(own_clicks / "item_info.parquet")
    assert_same(changed, opened(cache=None))


def turn_round(path: Path) -> None:
    """Write a file's rows in the opposite order."""
    table = pq.read_table(path)
    pq.write_table(table.take(list(range(len(table)))[::-1]), path)


def test_few_clicks_are_not_cached(opened: Callable[..., ClickRows], tmp_path: Path) -> None:
    """What is read within a second needs no copy on the disk."""
    opened(worth_bytes=10**6)
    assert entries(tmp_path / "cache") == []


def test_bad_clicks_leave_nothing_in_the_cache(
    opened: Callable[..., ClickRows], own_clicks: Path, tmp_path: Path
) -> None:
    """The error is that of reading, and no half-written entry stays."""
    replace_column(own_clicks / "train.parquet", "item_id", 250, 99_999)
    with pytest.raises(DataError, match="row 250 is 99999"):
        opened()
    assert entries(tmp_path / "cache") == []


def test_an_entry_without_its_mark_is_written_again(opened: Callable[..., ClickRows], tmp_path: Path) -> None:
    """What a crash left half written under its name is not believed."""
    opened()
    (entry,) = entries(tmp_path / "cache")
    (entry / "whole").unlink()
    (entry / "label.npy").unlink()
    assert_same(opened(), opened(cache=None))


def test_entries_that_nobody_opens_are_removed(
    opened: Callable[..., ClickRows], own_clicks: Path, tmp_path: Path
) -> None:
    """When a new one is written, those of a month ago go, and so does what a killed process left."""
    opened()
    (tmp_path / "cache" / ".clicks-killed").mkdir()
    (old,) = (path for path in entries(tmp_path / "cache") if not path.name.startswith("."))
    long_ago = time.time() - 40 * 86_400
    os.utime(old / "whole", (long_ago, long_ago))
    os.utime(tmp_path / "cache" / ".clicks-killed", (long_ago, long_ago))
    pq.write_table(pq.read_table(own_clicks / "train.parquet").slice(1), own_clicks / "train.parquet")
    opened()
    (left,) = entries(tmp_path / "cache")
    assert left != old


def test_a_cache_that_cannot_be_written_is_named(opened: Callable[..., ClickRows], tmp_path: Path) -> None:
    """The error names the folder."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"the cache .*file/cache cannot be written: Not a directory"):
        opened(cache=tmp_path / "file" / "cache")
