"""Two versions' scores compared by sums, against numpy and scikit-learn on the scores themselves."""

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from service.comparison import Comparison

Scores = NDArray[np.float32]


def make_scores(seed: int, num_requests: int = 40) -> list[tuple[Scores, Scores]]:
    """Scores of requests of 1 to 60 candidates by two versions that are alike."""
    generator = np.random.default_rng(seed)
    requests = []
    for size in generator.integers(1, 60, num_requests):
        logits = generator.normal(-3, 1.5, size)
        both = logits, logits + generator.normal(0, 0.3, size)
        requests.append(tuple((1 / (1 + np.exp(-x))).astype(np.float32) for x in both))
    return requests


def compared(requests: list[tuple[Scores, Scores]]) -> Comparison:
    comparison = Comparison()
    for serving, trial in requests:
        comparison.add(serving, trial)
    return comparison


def test_the_report_is_what_the_scores_say() -> None:
    """Differences, correlation and agreement are those that a direct computation gives."""
    requests = make_scores(0)
    x, y = (np.concatenate(scores).astype(np.float64) for scores in zip(*requests, strict=True))
    report = compared(requests).report()
    assert (report.requests, report.candidates) == (40, len(x))
    assert report.mean_difference == pytest.approx(np.abs(x - y).mean())
    assert report.max_difference == pytest.approx(np.abs(x - y).max())
    assert report.correlation == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert report.same_top_1 == np.mean([a.argmax() == b.argmax() for a, b in requests])
    shared = [len({*np.argsort(-a)[:10]} & {*np.argsort(-b)[:10]}) / min(10, len(a)) for a, b in requests]
    assert report.top_10_overlap == pytest.approx(np.mean(shared))
    assert (report.serving.mean, report.trial.mean) == (pytest.approx(x.mean()), pytest.approx(y.mean()))
    for summary, scores in ((report.serving, x), (report.trial, y)):
        for name, value in summary.quantiles.items():
            assert value == pytest.approx(np.quantile(scores, int(name[1:]) / 100), rel=0.15)


def test_parts_add_up() -> None:
    """What several processes saw is, summed up after a journey, what one would have seen of it all."""
    parts = [make_scores(seed) for seed in (1, 2, 3)]
    sent = [msgspec.msgpack.encode(compared(part)) for part in parts]
    whole = Comparison.sum(msgspec.msgpack.decode(part, type=Comparison) for part in sent).report()
    alone = compared([request for part in parts for request in part]).report()
    for name in ("requests", "candidates", "max_difference", "same_top_1"):
        assert getattr(whole, name) == getattr(alone, name)
    for name in ("mean_difference", "correlation", "top_10_overlap"):
        assert getattr(whole, name) == pytest.approx(getattr(alone, name))
    assert whole.serving.quantiles == alone.serving.quantiles


def test_what_cannot_be_said_is_not_said() -> None:
    """Nothing compared, and scores that are all the same, give a report without the numbers that they lack."""
    nothing = Comparison().report()
    assert (nothing.requests, nothing.correlation, nothing.serving_ms, nothing.serving.quantiles) == (
        0,
        None,
        None,
        {},
    )
    same = compared([(np.full(3, 0.25, np.float32), np.full(3, 0.25, np.float32))]).report()
    assert (same.correlation, same.max_difference, same.same_top_1, same.top_10_overlap) == (None, 0, 1, 1)


def test_scores_at_the_ends_are_counted() -> None:
    """0 and 1 are scores like any others."""
    ends = np.array([0, 1], np.float32)
    comparison = compared([(ends, ends)])
    assert sum(comparison.serving_counts) == 2
    assert 0 <= comparison.report().serving.quantiles["p5"] < comparison.report().serving.quantiles["p95"] <= 1


def test_times_are_means_of_those_that_were_timed() -> None:
    """Only some requests are timed, by both versions."""
    comparison = compared(make_scores(4))
    comparison.time(0.001, 0.004)
    comparison.time(0.003, 0.002)
    report = comparison.report()
    assert (report.num_timed, report.serving_ms, report.trial_ms) == (2, pytest.approx(2), pytest.approx(3))


@pytest.mark.parametrize(("serving", "trial"), [(0.1, 0.2), (0.3, 0.001), (0.7, 0.1), (0.9, 0.05)])
def test_scores_that_are_all_the_same_have_no_correlation(serving: float, trial: float) -> None:
    """What rounding makes of sums of equal numbers is not taken for a variance."""
    comparison = Comparison()
    for _ in range(1000):
        comparison.add(np.full(7, serving, np.float32), np.full(7, trial, np.float32))
    assert comparison.report().correlation is None
