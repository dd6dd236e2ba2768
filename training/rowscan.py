"""Facts about clicks that take a pass over all histories, made in parts: the clicks may be larger than memory."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from training.data import ClickRows

_ROWS_AT_ONCE = 1 << 15


def _parts(rows: ClickRows) -> Iterator[slice]:
    return (slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(rows), _ROWS_AT_ONCE))


def history_lengths(rows: ClickRows) -> NDArray[np.int64]:
    """Return (n,) how many items each history holds."""
    lengths = [np.count_nonzero(rows.history[part], axis=1) for part in _parts(rows)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *lengths])


def seen_items(rows: ClickRows, num_rows: int) -> NDArray[np.bool_]:
    """Return (num_rows,) which table rows occur in the clicks, as a candidate or in a history; never row 0."""
    seen = np.zeros(num_rows, dtype=bool)
    seen[rows.candidate] = True
    for part in _parts(rows):
        seen[rows.history[part].reshape(-1)] = True
    seen[0] = False
    return seen


def row_hashes(rows: ClickRows, user: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return (n,) 64-bit hashes of user, item and history.

    Two different rows share one with a probability of 2^-64; a million rows against fifty thousand, 3e-9.
    """
    width = rows.history.shape[1] + 2
    # Odd factors, so that each value's own bits all count; from a fixed seed, so that all files agree.
    factors = np.random.default_rng(0x51).integers(0, 2**63, width, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.empty(len(rows), dtype=np.uint64)
    for part in _parts(rows):
        # In a position of its own each value counts differently: the order of a history matters.
        total = _mixed(rows.history[part].astype(np.uint64) + np.uint64(1)) @ factors[2:]
        total += _mixed(user[part].astype(np.uint64)) * factors[0]
        total += _mixed(rows.candidate[part].astype(np.uint64)) * factors[1]
        hashes[part] = total
    return hashes


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the values with all bits stirred (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    stirred: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return stirred
