"""A small catalogue whose every state has a known score, so that any answer can be checked.

Shapes: V variants of an item, 0 being "deleted".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.bundle import read_bundle
from contract.codec import item_records, pack_items
from contract.wire import Item
from scoring.rows import ItemRows
from scoring.scorer import Scorer

STEADY = range(1, 41)
"""Items that never change: histories are made of them."""
CHANGING = range(41, 161)
"""Items that are written all the time: candidates are taken from them."""
DELETED = 0
NUM_VARIANTS = 6
HISTORY_LENGTH = 8
_SAME = 2e-6

History = tuple[int, ...]


@dataclass(frozen=True)
class World:
    """Items, their variants, and what a bundle makes of each.

    Parameters
    ----------
    bundle
        A model of embedding width 8 and history length 8.
    """

    bundle: Path

    def item(self, item_id: int, variant: int = 1) -> Item:
        """Return an item as it is sent; every variant has other features."""
        generator = np.random.default_rng([item_id, variant])
        embedding = generator.normal(size=8).astype(np.float32).astype(float).tolist()
        return Item(embedding, item_id, [int(generator.integers(1, 50))], int(generator.integers(11)), 3)

    def packed(self, item_id: int, variant: int) -> bytes:
        """Return an item as it lies in Redis."""
        return pack_items(_record(self.item(item_id, variant)))[0]

    def variant_of(self, item_id: int, value: bytes | None) -> int | None:
        """Return which variant a stored value is, None if it is none of this world."""
        if value is None:
            return DELETED
        variants = range(1, NUM_VARIANTS)
        return next((variant for variant in variants if self.packed(item_id, variant) == value), None)

    def scores(self, history: History) -> NDArray[np.float32]:
        """Return (items of CHANGING, V) the score of every variant of every candidate."""
        if history not in self._known:
            self._known[history] = self._computed(history)
        return self._known[history]

    def variants_seen(
        self, candidates: Sequence[int], scores: Sequence[float], history: History
    ) -> list[frozenset[int]]:
        """Return which variants each candidate may have been scored as: nearly always one, none if it is wrong."""
        possible = self.scores(history)[np.array(candidates) - CHANGING.start]
        same = np.abs(possible - np.float32(scores)[:, None]) < _SAME
        return [frozenset(np.flatnonzero(row).tolist()) for row in same]

    @cached_property
    def _known(self) -> dict[History, NDArray[np.float32]]:
        return {}

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(read_bundle(self.bundle), "cpu", 1)

    @cached_property
    def _rows(self) -> list[ItemRows]:
        """The catalogue with every changing item in its first variant, then in its second, and so on."""
        catalogues = []
        for variant in range(NUM_VARIANTS):
            changing = [] if variant == DELETED else [self.item(item_id, variant) for item_id in CHANGING]
            items = [*(self.item(item_id) for item_id in STEADY), *changing]
            rows = ItemRows(self._scorer, len(items))
            rows.update(np.array([item.item_id for item in items]), np.concatenate([_record(item) for item in items]))
            catalogues.append(rows)
        return catalogues

    def _computed(self, history: History) -> NDArray[np.float32]:
        columns = []
        for rows in self._rows:
            with rows.view() as view:
                candidate_rows = view.rows(np.array([CHANGING]))
                history_rows = view.history_rows([np.array(history, dtype=np.int64)])
                levels = view.levels(candidate_rows)
                columns.append(self._scorer.score(view.tables, candidate_rows, history_rows, levels)[0])
        return np.stack(columns, axis=1)


def _record(item: Item) -> NDArray[np.void]:
    tags = item.tags + [0] * (5 - len(item.tags))
    return item_records([tags], [[item.likes_level, item.views_level]], [item.embedding])
