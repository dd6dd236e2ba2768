"""Item ids to row numbers, many at a time."""

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
        # One spare slot answers for an id past the last one, so a look-up needs no clipping.
        self._rows = np.zeros(len(ids) + 1, dtype=np.int64)
        self._rows[:-1] = rows[order]
        if len(self._ids) and (self._ids[1:] == self._ids[:-1]).any():
            repeated = self._ids[1:][self._ids[1:] == self._ids[:-1]][0]
            raise ValueError(f"item id {repeated} occurs more than once")

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
        position = np.searchsorted(self._ids, ids)
        found = self._ids[np.minimum(position, len(self._ids) - 1)] == ids
        return np.where(found, self._rows[position], 0)
