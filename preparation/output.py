"""The parquet files that training and the service read, written in parts: memory stays the same for longer logs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from preparation.levels import to_levels
from preparation.rows import Rows
from preparation.served import Served
from preparation.timeline import Popularity, Ragged, Timeline

_ROWS_AT_ONCE = 1 << 17

CLICKS = pa.schema(
    [
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("item_seq", pa.list_(pa.int64())),
        ("likes_level", pa.int64()),
        ("views_level", pa.int64()),
        ("label", pa.float32()),
    ]
)


class RowWriter:
    """Looks up histories and levels of rows and writes them.

    Parameters
    ----------
    item_ids
        (num_items,) the id of each item of the catalogue.
    timeline, likes, views
        What was known before any moment; of items by their position in the catalogue.
    edges
        Where the levels of likes and of views begin.
    served
        The requests that rows refer to.
    """

    def __init__(
        self,
        item_ids: NDArray[np.int64],
        timeline: Timeline,
        likes: Popularity,
        views: Popularity,
        edges: tuple[list[float], list[float]],
        served: Served | None,
    ) -> None:
        self._item_ids, self._timeline, self._edges = item_ids, timeline, edges
        self._popularity = (likes, views)
        self._served = served

    def write(self, path: Path, rows: Rows) -> None:
        """Write rows in their order."""
        with pq.ParquetWriter(path, CLICKS, compression="zstd") as writer:
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                writer.write_batch(self._batch(rows.where(slice(start, start + _ROWS_AT_ONCE))))

    def _batch(self, rows: Rows) -> pa.RecordBatch:
        history, levels = self._history(rows), self._levels(rows)
        return _batch(rows.user, self._item_ids[rows.item], history, levels, rows.clicked.astype(np.float32))

    def _history(self, rows: Rows) -> Ragged:
        computed = self._timeline.histories(rows.user, rows.time)
        if self._served is None or (rows.request < 0).all():
            return computed
        return _mixed(computed, self._served.history, rows.request)

    def _levels(self, rows: Rows) -> NDArray[np.int64]:
        likes, views = self._popularity
        liked = likes.shares(rows.item, rows.time)
        viewed = liked if views is likes else views.shares(rows.item, rows.time)
        levels = np.stack([to_levels(liked, self._edges[0]), to_levels(viewed, self._edges[1])], axis=1)
        if self._served is not None:
            used = rows.slot >= 0
            levels[used] = self._served.levels[rows.slot[used]]
        return levels


def _mixed(computed: Ragged, served: Ragged, request: NDArray[np.integer]) -> Ragged:
    """Return the served history where there is a request, else the computed one."""
    values = np.concatenate([computed.values, served.values])
    shift, asked = len(computed.values), np.maximum(request, 0)
    starts = np.where(request < 0, computed.offsets[:-1], served.offsets[asked] + shift)
    ends = np.where(request < 0, computed.offsets[1:], served.offsets[asked + 1] + shift)
    return Ragged.gathered(values, starts, ends)


def _batch(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    history: Ragged,
    levels: NDArray[np.int64],
    label: NDArray[np.float32],
) -> pa.RecordBatch:
    lists = pa.ListArray.from_arrays(pa.array(history.offsets, pa.int32()), history.values)
    columns = [user, item, lists, levels[:, 0], levels[:, 1], label]
    return pa.record_batch([pa.array(column) for column in columns], schema=CLICKS)


def write_items(
    path: Path, item_ids: NDArray[np.int64], tags: NDArray[np.int64], embedding: NDArray[np.float32]
) -> None:
    """Write an item_info file."""
    columns = {"item_id": item_ids, "item_tags": _lists(tags), "item_emb_d128": _lists(embedding)}
    pq.write_table(pa.table(columns), path, compression="zstd")


def _lists(values: NDArray[np.generic]) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def write_last_levels(
    path: Path,
    item_ids: NDArray[np.int64],
    popularity: tuple[Popularity, Popularity],
    edges: tuple[list[float], list[float]],
) -> None:
    """Write each item with the levels that it has after the last event, in the layout of clicks without label."""
    positions, end = np.arange(len(item_ids)), np.full(len(item_ids), np.iinfo(np.int64).max)
    levels = [to_levels(which.shares(positions, end), edge) for which, edge in zip(popularity, edges, strict=True)]
    nothing = np.zeros(len(item_ids), dtype=np.int64)
    empty = Ragged(nothing[:0], np.zeros(len(item_ids) + 1, dtype=np.int64))
    batch = _batch(nothing, item_ids, empty, np.stack(levels, axis=1), nothing.astype(np.float32))
    pq.write_table(pa.Table.from_batches([batch]).drop_columns(["label"]), path, compression="zstd")


def write_last_histories(path: Path, users: NDArray[np.int64], timeline: Timeline) -> None:
    """Write each user with the history after the last event, in the layout of clicks without label."""
    with pq.ParquetWriter(path, CLICKS.remove(len(CLICKS) - 1), compression="zstd") as writer:
        for start in range(0, len(users), _ROWS_AT_ONCE):
            part = users[start : start + _ROWS_AT_ONCE]
            history = timeline.histories(part, np.full(len(part), np.iinfo(np.int64).max))
            last = history.values[history.offsets[1:] - 1]  # the item of a row is not read; any will do
            nothing = np.zeros(len(part), dtype=np.int64)
            batch = _batch(part, last, history, np.stack([nothing, nothing], axis=1), nothing.astype(np.float32))
            writer.write_table(pa.Table.from_batches([batch]).drop_columns(["label"]))
