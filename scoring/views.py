"""States of a catalogue: each is held by those who read it, and retired once nobody can see it any more."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from contract.ids import IdIndex
from contract.manifest import TableSpec
from scoring.tables import Tables


@dataclass(slots=True, eq=False)
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

    def history_rows(self, histories: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return (U, H) the table rows of the last H items of U histories, padded with row 0 on the left.

        Each history is (k,) ids, oldest first. Id 0 is padding and unknown items count for nothing: both give row 0.
        """
        last = np.zeros((len(histories), self.history_length), dtype=np.int64)
        for user, item_ids in enumerate(histories):
            if length := min(len(item_ids), self.history_length):
                last[user, -length:] = item_ids[-length:]
        return np.where(last == 0, 0, self.index.rows(last))

    def levels(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (..., 2) the stored likes and views level of the items in the given rows."""
        return self.levels_table[rows]

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """All that the view consists of; `View.of_arrays` makes it again, in another process too."""
        return [*self.tables.arrays, self.levels_table, *self.index.arrays]

    @classmethod
    def of_arrays(cls, specs: Sequence[TableSpec], arrays: Sequence[NDArray[Any]], history_length: int) -> Self:
        """Return the view that consists of these arrays."""
        tables, (levels_table, *index) = arrays[: len(specs)], arrays[len(specs) :]
        return cls(Tables.of_arrays(specs, tables), IdIndex.of_arrays(*index), levels_table, history_length)


class Views:
    """The newest state of a catalogue and older ones that somebody still reads.

    Parameters
    ----------
    first
        The first state.
    retire
        Called with each state, oldest first, once neither it nor an older one is held and a newer one is there.
        It must be quick and take none of these views.
    """

    def __init__(self, first: View, retire: Callable[[View], object]) -> None:
        self.newest = first
        self._retire = retire
        self._views: deque[View] = deque([first])
        self._lock = threading.Lock()

    def acquire(self) -> View:
        """Hold the newest state until it is given back by `release`."""
        with self._lock:
            self.newest._readers += 1
            return self.newest

    def release(self, held: View) -> None:
        """Give back a state that was acquired."""
        with self._lock:
            held._readers -= 1
            self._reclaim()

    @contextmanager
    def held(self) -> Iterator[View]:
        """Hold the newest state for as long as the block runs."""
        view = self.acquire()
        try:
            yield view
        finally:
            self.release(view)

    def publish(self, view: View) -> None:
        """Make a state the newest."""
        with self._lock:
            self.newest = view
            self._views.append(view)
            self._reclaim()

    def _reclaim(self) -> None:
        # Oldest first: what an older state sees, newer ones may see too.
        while len(self._views) > 1 and self._views[0]._readers == 0:
            self._retire(self._views.popleft())
