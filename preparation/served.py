"""The service's request log: candidates as they were ranked, with the history and the levels that were used."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contract.ids import IdIndex
from contract.requestlog import REQUEST_LOG
from contract.schema import MAX_LEVEL
from preparation.errors import SourceError
from preparation.settings import Settings
from preparation.source import files_of, read_table, read_times, whole_column
from preparation.timeline import Ragged

_COLUMNS = ("time", "user_id", "history", "candidates", "likes_level", "views_level", "scores", "degraded")


@dataclass(frozen=True, slots=True)
class Served:
    """Requests, and all their candidates one after the other."""

    user: NDArray[np.int64]  # (r,)
    time: NDArray[np.int64]  # (r,) microseconds
    history: Ragged  # r lists of item ids
    request: NDArray[np.int64]  # (c,) of each candidate
    item: NDArray[np.int64]  # (c,) item ids
    levels: NDArray[np.int64]  # (c, 2)


def read_served(paths: list[Path], item_ids: NDArray[np.int64], settings: Settings) -> tuple[Served, int]:
    """Return the requests of files or folders of them, and how many were left out because they had been degraded.

    A degraded answer shows an outage and not what its user and items are. With `served_top`, only the best so many
    candidates of a request are kept. Histories are cut to their last `history_length`; items that the catalogue
    (`item_ids`) lacks are left out of them, as they counted for nothing when they were scored.

    Raises
    ------
    SourceError
        A file is not of the request log's layout, lists of one row differ in length, or a level is out of range.
    """
    table = pa.concat_tables([_read(path) for path in files_of(paths)])
    kept = table.filter(pc.equal(pc.list_value_length(table["degraded"]), 0))
    served = _served(kept, settings.served_top)
    history = served.history.last(settings.history_length)
    known = history.where(np.isin(history.values, item_ids))
    return replace(served, history=known), len(table) - len(kept)


def _read(path: Path) -> pa.Table:
    table = read_table(path, _COLUMNS)
    times = read_times(path, table, "time", "us")
    columns = {"time": pa.array(times)}
    for name in _COLUMNS[1:]:
        try:
            columns[name] = whole_column(path, table, name).cast(REQUEST_LOG.field(name).type)
        except pa.ArrowException as error:
            raise SourceError(
                f"{path}: {name} holds {table[name].type}, not {REQUEST_LOG.field(name).type}"
            ) from error
    lengths = pc.list_value_length(columns["candidates"])
    for name in ("likes_level", "views_level", "scores"):
        if not lengths.equals(pc.list_value_length(columns[name])):
            raise SourceError(f"{path}: {name} and candidates differ in length in some row")
    return pa.table(columns)


def _served(table: pa.Table, served_top: int | None) -> Served:
    candidates = _ragged(table["candidates"])
    request = np.repeat(np.arange(len(candidates)), np.diff(candidates.offsets))
    levels = np.stack([_flat(table[name]) for name in ("likes_level", "views_level")], axis=1).astype(np.int64)
    if ((levels < 0) | (levels > MAX_LEVEL)).any():
        raise SourceError(f"a served request has a level outside 0 to {MAX_LEVEL}")
    kept = _best(request, candidates.offsets, _flat(table["scores"]), served_top)
    return Served(
        table["user_id"].to_numpy(),
        table["time"].to_numpy(),
        _ragged(table["history"]),
        request[kept],
        candidates.values[kept],
        levels[kept],
    )


def _best(
    request: NDArray[np.int64], offsets: NDArray[np.int64], scores: NDArray[np.float32], top: int | None
) -> NDArray[np.int64]:
    """Return the positions of each request's best candidates, in the order of the log; ties by position."""
    if top is None:
        return np.arange(len(request))
    order = np.lexsort((-scores, request))
    rank = np.arange(len(request)) - offsets[request[order]]
    return np.sort(order[rank < top])


def _ragged(column: pa.ChunkedArray) -> Ragged:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return Ragged(_flat(column), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _flat(column: pa.ChunkedArray) -> NDArray[Any]:
    return pc.list_flatten(column).to_numpy()  # type: ignore[no-any-return]


def positions_of(served: Served, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (c,) the position of each candidate in a catalogue with these ids, -1 where it lacks the item."""
    return IdIndex(item_ids, np.arange(1, len(item_ids) + 1)).rows(served.item) - 1
