"""Reading the parquet layout of the MM-CTR challenge: clicks (`train`, `valid`, `test`) and `item_info`.

Clicks have `user_id`, `item_id`, `item_seq` (the history, oldest first, 0 is padding), `likes_level`,
`views_level` and, but for test rows, `label`. Items have `item_id`, `item_tags` (0 is no tag) and
`item_emb_d128` (the frozen embedding, of any width).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contract.schema import MAX_LEVEL

_BATCH_IDS = 65_536 * 64
"""About how many history items a batch of clicks holds: memory stays the same for longer histories."""


class MmctrError(ValueError):
    """A parquet file is not of the MM-CTR layout; the message names file, column and row."""


@dataclass(frozen=True, slots=True)
class ItemInfo:
    """The items of an `item_info` file, in file order."""

    item_id: NDArray[np.int64]  # (n,)
    tags: NDArray[np.int64]  # (n, T)
    embedding: NDArray[np.float32]  # (n, F)

    def __len__(self) -> int:
        return len(self.item_id)


@dataclass(frozen=True, slots=True)
class Clicks:
    """Rows of a `train`, `valid` or `test` file, in file order."""

    user_id: NDArray[np.int64]  # (n,)
    item_id: NDArray[np.int64]  # (n,)
    history: NDArray[np.int64]  # (n, H), oldest first, 0 is padding
    levels: NDArray[np.int64]  # (n, 2) likes and views level
    label: NDArray[np.float32] | None  # (n,)

    def __len__(self) -> int:
        return len(self.item_id)


def read_items(path: Path) -> ItemInfo:
    """Read an `item_info` file.

    Raises
    ------
    MmctrError
        The file is damaged, a column is missing, lists differ in length, an id or tag is no integer or
        negative, an id repeats, or an embedding is not finite.
    """
    columns = ["item_id", "item_tags", "item_emb_d128"]
    file = _open(path, columns)
    with _reading(path):
        table = file.read(columns=columns)
    ids = _integers(path, "item_id", table["item_id"])
    width, tag_values = _rectangle(path, "item_tags", table["item_tags"])
    tags = _whole(path, "item_tags", tag_values).reshape(len(ids), width)
    width, numbers = _rectangle(path, "item_emb_d128", table["item_emb_d128"])
    embedding = _numbers(path, "item_emb_d128", numbers).astype(np.float32).reshape(len(ids), width)
    _refuse(path, "item_tags", (tags < 0).any(axis=1), "holds a negative tag")
    _refuse(path, "item_emb_d128", ~np.isfinite(embedding).all(axis=1), "is not finite")
    _, first = np.unique(ids, return_index=True)
    repeated = np.ones(len(ids), dtype=bool)
    repeated[first] = False
    _refuse(path, "item_id", repeated, "repeats an id")
    return ItemInfo(ids, tags, embedding)


def iter_clicks(path: Path, history_length: int) -> Iterator[Clicks]:
    """Yield the rows of a clicks file in batches, each history cut to its last `history_length` items.

    Raises
    ------
    MmctrError
        The file is damaged, a column is missing, an id is no integer or negative, a level is not 0 to 10, or a
        label is not 0 to 1.
    """
    columns = ["user_id", "item_id", "item_seq", "likes_level", "views_level"]
    file = _open(path, columns)
    labelled = "label" in file.schema_arrow.names
    first_row = 0
    num_rows = max(_BATCH_IDS // max(history_length, 64), 1)
    for batch in _batches(path, file, [*columns, "label"] if labelled else columns, num_rows):
        yield _clicks(path, batch, history_length, first_row)
        first_row += batch.num_rows


def num_rows_of(path: Path) -> int:
    """Return how many rows a parquet file says it has; raises MmctrError where it is missing or damaged."""
    with _reading(path):
        return int(pq.read_metadata(path).num_rows)


def read_clicks(path: Path, history_length: int) -> Clicks:
    """Read a whole clicks file; see `iter_clicks`."""
    parts = list(iter_clicks(path, history_length))
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return Clicks(empty, empty, empty.reshape(0, history_length), empty.reshape(0, 2), None)
    labels = [part.label for part in parts if part.label is not None]
    return Clicks(
        np.concatenate([part.user_id for part in parts]),
        np.concatenate([part.item_id for part in parts]),
        np.concatenate([part.history for part in parts]),
        np.concatenate([part.levels for part in parts]),
        np.concatenate(labels) if labels else None,
    )


def _clicks(path: Path, batch: pa.RecordBatch, history_length: int, first_row: int) -> Clicks:
    levels = np.stack(
        [_integers(path, name, batch[name], first_row) for name in ("likes_level", "views_level")], axis=1
    )
    _refuse(path, "likes_level or views_level", (levels > MAX_LEVEL).any(axis=1), "is above 10", first_row)
    label = None
    if "label" in batch.schema.names:
        label = _numbers(path, "label", batch["label"], first_row).astype(np.float32)
        _refuse(path, "label", ~((label >= 0) & (label <= 1)), "is not between 0 and 1", first_row)
    return Clicks(
        _integers(path, "user_id", batch["user_id"], first_row),
        _integers(path, "item_id", batch["item_id"], first_row),
        _last_of_lists(path, batch["item_seq"], history_length, first_row),
        levels,
        label,
    )


def _open(path: Path, columns: list[str]) -> pq.ParquetFile:
    with _reading(path):
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
    missing = [name for name in columns if name not in names]
    if missing:
        raise MmctrError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}")
    return file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a missing or damaged file raises into this module's error."""
    try:
        yield
    except FileNotFoundError as error:
        raise MmctrError(f"{path} does not exist") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last by names that are damaged
        raise MmctrError(f"{path} cannot be read as parquet: {error}") from error


