"""Do probabilities come true? Rows in bins of equal size by score; how far the clicks of each are from its scores."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 20


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of neighbouring scores."""

    num_rows: int
    score: float  # mean
    clicked: float  # share


def calibration(label: NDArray[np.floating], score: NDArray[np.floating]) -> list[Bin]:
    """Return bins by ascending score; equal scores share one, so that there may be fewer than `NUM_BINS`."""
    order = np.argsort(score, kind="stable")
    label, score = label[order].astype(np.float64), score[order].astype(np.float64)
    edges = np.unique(np.searchsorted(score, score[np.arange(NUM_BINS) * len(score) // NUM_BINS]))
    return [
        Bin(end - start, float(score[start:end].mean()), float(label[start:end].mean()))
        for start, end in zip(edges.tolist(), [*edges.tolist()[1:], len(score)], strict=True)
    ]


def expected_error(bins: list[Bin]) -> float:
    """Return the mean over rows of the distance between their bin's scores and its clicks (ECE)."""
    distances = [one.num_rows * abs(one.score - one.clicked) for one in bins]
    return sum(distances) / sum(one.num_rows for one in bins)
