"""When each item was last ranked, so that those nobody asks for make room in a mirror that cannot hold all."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Recency:
    """The last use of every table row, counted in ranks. One write of an array per rank, no item is looked at.

    Writes from several threads may overtake each other: an item then counts as used a little earlier or later.

    Parameters
    ----------
    num_rows
        Rows of the tables, row 0 included; it is never used, and may be named all the same.
    """

    def __init__(self, num_rows: int) -> None:
        self._last_used = np.zeros(num_rows, dtype=np.int64)
        self._now = 1

    def touch(self, *rows: Rows) -> None:
        """Note that rows are used now, of which this is the next."""
        self._now += 1
        for some in rows:
            self._last_used[some] = self._now

    def move(self, old: Rows, new: Rows) -> None:
        """Give rows `new` the last use of rows `old`; where that is row 0, `new` is used now."""
        self._last_used[new] = np.where(old == 0, self._now, self._last_used[old])

    def of(self, rows: Rows) -> NDArray[np.int64]:
        """Return the last use of rows."""
        return self._last_used[rows]

    def inherit(self, rows: Rows, last_used: NDArray[np.int64]) -> None:
        """Take over what another version knows of the items in `rows`."""
        self._last_used[rows] = last_used
        self._now = max(self._now, int(last_used.max(initial=0)))
