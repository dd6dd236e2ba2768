import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.mmctr import read_items
from contract.wire import Item
from preparation.errors import SourceError, StoredError
from preparation.fitted import load_fitted
from preparation.item import prepare_item, read_rows
from tests.preparation.logs import clicks, prepared, write_catalogue


def catalogue(folder: Path) -> list[dict]:
    return [json.loads(line) for line in write_catalogue(folder).read_text().splitlines()]


def test_an_item_of_the_catalogue_is_prepared_as_it_was(plain: Path, tmp_path: Path) -> None:
    """Its embedding to 1e-6, its tags, and levels by its counts."""
    fitted, info = load_fitted(plain / "preparation"), read_items(plain / "item_info.parquet")
    for position, row in enumerate(catalogue(tmp_path)):
        item, remark = prepare_item(fitted, plain / "preparation", row | {"likes": 30, "views": 0}, tmp_path)
        assert (item.item_id, remark) == (row["item_id"], None)
        assert np.abs(np.array(item.embedding) - info.embedding[position]).max() < 1e-6
        assert item.tags == [tag for tag in info.tags[position].tolist() if tag]
        assert item.likes_level == fitted.likes.level(30)
        assert item.views_level == 0


def test_a_fresh_process_prepares_an_item_with_numpy_alone(plain: Path, tmp_path: Path) -> None:
    """`qin prepare-item` loads neither scikit-learn nor scipy nor torch nor pyarrow, and says what PUT takes."""
    row = catalogue(tmp_path)[2]
    (tmp_path / "item.json").write_text(json.dumps(row))
    script = (
        "import sys, qin\n"
        "try: qin.main()\n"
        "finally: print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    arguments = ["prepare-item", "--preparation", str(plain / "preparation"), "--item", str(tmp_path / "item.json")]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert not set(done.stderr.split()) & {"sklearn", "scipy", "torch", "pyarrow"}
    item = msgspec.json.decode(done.stdout, type=Item)
    info = read_items(plain / "item_info.parquet")
    assert item.item_id == row["item_id"]
    assert np.abs(np.array(item.embedding) - info.embedding[2]).max() < 1e-6


def test_a_new_item_keeps_its_id_or_is_told_which_is_free(plain: Path, tmp_path: Path) -> None:
    """Kept ids are the item's own; numbered ones are for the caller to give."""
    fitted = load_fitted(plain / "preparation")
    row = {"item_id": 1000, "title": "topic1word1"}
    assert prepare_item(fitted, plain / "preparation", row, tmp_path)[0].item_id == 1000
    with pytest.raises(SourceError, match="ids were kept, so it is an integer from 1"):
        prepare_item(fitted, plain / "preparation", row | {"item_id": "x"}, tmp_path)
    item, remark = prepare_item(fitted, plain / "preparation", {"title": "x"}, tmp_path)
    assert (item.item_id, remark) == (None, "the item has no item_id; 61 is free")
    folder = prepared(tmp_path / "dense", clicks(), "item_ids=dense").folder / "preparation"
    item, remark = prepare_item(load_fitted(folder), folder, row, tmp_path)
    assert (item.item_id, remark) == (None, "item 1000 is new and ids are numbered: 61 is free")
    assert prepare_item(load_fitted(folder), folder, {"item_id": 9}, tmp_path)[0].item_id == 9


def test_an_item_without_anything_has_no_tags_and_a_zero_embedding(plain: Path, tmp_path: Path) -> None:
    """Unknown words and unknown tags are nothing."""
    row = {"item_id": 1000, "title": "unheard of", "tags": ["unseen"]}
    item, _ = prepare_item(load_fitted(plain / "preparation"), plain / "preparation", row, tmp_path)
    assert (item.tags, set(item.embedding), item.likes_level, item.views_level) == ([], {0.0}, 0, 0)


@pytest.mark.parametrize("count", [-1, 1.5, "7", True])
def test_counts_are_integers(plain: Path, tmp_path: Path, count: object) -> None:
    """0 or more."""
    with pytest.raises(SourceError, match=r"likes is .*; it is a count, 0 or more"):
        prepare_item(load_fitted(plain / "preparation"), plain / "preparation", {"likes": count}, tmp_path)


def test_items_are_read_one_or_one_a_line(tmp_path: Path) -> None:
    """And what is no object is named by its number."""
    (tmp_path / "one.json").write_text('{"a":\n1}')
    (tmp_path / "many.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n[2]\n')
    assert list(read_rows(tmp_path / "one.json")) == [{"a": 1}]
    assert list(read_rows(tmp_path / "many.jsonl")) == [{"a": 1}, {"a": 2}]
    with pytest.raises(SourceError, match="object 2 is not an item as JSON"):
        list(read_rows(tmp_path / "bad.jsonl"))
    with pytest.raises(SourceError, match="cannot be read"):
        list(read_rows(tmp_path / "gone.json"))


def test_a_preparation_that_changed_is_refused(tmp_path: Path) -> None:
    """Missing, other arrays, another description."""
    folder = prepared(tmp_path / "p", clicks(400)).folder / "preparation"
    with pytest.raises(StoredError, match=r"holds no preparation: there is no preparation\.json"):
        load_fitted(tmp_path)
    arrays = folder / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes() + b"x")
    with pytest.raises(StoredError, match="has changed since it was written"):
        load_fitted(folder)
    description = folder / "preparation.json"
    description.write_text(description.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(StoredError, match=r"preparation\.json is not valid: format"):
        load_fitted(folder)
