from pathlib import Path

import pyarrow as pa
import pytest

from preparation.errors import SourceError
from preparation.identity import load_ids, make_ids, raw_ids

PLACE = Path("log.csv")


def column(*values: object) -> pa.ChunkedArray:
    return raw_ids(PLACE, "item_id", pa.chunked_array([list(values)]))


def test_integers_are_kept_where_they_can_be() -> None:
    """From the smallest allowed id on; else they are numbered in the order in which they come."""
    kept = make_ids("item", column(70, 5, 70), "auto", 1)
    assert kept.kept
    assert kept.ids[kept.positions(column(5, 70))].tolist() == [5, 70]
    numbered = make_ids("item", column(70, 0, 5), "auto", 1)
    assert not numbered.kept
    assert numbered.ids[numbered.positions(column(70, 0, 5))].tolist() == [1, 2, 3]


def test_text_is_numbered_and_text_of_integers_is_integers() -> None:
    """A leading zero makes it text: 007 and 7 are two ids."""
    assert make_ids("item", column("b", "a", "b"), "auto", 1).ids.tolist() == [1, 2]
    assert make_ids("item", column("12", "7"), "auto", 1).ids.tolist() == [12, 7]
    assert make_ids("item", column("007", "7"), "auto", 1).ids.tolist() == [1, 2]


def test_ids_that_cannot_be_kept_are_refused_where_that_is_asked() -> None:
    """The message says why."""
    with pytest.raises(SourceError, match="item ids cannot be kept: they are text, such as 'b'"):
        make_ids("item", column("b"), "keep", 1)
    with pytest.raises(SourceError, match="item ids cannot be kept: 0 is smaller than 1"):
        make_ids("item", column(3, 0), "keep", 1)


def test_what_is_not_in_the_map_has_position_minus_1() -> None:
    """Also where the log has text and the map integers, or the other way round."""
    integers, texts = make_ids("item", column(7, 8), "auto", 1), make_ids("item", column("7", "x"), "auto", 1)
    assert integers.positions(column("8", "x", "9")).tolist() == [1, -1, -1]
    assert texts.positions(column(7, 8)).tolist() == [0, -1]


def test_a_map_goes_on_after_an_earlier_one(tmp_path: Path) -> None:
    """Old ids stay, new ones follow; and it survives the disk."""
    make_ids("user", column("b", "a"), "auto", 0).save(tmp_path / "ids.parquet")
    more = make_ids("user", column("c", "a", "d"), "auto", 0, load_ids(tmp_path / "ids.parquet"))
    assert more.ids[more.positions(column("a", "b", "c", "d"))].tolist() == [2, 1, 3, 4]
    numbers = make_ids("user", column(9, 4), "dense", 0)
    assert make_ids("user", column("x", "4"), "dense", 0, numbers).ids.tolist() == [1, 2, 3]


def test_kept_ids_do_not_become_text(tmp_path: Path) -> None:
    """They would have to be numbered, and old ids would change."""
    before = make_ids("user", column(4), "auto", 0)
    with pytest.raises(SourceError, match="were kept before"):
        make_ids("user", column("x"), "auto", 0, before)


def test_other_kinds_of_id_are_refused() -> None:
    """Ids are integers or text."""
    with pytest.raises(SourceError, match=r"log\.csv: item_id holds double; ids are integers or text"):
        column(1.5)
