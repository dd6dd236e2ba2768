import numpy as np
import pytest

from loadtest.arrivals import Segment, arrival_times, bursts


def test_poisson_arrivals_have_independent_exponential_gaps() -> None:
    """Gaps have the mean and the spread of an exponential, and one does not tell of the next."""
    times = arrival_times([Segment(100, 500)], np.random.default_rng(3))
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1 / 500, rel=0.02)
    assert gaps.std() == pytest.approx(1 / 500, rel=0.02)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02
    # An exponential exceeds twice its mean with a probability of exp(-2).
    assert (gaps > 2 / 500).mean() == pytest.approx(np.exp(-2), rel=0.05)


def test_the_number_of_poisson_arrivals_in_a_second_varies_as_it_should() -> None:
    """Counts in windows have a variance like their mean."""
    counts = np.histogram(arrival_times([Segment(2000, 50)], np.random.default_rng(4)), bins=2000, range=(0, 2000))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.12)


def test_even_arrivals_have_equal_gaps() -> None:
    """All gaps are the same."""
    times = arrival_times([Segment(2, 10)], np.random.default_rng(1), "even")
    assert len(times) == 20
    assert np.diff(times) == pytest.approx(0.1)


def test_segments_follow_one_another_from_the_start_that_is_given() -> None:
    """A warm-up before 0 and two rates after it keep to their own stretch of time."""
    times = arrival_times([Segment(1, 100), Segment(2, 1000), Segment(1, 100)], np.random.default_rng(1), start_s=-1)
    assert (np.diff(times) >= 0).all()
    assert ((times >= -1) & (times < 3)).all()
    counts = np.histogram(times, bins=[-1, 0, 2, 3])[0]
    assert counts[0] == pytest.approx(100, abs=50)
    assert counts[1] == pytest.approx(2000, abs=225)
    assert counts[2] == pytest.approx(100, abs=50)


def test_the_same_seed_gives_the_same_load() -> None:
    """Moments depend on the seed alone."""
    first, second, other = (arrival_times([Segment(5, 50)], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("duration_s", [2.0, 3.1, 10.0])
def test_bursts_last_as_long_as_asked(duration_s: float) -> None:
    """Segments add up to the duration, whole periods or not."""
    assert sum(segment.duration_s for segment in bursts(100, duration_s)) == pytest.approx(duration_s)


def test_bursts_keep_to_the_mean_rate() -> None:
    """Over whole periods, bursts of five times the rate and the quiet between them come to the mean rate."""
    segments = bursts(100, 10, factor=5)
    assert sum(segment.duration_s * segment.rate for segment in segments) == pytest.approx(1000)
    assert max(segment.rate for segment in segments) == 500
