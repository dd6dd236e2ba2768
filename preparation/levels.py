"""How an item stands among all, as a level: 0 where nothing is known of it, then 1 to 10.

    likes   clicks of the item before the row's moment
    views   how often it was shown before; where no log says so, the clicks again

Counts alone would grow with the log, until every item had the highest level. So a count is taken in proportion: the
*share* is the item's count times the number of items over the count of all items, 1 for an average item.

quantile: an item's level is the tenth of the training rows' shares, zeros left out, that its share falls into.
log: ten steps of equal ratio between the smallest and the largest share of the training rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.schema import MAX_LEVEL
from preparation.settings import Settings

_ABOVE_ZERO = 1e-12
"""Where level 1 begins: any count at all."""


@dataclass(frozen=True, slots=True)
class LevelRule:
    """What makes a level of an item's count at the end of the log."""

    edges: list[float]  # the ascending shares at which level 1, 2, ... 10 begin
    total: int  # of all items' counts
    num_items: int

    def level(self, count: int) -> int:
        """Return the level of an item that was counted so often in the time of the log."""
        return int(to_levels(to_shares(np.array([count]), self.total, self.num_items), self.edges)[0])


def to_shares(counts: NDArray[np.int64], totals: NDArray[np.int64] | int, num_items: int) -> NDArray[np.float64]:
    """Return (n,) the share of each count; 0 where nothing was counted at all."""
    shares: NDArray[np.float64] = counts * num_items / np.maximum(totals, 1)
    return shares


def fit_edges(shares: NDArray[np.float64], settings: Settings) -> list[float]:
    """Return the ascending shares at which level 1, 2, ... 10 begin."""
    shares = shares[shares > 0]
    if not len(shares):
        shares = np.ones(1)
    if settings.levels == "log":
        edges = np.geomspace(shares.min(), shares.max() * (1 + _ABOVE_ZERO), MAX_LEVEL + 1)[:-1]
    else:
        edges = np.quantile(shares, np.arange(MAX_LEVEL) / MAX_LEVEL)
    edges[0] = _ABOVE_ZERO
    return edges.tolist()  # type: ignore[no-any-return]


def to_levels(shares: NDArray[np.float64], edges: list[float]) -> NDArray[np.int64]:
    """Return (n,) the level of each share."""
    return np.searchsorted(np.array(edges), shares, side="right").astype(np.int64)
