import numpy as np

from preparation.events import Events
from preparation.negatives import Met, sampled_negatives, shown_negatives
from preparation.rows import Rows
from preparation.settings import make_settings

NUM_ITEMS = 30


def some_clicks() -> Events:
    """Clicks of 20 users on the first 20 of 30 items; item 0 is by far the most popular."""
    generator = np.random.default_rng(1)
    item = np.where(generator.random(400) < 0.3, 0, generator.integers(0, 20, 400))
    return Events(generator.integers(0, 20, 400), item, np.arange(400))


def negatives(*settings: str) -> tuple[Events, Rows]:
    clicks = some_clicks()
    popular = np.bincount(clicks.item, minlength=NUM_ITEMS)
    return clicks, sampled_negatives(clicks, popular, Met(clicks, NUM_ITEMS), make_settings(settings=settings))


def test_no_negative_is_an_item_that_the_user_ever_clicked() -> None:
    """Neither before nor after the row."""
    clicks, rows = negatives()
    met = set(zip(clicks.user.tolist(), clicks.item.tolist(), strict=True))
    assert len(rows) == 4 * len(clicks)
    assert not met & set(zip(rows.user.tolist(), rows.item.tolist(), strict=True))
    assert not rows.clicked.any()


def test_the_negatives_of_a_click_are_distinct_and_of_its_user_and_moment() -> None:
    """Each click is told from the others by its time here."""
    clicks, rows = negatives("num_negatives=3")
    of_click = [rows.where(rows.time == time) for time in clicks.time]
    assert all(len(set(part.item.tolist())) == len(part) == 3 for part in of_click)
    assert all((part.user == user).all() for part, user in zip(of_click, clicks.user, strict=True))


def test_negatives_are_uniform_or_popular_as_asked() -> None:
    """Uniformly the items that nobody clicked have their share; by popularity they never come."""
    _, uniform = negatives("uniform_share=1")
    _, popular = negatives("uniform_share=0", "num_negatives=1")
    assert 0.3 < (uniform.item >= 20).mean() < 0.7
    assert not (popular.item >= 20).any()


def test_the_same_seed_gives_the_same_negatives() -> None:
    """And another seed gives others."""
    assert negatives()[1].item.tolist() == negatives()[1].item.tolist()
    assert negatives()[1].item.tolist() != negatives("seed=7")[1].item.tolist()


def test_a_user_who_met_nearly_everything_gets_what_is_left() -> None:
    """Fewer negatives than asked for, and no endless search."""
    clicks = Events(np.zeros(8, dtype=np.int64), np.arange(8), np.arange(8))
    popular = np.ones(10, dtype=np.int64)
    rows = sampled_negatives(clicks, popular, Met(clicks, 10), make_settings(num_negatives=4))
    assert set(rows.item.tolist()) == {8, 9}
    assert len(rows) == 16


def shown(clicked: list[bool]) -> Rows:
    num = len(clicked)
    return Rows.logged(np.ones(num, dtype=np.int64), np.arange(num), np.arange(num), np.array(clicked))


def test_what_was_shown_and_clicked_elsewhere_is_no_negative() -> None:
    """User 1 clicked item 2 at another time, so its impression without a click is left out."""
    met = Met(Events(np.array([1]), np.array([2]), np.array([99])), 10)
    rows = shown_negatives(shown([True, False, False, False]), met, make_settings())
    assert rows.item.tolist() == [0, 1, 3]


def test_of_what_was_shown_at_most_so_many_are_kept_for_each_click() -> None:
    """All clicks stay, and order stays."""
    met = Met(Events(np.array([5]), np.array([2]), np.array([99])), 100)
    rows = shown_negatives(shown([True, *[False] * 20, True]), met, make_settings(num_negatives=3))
    assert (len(rows), int(rows.clicked.sum())) == (8, 2)
    assert rows.time.tolist() == sorted(rows.time.tolist())
