from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.clicks import replace_column
from training.checks import Finding, examine, refuse_errors
from training.dataset import read_dataset
from training.errors import DataError
from training.rowscan import row_hashes


def change(path: Path, name: str, values: object) -> None:
    """Give a column of a parquet file other values."""
    table = pq.read_table(path)
    column = pa.array(values, type=table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


def found(folder: Path, kind: str) -> list[str]:
    return [f"{one.check}: {one.message}" for one in examine(folder, 8) if one.kind == kind]


def test_good_data_have_facts_and_nothing_else(clicks: Path) -> None:
    """Every check has something to say."""
    findings = examine(clicks, 8)
    assert {one.kind for one in findings} == {"fact"}
    assert {one.check for one in findings} == {
        "classes", "leak", "users", "items", "histories", "levels", "embeddings"
    }  # fmt: skip
    assert refuse_errors(findings) == []


def one_class(folder: Path) -> None:
    change(folder / "train.parquet", "label", np.zeros(300, dtype=np.int64))


def hardly_a_click(folder: Path) -> None:
    change(folder / "train.parquet", "label", np.arange(300) != 7)


def copied(folder: Path) -> None:
    pq.write_table(pq.read_table(folder / "train.parquet").slice(3, 50), folder / "valid.parquet")


def a_few_copied(folder: Path) -> None:
    valid, train = (pq.read_table(folder / f"{name}.parquet") for name in ("valid", "train"))
    pq.write_table(pa.concat_tables([valid, train.slice(3, 5)]), folder / "valid.parquet")


def own_click(folder: Path) -> None:
    table = pq.read_table(folder / "train.parquet")
    change(
        folder / "train.parquet",
        "item_seq",
        [
            [*history[1:], item]
            for history, item in zip(table["item_seq"].to_pylist(), table["item_id"].to_pylist(), strict=True)
        ],
    )


def no_history(folder: Path) -> None:
    change(folder / "train.parquet", "item_seq", [[0] * 64] * 300)


def one_level(folder: Path) -> None:
    change(folder / "train.parquet", "likes_level", [3] * 300)


def zero_embeddings(folder: Path) -> None:
    change(folder / "item_info.parquet", "item_emb_d128", np.zeros((61, 8)).tolist())


def large_embeddings(folder: Path) -> None:
    change(folder / "item_info.parquet", "item_emb_d128", np.full((61, 8), 1e5).tolist())


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (one_class, "error", "classes: train.parquet: every label is 0; there is nothing to tell apart"),
        (hardly_a_click, "warning", "classes: 99.67% of the 300 rows of train.parquet are clicks"),
        (copied, "error", "leak: 50 rows of valid.parquet (100.0%) are in train.parquet too"),
        (a_few_copied, "warning", "leak: 5 rows of valid.parquet (6.2%) are in train.parquet too, with the same "
                                  "user, item and history; the first is row 75"),
        (own_click, "error", "leak: in 100% of the clicks of train.parquet the history ends with the very item"),
        (no_history, "warning", "histories: every history of train.parquet is empty"),
        (one_level, "warning", "levels: likes_level is 3 in every row of train.parquet: it says nothing"),
        (one_level, "warning", "levels: likes_level: valid.parquet has levels that train.parquet never shows: 0, 1"),
        (zero_embeddings, "error", "embeddings: every embedding of item_info.parquet is zero"),
        (large_embeddings, "warning", "embeddings: numbers up to 1e+05: scale them to about 1"),
    ],
)  # fmt: skip
def test_what_spoils_data_is_found(own_clicks: Path, spoil: Callable[[Path], None], kind: str, message: str) -> None:
    """Errors and warnings say which file, how much, and where."""
    spoil(own_clicks)
    assert any(line.startswith(message) for line in found(own_clicks, kind)), found(own_clicks, kind)


def test_every_file_that_cannot_be_read_is_listed(own_clicks: Path) -> None:
    """One error does not hide the next."""
    items = pq.read_table(own_clicks / "item_info.parquet")
    ids = items["item_id"].to_pylist()
    replace_column(own_clicks / "train.parquet", "item_id", 7, 123_456)
    replace_column(own_clicks / "valid.parquet", "views_level", 3, 11)
    lines = found(own_clicks, "error")
    assert len(lines) == 2
    assert "item_id of row 7 is 123456, which item_info does not hold" in lines[0]
    assert "likes_level or views_level of row 3 is above 10" in lines[1]
    replace_column(own_clicks / "item_info.parquet", "item_id", 5, ids[6])
    lines = found(own_clicks, "error")
    assert len(lines) == 2
    assert "item_id of row 6 repeats an id" in lines[0]
    assert "row 3 is above 10" in lines[1]


def test_rows_without_labels_are_an_error(own_clicks: Path) -> None:
    """Of either file."""
    path = own_clicks / "valid.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["label"]), path)
    assert found(own_clicks, "error") == ["labels: valid.parquet has no column label"]


def test_embeddings_that_are_not_finite_are_an_error(own_clicks: Path) -> None:
    """Named by row."""
    replace_column(own_clicks / "item_info.parquet", "item_emb_d128", 9, [float("nan")] * 8)
    assert "item_emb_d128 of row 9 is not finite" in found(own_clicks, "error")[0]


def test_errors_stop_and_warnings_are_told() -> None:
    """All errors in one message; facts are neither."""
    warning, fact = Finding("warning", "a", "one"), Finding("fact", "b", "two")
    assert refuse_errors([warning, fact]) == ["a: one"]
    with pytest.raises(DataError, match=r"c: three; d: four"):
        refuse_errors([Finding("error", "c", "three"), warning, Finding("error", "d", "four")])


def test_rows_have_one_hash_if_user_item_and_history_are_alike(clicks: Path) -> None:
    """Compared with the rows themselves; a history in another order is another one."""
    rows = read_dataset(clicks, 8).train
    user = np.arange(len(rows)) % 50
    alike = {}
    for row, number in enumerate(row_hashes(rows, user).tolist()):
        alike.setdefault(number, set()).add((int(user[row]), int(rows.candidate[row]), *rows.history[row].tolist()))
    assert all(len(same) == 1 for same in alike.values())
    assert len(alike) == len(set.union(*alike.values()))
    turned = type(rows)(rows.candidate, rows.history[:, ::-1].copy(), rows.levels, rows.label)
    differs = (rows.history != turned.history).any(axis=1)
    assert ((row_hashes(rows, user) != row_hashes(turned, user)) == differs).all()
