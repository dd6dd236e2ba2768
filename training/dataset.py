"""The three files of a data folder, read and checked for training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.mmctr import read_items
from contract.schema import Schema
from training.checkpoint import Checkpoint
from training.clickcache import open_click_rows
from training.data import (
    Catalogue,
    ClickRows,
    build_catalogue,
    fingerprint,
    item_vocabulary,
    schema_of,
)
from training.errors import DataError
from training.grow import grow_features

TRAIN, VALID, ITEM_INFO = "train.parquet", "valid.parquet", "item_info.parquet"


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a model is trained on, and what its epochs are compared on."""

    train: ClickRows
    valid: ClickRows
    catalogue: Catalogue
    vocabulary: NDArray[np.int64]  # (num_items,) item id of each vocabulary row
    schema: Schema
    fingerprint: str  # over the contents of the three files


def read_dataset(
    folder: Path, history_length: int, cache: Path | None = None, start: Checkpoint | None = None
) -> Dataset:
    """Read `train.parquet`, `valid.parquet` and `item_info.parquet`; large clicks are mapped from `cache`, if given.

    With `start`, vocabulary and schema are those of this checkpoint, grown by what the items bring.

    Raises
    ------
    DataError
        Rows have no label, an item is not in item_info, or the validation labels are all of one class, so that
        no epoch could be called the best; or the items do not fit `start`.
    MmctrError
        A file is not of the MM-CTR layout.
    OutputError
        The cache cannot be written.
    """
    info = read_items(folder / ITEM_INFO)
    vocabulary, schema = item_vocabulary(info), schema_of(info, history_length)
    if start is not None:
        grown = grow_features(start, info, history_length)
        info, vocabulary, schema = grown.items, grown.vocabulary, grown.schema
    catalogue = build_catalogue(info, vocabulary, schema)
    train, valid = (_labelled(folder / name, catalogue, schema, cache) for name in (TRAIN, VALID))
    if valid.label is not None and len(np.unique(valid.label)) < 2:
        raise DataError(f"{folder / VALID}: every label is {valid.label[0]:g}; AUC needs both classes")
    files = (folder / name for name in (TRAIN, VALID, ITEM_INFO))
    return Dataset(train, valid, catalogue, vocabulary, schema, fingerprint(*files))


def _labelled(path: Path, catalogue: Catalogue, schema: Schema, cache: Path | None) -> ClickRows:
    rows = open_click_rows(path, catalogue, schema, cache)
    if rows.label is None:
        raise DataError(f"{path} has no column label")
    return rows
