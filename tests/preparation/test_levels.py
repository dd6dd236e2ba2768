import numpy as np
import pytest

from preparation.events import Events
from preparation.levels import LevelRule, fit_edges, to_levels, to_shares
from preparation.settings import make_settings
from preparation.timeline import Popularity


@pytest.mark.parametrize("rule", ["quantile", "log"])
def test_nothing_is_level_0_and_any_other_share_is_1_to_10(rule: str) -> None:
    """Also for shares beyond what was seen, and never lower for more."""
    edges = fit_edges(np.array([0, 0.01, 0.5, 100, 7, 7]), make_settings(settings=[f"levels={rule}"]))
    assert to_levels(np.array([0, 1e-6, 1e9]), edges).tolist() == [0, 1, 10]
    assert (np.diff(to_levels(np.arange(1000) / 5, edges)) >= 0).all()


def test_quantile_levels_are_of_equal_size() -> None:
    """A tenth of the shares each; zeros do not count."""
    shares = np.concatenate([np.arange(1, 1001), np.zeros(500)]) / 7
    levels = to_levels(shares[:1000], fit_edges(shares, make_settings()))
    assert np.abs(np.bincount(levels)[1:] - 100).max() <= 1


def test_log_levels_are_of_equal_ratio() -> None:
    """From the smallest share to the largest, here each twice the one before."""
    edges = fit_edges(np.array([0.5, 512]), make_settings(settings=["levels=log"]))
    assert np.allclose(edges[1:], 2.0 ** np.arange(9))
    assert to_levels(np.array([0.5, 1.5, 512, 1e5]), edges).tolist() == [1, 2, 10, 10]


def test_without_any_count_there_are_levels_all_the_same() -> None:
    """A first log may have no training row with a count before it."""
    assert to_levels(np.array([0, 1e-9, 5]), fit_edges(np.zeros(3), make_settings())).tolist() == [0, 1, 10]


def test_shares_do_not_grow_with_the_log() -> None:
    """An item of every fourth click has a share of 2.5 among ten, early and late; before any click it has 0."""
    time = np.arange(4000)
    items = np.where(time % 4 == 0, 3, np.random.default_rng(1).integers(4, 10, 4000))
    popularity = Popularity(Events(time, items, time), 10)
    shares = popularity.shares(np.array([3, 3, 3, 0]), np.array([0, 400, 4000, 4000]))
    assert shares.tolist() == pytest.approx([0, 2.5, 2.5, 0])
    assert popularity.total == 4000


def test_one_count_has_the_level_that_its_share_has() -> None:
    """As prepared rows at the end of the log."""
    rule = LevelRule(fit_edges(np.arange(1, 101) / 50, make_settings()), total=1000, num_items=20)
    assert [rule.level(count) for count in (0, 1, 50, 500)] == [0, 1, 5, 10]
    assert rule.level(50) == to_levels(to_shares(np.array([50]), 1000, 20), rule.edges)[0]
