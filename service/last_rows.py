"""What the rows of click files say last: the levels of each item, the history of each user."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contract.codec import pack_history
from contract.ids import IdIndex
from contract.mmctr import iter_clicks

_HASH_SEED = 20_250_417


def last_levels(item_ids: NDArray[np.int64], paths: Sequence[Path]) -> tuple[NDArray[np.int64], int]:
    """Return (n, 2) the levels that each item last has in the files, and of how many items they differ.

    Items that occur in no file have level 0; occurrences of other items are ignored.
    """
    levels = np.zeros((len(item_ids), 2), dtype=np.int64)
    seen, differs = np.zeros(len(item_ids), dtype=bool), np.zeros(len(item_ids), dtype=bool)
    index = IdIndex(item_ids, np.arange(1, len(item_ids) + 1))
    for path in paths:
        for clicks in iter_clicks(path, history_length=1):
            position = index.rows(clicks.item_id) - 1
            position, shown = position[position >= 0], clicks.levels[position >= 0]
            items, first = np.unique(position, return_index=True)
            fresh = ~seen[items]
            levels[items[fresh]] = shown[first[fresh]]
            differs[position[(shown != levels[position]).any(axis=1)]] = True
            last = len(position) - 1 - np.unique(position[::-1], return_index=True)[1]
            levels[items], seen[items] = shown[last], True
    return levels, int(differs.sum())


def last_histories(paths: Sequence[Path], length: int) -> tuple[dict[int, bytes], int]:
    """Return the packed history of each user's last row, and how many users have rows that differ.

    Padding on the left is left out.
    """
    factors = np.random.default_rng(_HASH_SEED).integers(1, 2**63, size=length, dtype=np.uint64) | np.uint64(1)
    histories: dict[int, bytes] = {}
    seen: list[NDArray[np.uint64]] = []
    for path in paths:
        width = max(1, min(length, _longest_history(path)))
        for clicks in iter_clicks(path, width):
            # Padding adds nothing, so that a history has the same digest in a file of any width.
            digest = (clicks.history.astype(np.uint64) * factors[-width:]).sum(axis=1, dtype=np.uint64)
            seen.append(np.unique(np.stack([clicks.user_id.astype(np.uint64), digest], axis=1), axis=0))
            users, from_end = np.unique(clicks.user_id[::-1], return_index=True)
            rows = clicks.history[len(clicks) - 1 - from_end]
            starts = np.where((rows != 0).any(axis=1), (rows != 0).argmax(axis=1), width)
            for user, row, start in zip(users.tolist(), rows, starts.tolist(), strict=True):
                histories[user] = pack_history(row[start:])
    if not seen:
        return histories, 0
    pairs = np.unique(np.concatenate(seen), axis=0)
    return histories, int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())


def _longest_history(path: Path) -> int:
    """Return the length of a file's longest history; 0 where there is none, for whoever reads it to complain."""
    try:
        batches = pq.ParquetFile(path).iter_batches(columns=["item_seq"])
        return max((pc.max(pc.list_value_length(batch["item_seq"])).as_py() or 0 for batch in batches), default=0)
    except (OSError, KeyError, pa.ArrowException):
        return 0
