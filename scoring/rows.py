"""Item ids to table rows, while items come, change and go under running requests."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.ids import IdIndex
from scoring.scorer import Scorer
from scoring.tables import Tables

_HEADROOM = 1.25


@dataclass(slots=True)
class View:
    """One state of the catalogue; its rows keep their values for as long as it is held.

    Obtained from `ItemRows.view`. `levels_table` is (capacity, 2), the stored levels of each table row.
    """

    tables: Tables
    index: IdIndex
    levels_table: NDArray[np.int64]
    history_length: int
    _readers: int = 0
    _retired: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def rows(self, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the table row of each candidate, in the shape of `item_ids`; 0 where it is unknown."""
        return self.index.rows(item_ids)

    def history_rows(self, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (H,) the table rows of a history's last H items, padded with row 0 on the left.

        `item_ids` is (k,), oldest first. Id 0 is padding and unknown items count for nothing: both give row 0.
        """
        last = item_ids[-self.history_length :]
        rows = np.zeros(self.history_length, dtype=np.int64)
        if len(last):
            rows[-len(last) :] = np.where(last == 0, 0, self.index.rows(last))
        return rows

    def levels(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (..., 2) the stored likes and views level of the items in the given rows."""
        return self.levels_table[rows]


class ItemRows:
    """The catalogue as rows of one scorer's tables.

    A new or changed item is encoded into a free row, then the map from ids to rows is exchanged; the row that it
    had is free again once every view that could lead to it has been given back. So a run never sees a row change.
    One writer at a time; readers need no lock but the one around taking and giving back a view.

    Parameters
    ----------
    scorer
        Encodes the items and owns the tables' layout.
    capacity
        How many items are expected; tables grow past it, by copying.
    """

    def __init__(self, scorer: Scorer, capacity: int = 1024) -> None:
        self.scorer = scorer
        self.num_unknown_tags = 0
        num_rows = int(capacity * _HEADROOM) + 2
        nothing = np.zeros(0, dtype=np.int64)
        self._current = View(
            scorer.new_tables(num_rows),
            IdIndex(nothing, nothing),
            np.zeros((num_rows, 2), dtype=np.int64),
            scorer.features.history_length,
        )
        self._free = deque(range(1, num_rows))
        self._views: deque[View] = deque([self._current])
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._current.index)

    @property
    def num_free_rows(self) -> int:
        """Rows that an update can use without growing the tables."""
        return len(self._free)

    @contextmanager
    def view(self) -> Iterator[View]:
        """Hold the current state of the catalogue for as long as the block runs."""
        with self._lock:
            held = self._current
            held._readers += 1
        try:
            yield held
        finally:
            with self._lock:
                held._readers -= 1
                self._reclaim()

    def update(self, item_ids: NDArray[np.int64], records: NDArray[Any]) -> None:
        """Add or replace items: encode, write to free rows, exchange the map.

        An item that the encoder makes infinite becomes unknown: in a history it would spoil every score. A level
        that the model does not have counts as level 0.

        Parameters
        ----------
        item_ids
            (n,) distinct ids.
        records
            (n,) item records of `contract.codec`.
        """
        if not len(item_ids):
            return
        encoded, num_unknown = self.scorer.encode(item_ids, records["tags"], records["embedding"])
        self.num_unknown_tags += num_unknown
        finite = np.logical_and.reduce([np.isfinite(values).all(axis=1) for values in encoded.values()])
        if not finite.all():
            self.remove(item_ids[~finite])
            item_ids, records = item_ids[finite], records[finite]
            encoded = {name: values[finite] for name, values in encoded.items()}
        rows = self._take_rows(len(item_ids))
        current = self._current
        current.tables.write(rows, encoded)
        current.levels_table[rows] = self._known_levels(records)
        index = current.index
        self._publish(current.tables, current.levels_table, index.updated(item_ids, rows), index.rows(item_ids))

    def remove(self, item_ids: NDArray[np.int64]) -> None:
        """Forget items; ids that are not there are ignored."""
        index = self._current.index
        gone = index.rows(np.unique(item_ids))
        self._publish(self._current.tables, self._current.levels_table, index.without(item_ids), gone)

    def _known_levels(self, records: NDArray[Any]) -> NDArray[np.int64]:
        levels = np.stack([records["likes_level"], records["views_level"]], axis=1).astype(np.int64)
        features = self.scorer.features
        return np.where(levels < (features.num_likes_levels, features.num_views_levels), levels, 0)

    def _take_rows(self, count: int) -> NDArray[np.int64]:
        """Take free rows of the current tables, which grow where they have too few."""
        short = count - len(self._free)
        if short > 0:
            self._grow(int((self._current.tables.capacity + short) * _HEADROOM))
        with self._lock:
            return np.array([self._free.popleft() for _ in range(count)], dtype=np.int64)

    def _grow(self, capacity: int) -> None:
        """Go on with copies of the tables that have more rows; runs under way keep the ones that they hold."""
        current = self._current
        tables, levels_table = current.tables.grown(capacity), np.zeros((capacity, 2), dtype=np.int64)
        levels_table[: len(current.levels_table)] = current.levels_table
        self._publish(tables, levels_table, current.index, np.zeros(0, dtype=np.int64))
        with self._lock:
            self._free.extend(range(current.tables.capacity, capacity))

    def _publish(
        self, tables: Tables, levels_table: NDArray[np.int64], index: IdIndex, retired: NDArray[np.int64]
    ) -> None:
        with self._lock:
            self._current._retired = retired[retired > 0]
            self._current = View(tables, index, levels_table, self.scorer.features.history_length)
            self._views.append(self._current)
            self._reclaim()

    def _reclaim(self) -> None:
        """Free the rows of states that nobody can see any more, oldest first: an older state sees them too."""
        while len(self._views) > 1 and self._views[0]._readers == 0:
            self._free.extend(self._views.popleft()._retired.tolist())
