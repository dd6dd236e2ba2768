"""Which rows are the ones without a click.

Shown and not clicked, where a log says what was shown; otherwise sampled: for each click `num_negatives` different
items, at the same moment and with the same history, each drawn uniformly from the catalogue with probability
`uniform_share` and else with a probability proportional to (clicks in the training period)^`popularity_power`. In
neither case an item that the user clicked at any time, before or after.
"""

import numpy as np
from numpy.typing import NDArray

from preparation.events import Events
from preparation.rows import Rows
from preparation.settings import Settings
from preparation.timeline import distinct

DEFAULT_SAMPLED = 4
_CLICKS_AT_ONCE = 200_000
_ROUNDS = 50


class Met:
    """Which users clicked which items at any time."""

    __slots__ = ("_num_items", "_pairs")

    def __init__(self, clicks: Events, num_items: int) -> None:
        self._num_items = num_items
        self._pairs = distinct(self._pair(clicks.user, clicks.item))

    def _pair(self, user: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.uint64]:
        # Wraps around for huge user ids; two pairs then meet once in 2^64, and cost one negative.
        pair: NDArray[np.uint64] = user.astype(np.uint64) * np.uint64(self._num_items) + item.astype(np.uint64)
        return pair

    def holds(self, user: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell for each of (n,) users and items whether the user clicked the item."""
        pairs = self._pair(user, item)
        if not len(self._pairs):
            return np.zeros(len(pairs), dtype=bool)
        position = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        there: NDArray[np.bool_] = self._pairs[position] == pairs
        return there


def sampled_negatives(clicks: Events, popular: NDArray[np.int64], met: Met, settings: Settings) -> Rows:
    """Return the sampled negatives of clicks, those of one click together, in the clicks' order.

    Parameters
    ----------
    popular
        (num_items,) clicks of each item in the training period.

    A user who met nearly everything may get fewer than were asked for.
    """
    num = DEFAULT_SAMPLED if settings.num_negatives is None else settings.num_negatives
    generator = np.random.default_rng(settings.seed)
    draw = _Draw(popular, settings, generator)
    items = [
        _negatives_of(clicks.user[start : start + _CLICKS_AT_ONCE], num, met, draw)
        for start in range(0, len(clicks), _CLICKS_AT_ONCE)
    ]
    item = np.concatenate([np.zeros((0, num), dtype=np.int64), *items])
    owner, slot = np.nonzero(item >= 0)
    shown = item[owner, slot]
    return Rows.logged(clicks.user[owner], shown, clicks.time[owner], np.zeros(len(shown), dtype=bool))


def _negatives_of(user: NDArray[np.int64], num: int, met: Met, draw: "_Draw") -> NDArray[np.int64]:
    """Return (n, num) items that each user did not meet, distinct in a row; -1 where none was found."""
    item = np.full((len(user), num), -1)
    owner, slot = np.nonzero(item < 0)
    for _ in range(_ROUNDS):
        if not len(owner):
            break
        item[owner, slot] = draw(len(owner))
        item[owner, slot] = np.where(met.holds(user[owner], item[owner, slot]), -1, item[owner, slot])
        changed = np.unique(owner)
        item[changed] = _without_repeats(item[changed])
        row, slot = np.nonzero(item[changed] < 0)
        owner = changed[row]
    return item


def _without_repeats(item: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (n, num) items, each row in ascending order, with -1 in place of all but the first of equal ones."""
    ordered = np.sort(item, axis=1)
    repeated = np.zeros(ordered.shape, dtype=bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return np.where(repeated, -1, ordered)


class _Draw:
    """Draws items from the mixture of uniform and popular."""

    __slots__ = ("_cumulative", "_generator", "_num_items", "_uniform")

    def __init__(self, popular: NDArray[np.int64], settings: Settings, generator: np.random.Generator) -> None:
        weight = popular.astype(np.float64) ** settings.popularity_power * (popular > 0)
        self._generator, self._num_items = generator, len(popular)
        self._uniform = settings.uniform_share if weight.any() else 1.0
        self._cumulative = np.cumsum(weight) / max(weight.sum(), 1e-300)

    def __call__(self, num: int) -> NDArray[np.int64]:
        uniform = self._generator.integers(0, self._num_items, num)
        popular = np.searchsorted(self._cumulative, self._generator.random(num), side="right")
        chosen = self._generator.random(num) < self._uniform
        return np.where(chosen, uniform, np.minimum(popular, self._num_items - 1))


def shown_negatives(rows: Rows, met: Met, settings: Settings) -> Rows:
    """Return rows of what was shown without those not clicked that are too many, or that the user clicked elsewhere.

    With `num_negatives` set, a uniform sample of the others is kept: at most so many for each click there is.
    """
    allowed = rows.clicked | ~met.holds(rows.user, rows.item)
    rows = rows.where(allowed)
    if settings.num_negatives is None:
        return rows
    most = settings.num_negatives * int(rows.clicked.sum())
    negatives = np.flatnonzero(~rows.clicked)
    if len(negatives) <= most:
        return rows
    kept = rows.clicked.copy()
    kept[np.random.default_rng(settings.seed).choice(negatives, most, replace=False)] = True
    return rows.where(kept)
