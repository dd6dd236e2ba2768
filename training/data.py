"""From MM-CTR parquet to item tables on a device and batches of row numbers.

Three kinds of number: an *item id* is what the files say; a *vocabulary row* is the item's row in the id
embedding, 0 for padding and for ids that were not trained on; a *table row* is the item's row in an
`ItemTable`, 0 for padding. Shapes: n clicks, H history length, N items, T tag slots, F embedding width.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from contract.ids import IdIndex
from contract.mmctr import Clicks, ItemInfo, iter_clicks
from contract.schema import Schema
from training.errors import DataError
from training.model import Batch, ItemTable

_PIECES = 64


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items of one `item_info` file as a model sees them; item i of the file lies in table row i + 1."""

    index: IdIndex  # item id -> table row
    items: ItemTable  # on the CPU
    num_unknown_tags: int  # how many tags were dropped because the model's vocabulary does not hold them


@dataclass(frozen=True, slots=True)
class ClickRows:
    """Clicks as table rows of a catalogue, in file order, compactly on the CPU."""

    candidate: NDArray[np.int32]  # (n,)
    history: NDArray[np.int32]  # (n, H), 0 is padding
    levels: NDArray[np.int32]  # (n, 2)
    label: NDArray[np.float32] | None  # (n,) 0 or 1

    def __len__(self) -> int:
        return len(self.candidate)

    def part(self, rows: slice) -> "ClickRows":
        """Return some of the clicks, sharing their memory."""
        label = None if self.label is None else self.label[rows]
        return ClickRows(self.candidate[rows], self.history[rows], self.levels[rows], label)

    def batch(self, rows: NDArray[np.integer] | slice, device: torch.device | str = "cpu") -> Batch:
        """Return the given clicks as a batch on a device."""
        index = torch.arange(*rows.indices(len(self))) if isinstance(rows, slice) else torch.from_numpy(rows).long()

        def move(values: NDArray[np.generic]) -> torch.Tensor:
            # Three times as fast as numpy's, and pages that are not in memory are waited for by all threads at once.
            chosen = torch.from_numpy(values).index_select(0, index)
            return chosen if torch.device(device).type == "cpu" else chosen.pin_memory().to(device, non_blocking=True)

        label = None if self.label is None else move(self.label)
        return Batch(move(self.candidate).long(), move(self.history), move(self.levels), label)


def item_vocabulary(info: ItemInfo) -> NDArray[np.int64]:
    """Return (num_items,) the item id of each vocabulary row: row 0 is padding, then the ids ascending."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.unique(info.item_id[info.item_id != 0])])


def schema_of(info: ItemInfo, history_length: int) -> Schema:
    """Return the schema of a model that is trained on these items.

    Raises
    ------
    DataError
        There is no item, or more tag slots or a wider embedding than a model can have.
    """
    try:
        return Schema(
            num_items=len(item_vocabulary(info)),
            num_tags=int(info.tags.max(initial=0)) + 1,
            max_tags=info.tags.shape[1],
            embedding_width=info.embedding.shape[1],
            history_length=history_length,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"item_info cannot be learned from: {first['loc'][0]}: {first['msg']}") from error


def build_catalogue(info: ItemInfo, vocabulary: NDArray[np.int64], schema: Schema) -> Catalogue:
    """Lay out items for a model; an id outside its vocabulary is cold, a tag outside its vocabulary is dropped.

    Raises
    ------
    DataError
        The items have another number of tag slots or another embedding width than the model.
    """
    slots, width = info.tags.shape[1], info.embedding.shape[1]
    if (slots, width) != (schema.max_tags, schema.embedding_width):
        raise DataError(
            f"item_info has {slots} tag slots and embeddings of width {width}; "
            f"the model has {schema.max_tags} and {schema.embedding_width}"
        )
    unknown = info.tags >= schema.num_tags
    items = ItemTable(
        vocabulary_row=_below_zero_row(_vocabulary_index(vocabulary).rows(info.item_id)),
        tags=_below_zero_row(np.where(unknown, 0, info.tags)),
        embedding=_below_zero_row(info.embedding),
    )
    index = IdIndex(info.item_id, np.arange(1, len(info) + 1))
    return Catalogue(index, items, int(unknown.sum()))


def _vocabulary_index(vocabulary: NDArray[np.int64]) -> IdIndex:
    return IdIndex(vocabulary[1:], np.arange(1, len(vocabulary)))


def _below_zero_row(values: NDArray[np.generic]) -> torch.Tensor:
    """Return the values as a tensor with a row of zeros in front."""
    return torch.from_numpy(np.concatenate([np.zeros_like(values[:1], shape=(1, *values.shape[1:])), values]))


def read_click_rows(path: Path, catalogue: Catalogue, schema: Schema) -> ClickRows:
    """Read clicks and look up every item in the catalogue.

    Raises
    ------
    DataError
        There are no rows, an item is not in the catalogue, a level is not in the schema, or a label is
        neither 0 nor 1; the message names file and row.
    MmctrError
        The file is not of the MM-CTR layout.
    """
    parts = list(iter_click_rows(path, catalogue, schema))
    if not sum(len(part) for part in parts):
        raise DataError(f"{path} holds no rows")
    labels = [part.label for part in parts if part.label is not None]
    return ClickRows(
        np.concatenate([part.candidate for part in parts]),
        np.concatenate([part.history for part in parts]),
        np.concatenate([part.levels for part in parts]),
        np.concatenate(labels) if labels else None,
    )


def iter_click_rows(path: Path, catalogue: Catalogue, schema: Schema) -> Iterator[ClickRows]:
    """Yield the clicks of a file part by part; see `read_click_rows`."""
    first_row = 0
    for clicks in iter_clicks(path, schema.history_length):
        yield _click_rows(path, clicks, catalogue.index, schema, first_row)
        first_row += len(clicks)


def _click_rows(path: Path, clicks: Clicks, index: IdIndex, schema: Schema, first_row: int) -> ClickRows:
    candidate = _table_rows(path, "item_id", clicks.item_id, index, first_row)
    met = clicks.history != 0
    owner = np.nonzero(met)[0]
    history = np.zeros(clicks.history.shape, dtype=np.int32)
    history[met] = _table_rows(path, "item_seq", clicks.history[met], index, first_row, owner)
    sizes = np.array([schema.num_likes_levels, schema.num_views_levels])
    _refuse(path, np.any(clicks.levels >= sizes, axis=1), "has a level that the model does not know", first_row)
    if clicks.label is not None:
        _refuse(path, ~np.isin(clicks.label, (0, 1)), "has a label that is neither 0 nor 1", first_row)
    return ClickRows(candidate, history, clicks.levels.astype(np.int32), clicks.label)


def _table_rows(
    path: Path,
    column: str,
    ids: NDArray[np.int64],
    index: IdIndex,
    first_row: int,
    owner: NDArray[np.int64] | None = None,
) -> NDArray[np.int32]:
    """Return the table row of each of (m,) ids; `owner` is each one's click where that is not its position."""
    rows = index.rows(ids)
    missing = np.flatnonzero(rows == 0)
    if len(missing):
        first = int(missing[0])
        row = first_row + (first if owner is None else int(owner[first]))
        raise DataError(f"{path}: {column} of row {row} is {ids[first]}, which item_info does not hold")
    return rows.astype(np.int32)


