"""Clicks read once from parquet and kept as plain arrays on disk, which later runs map into memory.

    <cache>/clicks-<key>/   candidate.npy history.npy levels.npy label.npy, and `whole` once all of it is there

The key is a hash over the file's contents and over what else the arrays depend on, so that a changed file, or another
catalogue, is another entry. Mapped arrays take no memory of their own: a set larger than memory is read from disk as
rows are asked for. Arrays of full width were preferred to flat ones without padding: a row is one place on disk.
"""

import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from contract.files import sync_folder
from contract.ids import IdIndex
from contract.mmctr import num_rows_of
from contract.schema import Schema
from training.data import Catalogue, ClickRows, fingerprint, iter_click_rows, read_click_rows
from training.errors import DataError, OutputError

_FORMAT = 1
_WHOLE = "whole"
_WORTH_BYTES = 64 * 2**20
"""Smaller sets are read from parquet in less than a second."""
_UNUSED_S = 30 * 86_400
"""An entry that no run has opened for so long is removed when another one is written."""


def open_click_rows(
    path: Path, catalogue: Catalogue, schema: Schema, cache: Path | None, worth_bytes: int = _WORTH_BYTES
) -> ClickRows:
    """Return the clicks of a file: mapped from the cache, into which they are put first if need be, or read.

    Parameters
    ----------
    path, catalogue, schema
        As `read_click_rows` takes them.
    cache
        The folder of all entries; none means to read into memory.
    worth_bytes
        Clicks that take less are read into memory.

    Raises
    ------
    DataError, MmctrError
        As `read_click_rows`.
    OutputError
        The cache cannot be written.
    """
    if cache is None or num_rows_of(path) * _row_bytes(schema) < worth_bytes:
        return read_click_rows(path, catalogue, schema)
    entry = cache / f"clicks-{_key(path, catalogue.index, schema)}"
    if not (entry / _WHOLE).exists():
        _write_entry(path, catalogue, schema, entry)
    (entry / _WHOLE).touch()
    return _mapped(entry)


def _row_bytes(schema: Schema) -> int:
    return 4 * (schema.history_length + 4)


def _key(path: Path, index: IdIndex, schema: Schema) -> str:
    depends_on = (
        _FORMAT,
        fingerprint(path),
        hashlib.sha256(index.ids.tobytes() + index.rows(index.ids).tobytes()).digest(),
        schema.history_length,
        schema.num_likes_levels,
        schema.num_views_levels,
    )
    return hashlib.sha256(repr(depends_on).encode()).hexdigest()[:32]


def _mapped(entry: Path) -> ClickRows:
    def load(name: str) -> Any:
        # Copy on write: torch takes no array that must not be written to.
        return np.load(entry / f"{name}.npy", mmap_mode="c", allow_pickle=False)

    label = load("label") if (entry / "label.npy").exists() else None
    return ClickRows(load("candidate"), load("history"), load("levels"), label)


def _write_entry(path: Path, catalogue: Catalogue, schema: Schema, entry: Path) -> None:
    """Put a file's clicks under a name of their own, then rename: whichever process comes first wins."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        _remove_unused(entry.parent)
        needed = num_rows_of(path) * _row_bytes(schema)
        if shutil.disk_usage(entry.parent).free < needed:
            raise OutputError(f"the cache {entry.parent} needs {needed / 1e9:.1f} GB for {path}, and has less free")
        temporary = Path(tempfile.mkdtemp(prefix=".clicks-", dir=entry.parent))
    except OSError as error:
        raise OutputError(f"the cache {entry.parent} cannot be written: {error.strerror or error}") from error
    try:
        _write_arrays(path, catalogue, schema, temporary)
        if not (entry / _WHOLE).exists():
            shutil.rmtree(entry, ignore_errors=True)
        temporary.rename(entry)
        sync_folder(entry.parent)
    except OSError as error:
        if not (entry / _WHOLE).exists():
            raise OutputError(f"the cache {entry.parent} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_arrays(path: Path, catalogue: Catalogue, schema: Schema, folder: Path) -> None:
    """Fill the arrays part by part, so that memory holds one part only."""
    num_rows, first, files = num_rows_of(path), 0, {}
    for part in iter_click_rows(path, catalogue, schema):
        for name in ("candidate", "history", "levels", "label"):
            values = getattr(part, name)
            if values is None:
                continue
            if name not in files:
                files[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy", mode="w+", dtype=values.dtype, shape=(num_rows, *values.shape[1:])
                )
            files[name][first : first + len(part)] = values
        first += len(part)
    if first != num_rows or not num_rows:
        raise DataError(f"{path} holds {first} rows and says {num_rows}")
    for file in files.values():
        file.flush()
    (folder / _WHOLE).touch()


def _remove_unused(cache: Path) -> None:
    """Remove entries that were not opened for long, and what a killed process left half written."""
    for mark in [*cache.glob("clicks-*/" + _WHOLE), *cache.glob(".clicks-*")]:
        entry = mark if mark.is_dir() else mark.parent
        if time.time() - mark.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(entry, ignore_errors=True)
