import numpy as np

from preparation.events import Events
from preparation.shown import clicked_within, is_ripe

SECOND = 1_000_000


def events(*rows: tuple[int, int, float]) -> Events:
    user, item, time_s = (np.array(column) for column in zip(*rows, strict=True))
    return Events(user, item, (time_s * SECOND).astype(np.int64))


def test_a_click_soon_after_an_impression_belongs_to_it() -> None:
    """Of the same user and item; at the very moment too, at the window's end no more, and before it never."""
    shown = events((1, 7, 10), (1, 8, 10), (2, 7, 10), (3, 7, 10), (4, 7, 10))
    clicks = events((1, 7, 12), (2, 7, 70), (3, 7, 10), (4, 7, 9))
    assert clicked_within(shown, clicks, 60).tolist() == [True, False, False, True, False]


def test_one_click_belongs_to_the_last_impression_before_it() -> None:
    """Shown three times and clicked once is one click, whatever the order of the files."""
    shown = events((1, 7, 30), (1, 7, 10), (1, 7, 20))
    assert clicked_within(shown, events((1, 7, 25)), 60).tolist() == [False, False, True]


def test_what_is_too_young_to_know_is_not_ripe() -> None:
    """Where clicks end before the window does, no click means nothing."""
    clicks = events((1, 1, 100))
    assert is_ripe(np.array([39, 40, 41]) * SECOND, clicks, 60).tolist() == [True, True, False]
