"""Item ids to table rows, while items come, change and go under running requests."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.ids import IdIndex
from scoring.scorer import Scorer
from scoring.tables import Tables
from scoring.views import View, Views

_HEADROOM = 1.25


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
        first = View(
            scorer.new_tables(num_rows),
            IdIndex(nothing, nothing),
            scorer.zeros((num_rows, 2), np.int64),
            scorer.features.history_length,
        )
        self._free = deque(range(1, num_rows))
        self._free_lock = threading.Lock()
        self._views = Views(first, _giving_back(self._free, self._free_lock))
        self._listeners: list[Callable[[], object]] = []

    def __len__(self) -> int:
        return len(self._current.index)

    @property
    def _current(self) -> View:
        return self._views.newest

    @property
    def num_free_rows(self) -> int:
        """Rows that an update can use without growing the tables."""
        return len(self._free)

    def view(self) -> AbstractContextManager[View]:
        """Hold the current state of the catalogue for as long as the block runs."""
        return self._views.held()

    @property
    def views(self) -> Views:
        """The states of the catalogue, for whoever holds one for longer than a block."""
        return self._views

    def subscribe(self, listener: Callable[[], object]) -> None:
        """Call `listener`, in the writer's thread, whenever there is a newer state from now on."""
        self._listeners.append(listener)

    def update(self, item_ids: NDArray[np.int64], records: NDArray[Any]) -> None:
        """Add or replace items: encode into free rows, exchange the map.

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
        rows = self._take_rows(len(item_ids))
        try:
            finite = self._encode_into(self._current.tables, rows, item_ids, records)
            if not finite.all():
                self.remove(item_ids[~finite])
            used, item_ids = rows[finite], item_ids[finite]
            current = self._current
            current.levels_table[used] = self._known_levels(records[finite])
            index = current.index.updated(item_ids, used)
        except BaseException:
            self._give_back(rows)
            raise
        self._give_back(rows[~finite])
        self._publish(current.tables, current.levels_table, index, current.index.rows(item_ids))

    def remove(self, item_ids: NDArray[np.int64]) -> None:
        """Forget items; ids that are not there are ignored."""
        index = self._current.index
        gone = index.rows(np.unique(item_ids))
        self._publish(self._current.tables, self._current.levels_table, index.without(item_ids), gone)

    def _encode_into(
        self, tables: Tables, rows: NDArray[np.int64], item_ids: NDArray[np.int64], records: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Encode items into free rows, and return (n,) which of them are finite.

        Adjacent rows, as those of a new catalogue are, are written by the encoder itself; others are copied to.
        """
        there = tables.adjacent(rows)
        encoded, num_unknown = self.scorer.encode(item_ids, records["tags"], records["embedding"], there)
        self.num_unknown_tags += num_unknown
        if there is None:
            tables.write(rows, encoded)
        if all(np.isfinite(values).all() for values in encoded.values()):
            return np.ones(len(rows), dtype=bool)
        by_row = [np.isfinite(values).all(axis=1) for values in encoded.values()]
        finite: NDArray[np.bool_] = np.logical_and.reduce(by_row)
        return finite

    def _known_levels(self, records: NDArray[Any]) -> NDArray[np.int64]:
        levels = np.stack([records["likes_level"], records["views_level"]], axis=1).astype(np.int64)
        features = self.scorer.features
        return np.where(levels < (features.num_likes_levels, features.num_views_levels), levels, 0)

    def _take_rows(self, count: int) -> NDArray[np.int64]:
        """Take free rows of the current tables, which grow where they have too few."""
        short = count - len(self._free)
        if short > 0:
            self._grow(int((self._current.tables.capacity + short) * _HEADROOM))
        with self._free_lock:
            return np.array([self._free.popleft() for _ in range(count)], dtype=np.int64)

    def _give_back(self, rows: NDArray[np.int64]) -> None:
        with self._free_lock:
            self._free.extend(rows.tolist())

    def _grow(self, capacity: int) -> None:
        """Go on with copies of the tables that have more rows; runs under way keep the ones that they hold."""
        current = self._current
        tables = self.scorer.grown(current.tables, capacity)
        levels_table = self.scorer.zeros((capacity, 2), np.int64)
        levels_table[: len(current.levels_table)] = current.levels_table
        self._publish(tables, levels_table, current.index, np.zeros(0, dtype=np.int64))
        with self._free_lock:
            self._free.extend(range(current.tables.capacity, capacity))

    def _publish(
        self, tables: Tables, levels_table: NDArray[np.int64], index: IdIndex, retired: NDArray[np.int64]
    ) -> None:
        self._current._retired = retired[retired > 0]
        self._views.publish(View(tables, index, levels_table, self.scorer.features.history_length))
        for listener in self._listeners:
            listener()


def _giving_back(free: deque[int], lock: threading.Lock) -> Callable[[View], None]:
    """Return what frees the rows that only a state which nobody can see any more led to.

    It does not know the ItemRows: in a circle of references large tables would outlive their last user.
    """

    def give_back(view: View) -> None:
        with lock:
            free.extend(view._retired.tolist())

    return give_back