def _batches(path: Path, file: pq.ParquetFile, columns: list[str], num_rows: int) -> Iterator[pa.RecordBatch]:
    # The footer may be whole over damaged pages, which only reading them shows.
    with _reading(path):
        yield from file.iter_batches(num_rows, columns=columns)


def _numbers(path: Path, name: str, column: pa.Array, first_row: int = 0) -> NDArray[np.generic]:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise MmctrError(f"{path}: column {name} holds {column.type}, not numbers")
    if column.null_count:
        row = first_row + pc.index(pc.is_null(column), True).as_py()
        raise MmctrError(f"{path}: {name} of row {row} is missing")
    return np.asarray(column)


def _integers(path: Path, name: str, column: pa.Array, first_row: int = 0) -> NDArray[np.int64]:
    whole = _whole(path, name, column, first_row)
    _refuse(path, name, whole < 0, "is negative", first_row)
    return whole


def _whole(path: Path, name: str, column: pa.Array, first_row: int = 0) -> NDArray[np.int64]:
    if pa.types.is_floating(column.type):
        raise MmctrError(f"{path}: column {name} holds {column.type}, not integers")
    return _numbers(path, name, column, first_row).astype(np.int64)


def _flat(path: Path, name: str, column: pa.Array, first_row: int) -> tuple[NDArray[np.int64], pa.Array]:
    """Return (n + 1,) offsets and the values, none missing, of a column of lists."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # no chunk at all
        column = pa.array([], type=column.type)
    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise MmctrError(f"{path}: column {name} holds {column.type}, not lists")
    if column.null_count:
        row = first_row + pc.index(pc.is_null(column), True).as_py()
        raise MmctrError(f"{path}: {name} of row {row} is missing")
    offsets = np.asarray(column.offsets, dtype=np.int64)
    offsets, values = offsets - offsets[0], column.flatten()
    if values.null_count:
        missing = pc.index(pc.is_null(values), True).as_py()
        row = first_row + int(np.searchsorted(offsets, missing, side="right")) - 1
        raise MmctrError(f"{path}: {name} of row {row} holds a missing value")
    return offsets, values


def _rectangle(path: Path, name: str, column: pa.Array) -> tuple[int, pa.Array]:
    """Return the one length that all lists of a column have, and their values."""
    offsets, values = _flat(path, name, column, 0)
    lengths = np.diff(offsets)
    width = int(lengths[0]) if len(lengths) else 0
    _refuse(path, name, lengths != width, f"has another length than row 0's ({width}); fill all up to one length")
    return width, values


def _last_of_lists(path: Path, column: pa.Array, length: int, first_row: int) -> NDArray[np.int64]:
    """Return (n, length): the last `length` ids of each list, padded with 0 on the left."""
    offsets, flat = _flat(path, "item_seq", column, first_row)
    values = _whole(path, "item_seq", flat)
    position = offsets[1:, None] - length + np.arange(length)
    inside = position >= offsets[:-1, None]
    if len(values):
        histories = np.where(inside, values[np.maximum(position, 0)], 0)
    else:
        histories = np.zeros(position.shape, dtype=np.int64)
    _refuse(path, "item_seq", (histories < 0).any(axis=1), "holds a negative id", first_row)
    return histories


def _refuse(path: Path, name: str, wrong: NDArray[np.bool_] | np.bool_, complaint: str, first_row: int = 0) -> None:
    if wrong.any():
        raise MmctrError(f"{path}: {name} of row {first_row + int(np.flatnonzero(wrong)[0])} {complaint}")
