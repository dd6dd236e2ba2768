import numpy as np
import pytest

from loadtest.samples import LOST, TIMED_OUT, Samples
from loadtest.summary import distribution, percentile, summarise, windows


def _samples(statuses: list[int], latencies_ms: list[float], intended_s: list[float] | None = None) -> Samples:
    count = len(statuses)
    intended = np.array(intended_s if intended_s is not None else np.zeros(count))
    done = intended + np.array(latencies_ms) / 1e3
    nothing = np.zeros(count, dtype=bool)
    ids = np.arange(count)
    return Samples(intended, intended, intended, done, np.array(statuses), nothing, nothing, ids, ids, 0.0)


def test_percentiles_are_values_that_were_measured() -> None:
    """Of 1 to 1,000 the 99th percentile is 990, the 99.9th is 999, and nothing is interpolated."""
    values = np.arange(1, 1001, dtype=np.float64)
    found = distribution(np.random.default_rng(1).permutation(values)).values
    assert found == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (2, 2), (99, 99), (100, 99), (101, 100), (200, 198)])
def test_a_percentile_is_the_nearest_rank(count: int, rank: int) -> None:
    """At least 99 % of all values are no larger than the 99th percentile, and no smaller one does."""
    assert percentile(np.arange(1, count + 1, dtype=np.float64), 99) == rank


def test_percentiles_agree_with_numpy() -> None:
    """They are those of numpy's method without interpolation."""
    values = np.random.default_rng(2).exponential(size=12_345)
    found = distribution(values)
    for name, percent in (("p50", 50), ("p90", 90), ("p99", 99), ("p99.9", 99.9)):
        assert found[name] == np.percentile(values, percent, method="inverted_cdf")


def test_nothing_measured_has_no_percentiles() -> None:
    """They are None rather than 0."""
    assert distribution(np.zeros(0))["p99"] is None


def test_time_outs_count_for_as_long_as_they_waited() -> None:
    """A request that timed out is a failure and a latency."""
    summary = summarise(_samples([200] * 9 + [TIMED_OUT], [5.0] * 9 + [1000.0]), 1)
    assert summary.failures == {"timed out": 1}
    assert summary.latency_ms["max"] == pytest.approx(1000)
    assert summary.latency_ms.count == 10


def test_what_was_refused_makes_nothing_look_quick() -> None:
    """Answers of 503 and lost connections are counted, and are no latencies."""
    summary = summarise(_samples([200, 503, 429, 504, 500, LOST], [50, 1, 2, 3, 1, 1]), 2)
    assert summary.latency_ms.count == 1
    assert summary.latency_ms["p50"] == pytest.approx(50)
    assert summary.shed == {"429": 1, "503": 1, "504": 1}
    assert summary.shed_ms["max"] == pytest.approx(3)
    assert summary.failures == {"connection lost": 1, "500": 1}
    assert (summary.answered, summary.answered_per_s, summary.offered_per_s) == (1, 0.5, 3)


def test_windows_hold_the_requests_that_were_due_in_them() -> None:
    """A request counts in the second in which it was due, whenever it was answered; empty seconds are told of."""
    samples = _samples([200, 200, 503, LOST], [10, 3000, 1, 1], [0.5, 0.6, 2.1, 2.2])
    found = list(windows(samples, 3))
    assert [window.requests for window in found] == [2, 0, 2]
    assert found[0].max == pytest.approx(3000)
    assert found[1].p50 is None
    assert (found[2].shed, found[2].failed) == (1, 1)


def test_the_warm_up_is_not_measured() -> None:
    """Requests that were due before 0 are left out."""
    assert len(_samples([200] * 3, [1] * 3, [-0.1, 0, 1]).measured()) == 2
