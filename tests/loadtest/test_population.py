from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loadtest.errors import WrongCallError
from loadtest.mix import parse_mix
from loadtest.population import Zipf, from_files, from_ranges
from tests.fakes import write_clicks


def test_popularity_follows_zipfs_law() -> None:
    """The r-th id is drawn in proportion to 1/r."""
    zipf = Zipf(np.arange(1, 101), 1.0)
    counts = np.bincount(zipf.draw(np.random.default_rng(1), 200_000), minlength=101)[1:]
    wanted = 200_000 / np.arange(1, 101) / (1 / np.arange(1, 101)).sum()
    assert counts[:5] == pytest.approx(wanted[:5], rel=0.03)
    assert counts[50:].sum() == pytest.approx(wanted[50:].sum(), rel=0.05)


def test_an_exponent_of_zero_makes_all_alike() -> None:
    """Every id is as likely as any other."""
    counts = np.bincount(Zipf(np.arange(10), 0).draw(np.random.default_rng(1), 100_000))
    assert counts == pytest.approx(10_000, rel=0.05)


@pytest.mark.parametrize("count", [1, 20, 499, 500])
def test_candidates_are_different(count: int) -> None:
    """No item stands twice in a list, be it short or the whole catalogue."""
    drawn = Zipf(np.arange(1000, 1500), 1.0).draw_distinct(np.random.default_rng(2), count)
    assert len(set(drawn.tolist())) == count
    assert set(drawn.tolist()) <= set(range(1000, 1500))


def test_popular_items_are_candidates_more_often() -> None:
    """Both ways of drawing different items prefer the popular ones."""
    zipf, generator = Zipf(np.arange(1000), 1.0), np.random.default_rng(3)
    for count in (20, 200):
        drawn = np.concatenate([zipf.draw_distinct(generator, count) for _ in range(100)])
        assert (drawn < 100).mean() > 0.3


def test_more_candidates_than_items_are_a_wrong_call() -> None:
    """The error names both numbers."""
    with pytest.raises(WrongCallError, match="11 different candidates cannot be drawn from 10 items"):
        Zipf(np.arange(10), 1).draw_distinct(np.random.default_rng(1), 11)


def _write_items(path: Path, ids: list[int]) -> Path:
    columns = {
        "item_id": pa.array(ids),
        "item_tags": pa.array([[1] * 5] * len(ids), pa.list_(pa.int64(), 5)),
        "item_emb_d128": pa.array([[0.5] * 8] * len(ids), pa.list_(pa.float32(), 8)),
    }
    pq.write_table(pa.table(columns), path)
    return path


def test_real_ids_come_from_files_by_their_clicks(tmp_path: Path) -> None:
    """Users are those who clicked; the item that was clicked most is the most popular."""
    items = _write_items(tmp_path / "items.parquet", list(range(50)))
    clicks = write_clicks(tmp_path / "clicks.parquet", num_rows=400, num_items=50)
    population = from_files(items, [clicks], (1, 5), 1.0, np.random.default_rng(1))
    assert set(population.users.ids.tolist()) == set(range(400))
    assert set(population.items.ids.tolist()) == set(range(50))
    clicked = np.bincount(pq.read_table(clicks)["item_id"].to_numpy(), minlength=50)
    assert (np.diff(clicked[population.items.ids]) <= 0).all()


def test_without_clicks_users_come_from_the_range(tmp_path: Path) -> None:
    """Items are those of the file, users those from first to last."""
    items = _write_items(tmp_path / "items.parquet", [3, 9, 27])
    population = from_files(items, [], (5, 8), 1.0, np.random.default_rng(1))
    assert set(population.items.ids.tolist()) == {3, 9, 27}
    assert set(population.users.ids.tolist()) == {5, 6, 7, 8}


def test_who_is_popular_depends_on_the_seed() -> None:
    """The same seed makes the same users popular, another one others."""
    first, second, other = (
        from_ranges((1, 100), (1, 100), 1.0, np.random.default_rng(seed)).users.ids for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_mix_keeps_to_its_shares() -> None:
    """Half of the requests have 10 candidates, 40 % have 100, a tenth 1,000."""
    drawn = parse_mix("10:5,100:4,1000:1").draw(np.random.default_rng(1), 500)
    assert np.unique(drawn, return_counts=True)[1].tolist() == [250, 200, 50]
    assert not (np.diff(drawn) >= 0).all()


def test_one_number_of_candidates_is_a_mix_of_one() -> None:
    """All requests have it."""
    assert set(parse_mix("100").draw(np.random.default_rng(1), 7).tolist()) == {100}


@pytest.mark.parametrize("text", ["", "ten", "10:x", "0", "10:-1", "10,,20", "10:inf", "10:nan"])
def test_a_mix_that_makes_no_sense_is_a_wrong_call(text: str) -> None:
    """The error has the text."""
    with pytest.raises(WrongCallError):
        parse_mix(text)
