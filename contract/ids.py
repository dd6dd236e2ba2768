"""Item ids to row numbers, many at a time."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

MAX_ID = 2**63 - 1


class IdIndex:
    """An immutable map from item ids to rows, looked up for whole arrays at once.

    Parameters
    ----------
    ids
        (n,) int64, distinct, in any order.
    rows
        (n,) integers: the row of each id.
    """

    __slots__ = ("_ids", "_rows")

    def __init__(self, ids: NDArray[np.int64], rows: NDArray[np.integer]) -> None:
        order = np.argsort(ids, kind="stable")
        self._ids = np.ascontiguousarray(ids[order], dtype=np.int64)
        self._rows = np.ascontiguousarray(rows[order], dtype=np.int64)
        repeated = self._ids[1:][self._ids[1:] == self._ids[:-1]]
        if len(repeated):
            raise ValueError(f"item id {repeated[0]} occurs more than once")

    @classmethod
    def _of_sorted(cls, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> Self:
        index = cls.__new__(cls)
        index._ids, index._rows = ids, rows
        return index

    @classmethod
    def of_arrays(cls, *arrays: NDArray[np.int64]) -> Self:
        """Return the map whose `arrays` these are."""
        return cls._of_sorted(*arrays)

    @property
    def arrays(self) -> tuple[NDArray[np.int64], ...]:
        """All that the map consists of, none of it to be written to; for another process, see `of_arrays`."""
        return self._ids, self._rows

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> NDArray[np.int64]:
        """All ids in ascending order, (n,) int64; not to be written to."""
        return self._ids

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each id, in the shape of `ids`; row 0 where the id is not in the map."""
        if not len(self._ids):
            return np.zeros(ids.shape, dtype=np.int64)
        position = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[position] == ids, self._rows[position], 0)

    def updated(self, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> Self:
        """Return a map in which these distinct ids have these rows, the others the rows that they had.

        Costs two copies, no sorting: a few ids change among many.
        """
        order = np.argsort(ids)
        ids, rows = ids[order], rows[order]
        position = np.searchsorted(self._ids, ids)
        known = self._holds(ids, position)
        all_rows = self._rows.copy()
        all_rows[position[known]] = rows[known]
        if known.all():
            return self._of_sorted(self._ids, all_rows)
        new = position[~known]
        return self._of_sorted(np.insert(self._ids, new, ids[~known]), np.insert(all_rows, new, rows[~known]))

    def without(self, ids: NDArray[np.int64]) -> Self:
        """Return a map without these ids; those that it does not hold are ignored."""
        position = np.searchsorted(self._ids, ids)
        gone = position[self._holds(ids, position)]
        return self._of_sorted(np.delete(self._ids, gone), np.delete(self._rows, gone))

    def _holds(self, ids: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which ids stand where `searchsorted` put them."""
        if not len(self._ids):
            return np.zeros(ids.shape, dtype=bool)
        there: NDArray[np.bool_] = self._ids[np.minimum(position, len(self._ids) - 1)] == ids
        return there
