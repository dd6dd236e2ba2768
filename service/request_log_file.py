"""One file of the request log: whole, or absent."""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contract.requestlog import REQUEST_LOG
from service.counters import process_name
from service.observers import Served

_TEMPORARY = ".tmp"
_ABANDONED_S = 86_400.0
"""A temporary file that nobody has written to for so long is one that a killed process left."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An answer and when it was made, in microseconds since 1970."""

    time_us: int
    served: Served


class RequestLogFile:
    """Written under a name that readers pass over, synced, renamed.

    OSError and errors of pyarrow pass through; then it is to be abandoned.

    Parameters
    ----------
    folder
        Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        process = process_name() or f"{os.getpid()}"
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        name = f"{now}-{socket.gethostname()}-{process}-{secrets.token_hex(3)}.parquet"
        self._path, self._temporary = folder / name, folder / f".{name}{_TEMPORARY}"
        self.num_rows = 0
        self._writer = pq.ParquetWriter(self._temporary, REQUEST_LOG, compression="zstd")

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Append rows, as one row group."""
        table = pa.Table.from_batches(batches, REQUEST_LOG)
        self._writer.write_table(table, row_group_size=len(table))
        self.num_rows += len(table)

    def finish(self) -> None:
        """Let the file appear."""
        self._writer.close()
        _sync(self._temporary)
        self._temporary.rename(self._path)
        _sync(self._path.parent)

    def abandon(self) -> None:
        """Leave nothing of it."""
        try:
            self._writer.close()
        except (OSError, pa.ArrowException):
            pass  # nobody will read it
        finally:
            self._temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left half written, as far as that may be removed."""
    for left in folder.glob(f".*.parquet{_TEMPORARY}"):
        with contextlib.suppress(OSError):  # another process may be doing the same
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


def rows_of(entries: Sequence[Entry], model: str) -> pa.RecordBatch:
    """Return a row for each user that was answered, in the layout of `contract.requestlog`."""
    pairs = [(entry, ranking) for entry in entries for ranking in entry.served.rankings]
    rankings = [ranking for _, ranking in pairs]
    histories = [ranking.history[ranking.history != 0] for ranking in rankings]
    levels = [ranking.levels.astype(np.int8) for ranking in rankings]
    columns = {
        "request_id": [entry.served.call.request_id for entry, _ in pairs],
        "time": [entry.time_us for entry, _ in pairs],
        "model": [model] * len(pairs),
        "version": [ranking.version for ranking in rankings],
        "user_id": [ranking.query.user_id for ranking in rankings],
        "history": _lists(histories),
        "candidates": _lists([ranking.query.candidates for ranking in rankings]),
        "likes_level": _lists([of_one[:, 0] for of_one in levels]),
        "views_level": _lists([of_one[:, 1] for of_one in levels]),
        "scores": _lists([ranking.scores for ranking in rankings]),
        "degraded": [list(ranking.degraded) for ranking in rankings],
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, REQUEST_LOG.field(name).type)
        for name, column in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=REQUEST_LOG)


def _lists(values: "Sequence[NDArray[np.int64] | NDArray[np.int8] | NDArray[np.float32]]") -> pa.ListArray:
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(of_one) for of_one in values], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
