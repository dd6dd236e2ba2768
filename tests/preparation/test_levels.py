import numpy as np
import pytest

from preparation.levels import fit_edges, to_levels
from preparation.settings import make_settings


@pytest.mark.parametrize("rule", ["quantile", "log"])
def test_no_count_is_level_0_and_any_other_is_1_to_10(rule: str) -> None:
    """Also for counts beyond what was seen, and never lower for more."""
    edges = fit_edges(np.array([0, 1, 5, 100, 7, 7]), make_settings(settings=[f"levels={rule}"]))
    assert to_levels(np.array([0, 1, 10**9]), edges).tolist() == [0, 1, 10]
    assert (np.diff(to_levels(np.arange(1000), edges)) >= 0).all()


def test_quantile_levels_are_of_equal_size() -> None:
    """A tenth of the counts each; zeros do not count."""
    counts = np.concatenate([np.arange(1, 1001), np.zeros(500, dtype=np.int64)])
    levels = to_levels(counts[:1000], fit_edges(counts, make_settings()))
    assert np.abs(np.bincount(levels)[1:] - 100).max() <= 1


def test_log_levels_are_of_equal_ratio() -> None:
    """Up to 1023 counts each level begins at twice the count of the one below."""
    edges = fit_edges(np.array([1, 1023]), make_settings(settings=["levels=log"]))
    assert np.allclose(edges, 2.0 ** np.arange(10))


def test_without_any_count_levels_are_the_counts() -> None:
    """A first log may have no training row with a count before it."""
    assert to_levels(np.array([0, 1, 2, 50]), fit_edges(np.zeros(3, dtype=np.int64), make_settings())).tolist() == [
        0,
        1,
        2,
        10,
    ]