def _refuse(path: Path, wrong: NDArray[np.bool_], complaint: str, first_row: int) -> None:
    if wrong.any():
        raise DataError(f"{path}: row {first_row + int(np.flatnonzero(wrong)[0])} {complaint}")


def shuffled(
    num_rows: int, batch_size: int, seed: int, epoch: int, window: int = 0, smallest: int = 2
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each batch of an epoch: every row once, in an order that (seed, epoch) decides.

    A last row that would be alone joins the batch before it: BatchNorm has no variance of one row, and to leave
    the row out would train on fewer rows than the epoch reports.

    Parameters
    ----------
    smallest
        A last batch of fewer rows joins the one before it; for several processes, each of which needs a row.
    window
        0 shuffles all rows alike. For data on a disk: how many rows are mixed at a time, made of 64 pieces from
        anywhere in the file; a batch's rows are ascending then, as a disk likes to be read.
    """
    ends = list(range(batch_size, num_rows, batch_size))
    if ends and num_rows - ends[-1] < min(smallest, batch_size):
        ends.pop()
    order = _Order(num_rows, np.random.default_rng([seed, epoch]), window)
    for start, end in itertools.pairwise([0, *ends, num_rows]):
        rows = order.take(end - start)
        yield np.sort(rows) if window else rows


class _Order:
    """A random order of all rows, made as it is asked for."""

    def __init__(self, num_rows: int, generator: np.random.Generator, window: int) -> None:
        self._pieces = _windows(num_rows, generator, window)
        self._left: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def take(self, num_rows: int) -> NDArray[np.int64]:
        """Return the next rows of the order."""
        while len(self._left) < num_rows:
            self._left = np.concatenate([self._left, next(self._pieces)])
        taken, self._left = self._left[:num_rows], self._left[num_rows:]
        return taken


def _windows(num_rows: int, generator: np.random.Generator, window: int) -> Iterator[NDArray[np.int64]]:
    """Yield all rows, mixed within windows of pieces that are themselves in random order."""
    if not window or window >= num_rows:
        yield generator.permutation(num_rows)
        return
    size = max(window // _PIECES, 1)
    pieces = generator.permutation(-(-num_rows // size))
    for first in range(0, len(pieces), _PIECES):
        starts = pieces[first : first + _PIECES] * size
        rows = np.concatenate([np.arange(start, min(start + size, num_rows)) for start in starts])
        yield generator.permutation(rows)


def fingerprint(*paths: Path) -> str:
    """Return the SHA-256 over the contents of the files, in this order."""
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
