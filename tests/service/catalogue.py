"""A small catalogue in Redis, and the scores that it must give, computed without the service."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.bundle import read_bundle
from contract.codec import item_records, pack_items
from contract.wire import Item
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from service.connection import connect
from service.items import Items
from tests.fakes import make_items

NUM_ITEMS = 120
"""Items 0 to 119 are in the catalogue; 120 and above are unknown."""


def make_records(num_items: int = NUM_ITEMS, seed: int = 7) -> NDArray[Any]:
    """Return the records of items 0 to num_items - 1, levels included."""
    info = make_items(num_items, seed=seed)
    ids = info.item_id
    return item_records(info.tags, np.stack([ids % 11, ids * 3 % 11], axis=1), info.embedding)


def make_item(item_id: int, seed: int = 99) -> Item:
    """Return an item as callers send it; another seed gives other features under the same id."""
    generator = np.random.default_rng([seed, item_id])
    embedding = generator.normal(size=8).astype(np.float32).astype(float).tolist()
    return Item(embedding, item_id, [int(generator.integers(1, 50))], int(generator.integers(11)), 3)


def record_of(item: Item) -> NDArray[Any]:
    """Return the record of an item."""
    tags = item.tags + [0] * (5 - len(item.tags))
    return item_records([tags], [[item.likes_level, item.views_level]], [item.embedding])


def store_items(redis_url: str, item_ids: Iterable[int], records: NDArray[Any]) -> None:
    """Write items as the service would."""

    async def write() -> None:
        async with connect(redis_url, 10) as redis:
            await Items(redis).write(list(item_ids), pack_items(records))

    asyncio.run(write())


class Expected:
    """Scores by the scorer alone, one user at a time."""

    def __init__(
        self, bundle: Path, item_ids: Sequence[int] | None = None, records: NDArray[Any] | None = None
    ) -> None:
        self.scorer = Scorer(read_bundle(bundle), "cpu", 1)
        self.rows = ItemRows(self.scorer, NUM_ITEMS)
        ids = np.arange(NUM_ITEMS) if item_ids is None else np.array(item_ids)
        self.rows.update(ids, make_records() if records is None else records)

    def scores(
        self,
        candidates: Sequence[int],
        history: Sequence[int] = (),
        likes_level: Sequence[int] | None = None,
        views_level: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Return the score of each candidate."""
        with self.rows.view() as view:
            rows = view.rows(np.array([candidates]))
            levels = view.levels(rows).copy()
            for column, given in enumerate((likes_level, views_level)):
                if given is not None:
                    levels[0, :, column] = given
            history_rows = view.history_rows([np.array(history, dtype=np.int64)])
            return self.scorer.score(view.tables, rows, history_rows, levels)[0]
