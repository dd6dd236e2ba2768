"""Counts to levels: 0 for none at all, then 1 to 10.

    likes   clicks of the item before the row's moment
    views   how often it was shown before; where no log says so, the clicks again

quantile: an item's level is the tenth of the training rows' counts, zeros left out, that its count falls into.
log: ten steps of equal ratio between 1 and the largest count in the training period.
"""

import numpy as np
from numpy.typing import NDArray

from contract.schema import MAX_LEVEL
from preparation.settings import Settings


def fit_edges(counts: NDArray[np.int64], settings: Settings) -> list[float]:
    """Return the ascending counts at which level 1, 2, ... 10 begin; level 1 begins at 1."""
    counts = counts[counts > 0]
    if not len(counts):
        return np.arange(1.0, MAX_LEVEL + 1).tolist()
    if settings.levels == "log":
        edges = np.geomspace(1, counts.max() + 1, MAX_LEVEL + 1)[:-1]
    else:
        edges = np.quantile(counts, np.arange(MAX_LEVEL) / MAX_LEVEL)
    edges[0] = 1
    return edges.tolist()  # type: ignore[no-any-return]


def to_levels(counts: NDArray[np.int64], edges: list[float]) -> NDArray[np.int64]:
    """Return (n,) the level of each count."""
    return np.searchsorted(np.array(edges), counts, side="right").astype(np.int64)
