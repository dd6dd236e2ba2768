"""Tables from files as they come: parquet, CSV or JSON lines, told apart by their suffix."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from numpy.typing import NDArray

from preparation.errors import SourceError

_BLOCK_BYTES = 16 << 20
"""The longest line of CSV or JSON that can be read, and what one thread parses at a time."""
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_LATEST = 4_102_444_800 * 1_000_000
"""The year 2100 in microseconds: a later time was given in another unit than the stated one."""


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are meant: of a folder, those in it that are not hidden, by name.

    Raises
    ------
    SourceError
        A folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        files = [path] if not path.is_dir() else sorted(_whole_files(path))
        if not files:
            raise SourceError(f"{path} is a folder without a file")
        found += files
    return found


def _whole_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "_"))]


def read_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), text: Sequence[str] = ()
) -> pa.Table:
    """Read some columns of a file.

    Parameters
    ----------
    required, optional
        Names of columns; optional ones that the file lacks are left out.
    text
        Columns in which a CSV file's values stay as they are written: the type of an id is not to depend on which
        ids a block of the file happens to hold.

    Raises
    ------
    SourceError
        The file is missing, damaged, of an unknown suffix, or lacks a required column.
    """
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_json, ".ndjson": _read_json}
    reader = readers.get(path.suffix)
    if reader is None:
        raise SourceError(f"{path}: the suffix is none of {', '.join(readers)}")
    try:
        return reader(path, lambda names: _chosen(path, names, required, optional), text)
    except FileNotFoundError as error:
        raise SourceError(f"{path} does not exist") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error


def _chosen(path: Path, names: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    missing = [name for name in required if name not in names]
    if missing:
        raise SourceError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}")
    return [*required, *(name for name in optional if name in names and name not in required)]


_Choice = Callable[[Sequence[str]], list[str]]


def _read_parquet(path: Path, choose: _Choice, _text: Sequence[str]) -> pa.Table:
    file = pq.ParquetFile(path)
    return file.read(columns=choose(file.schema_arrow.names))


def _read_csv(path: Path, choose: _Choice, text: Sequence[str]) -> pa.Table:
    reading = pa.csv.ReadOptions(block_size=_BLOCK_BYTES)
    converting = pa.csv.ConvertOptions(column_types={name: pa.string() for name in text})
    with pa.csv.open_csv(path, reading) as head:
        converting.include_columns = choose(head.schema.names)
    return pa.csv.read_csv(path, reading, convert_options=converting)


def _read_json(path: Path, choose: _Choice, _text: Sequence[str]) -> pa.Table:
    table = pa.json.read_json(path, pa.json.ReadOptions(block_size=_BLOCK_BYTES))
    return table.select(choose(table.column_names))


def whole_column(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column that has a value in every row; raises SourceError, naming the first row without one."""
    column = table[name]
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise SourceError(f"{path}: {name} is missing in {column.null_count} rows, the first of them row {row}")
    return column


def read_times(path: Path, table: pa.Table, name: str, unit: str) -> NDArray[np.int64]:
    """Return (n,) a column of times in microseconds since 1970.

    Timestamps and ISO 8601 text say their unit themselves, `unit` ("s", "ms" or "us") is that of plain numbers.

    Raises
    ------
    SourceError
        A time is missing, is no time, or lies so late that `unit` must be wrong.
    """
    column = whole_column(path, table, name)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        times: NDArray[np.int64] = (column.to_numpy() * _MICROSECONDS[unit]).astype(np.int64)
    else:
        times = _timestamps(path, name, column)
    if len(times) and int(times.max()) > _LATEST:
        raise SourceError(f"{path}: {name} lies after the year 2100 if its unit is {unit}; name the unit that it has")
    return times


def _timestamps(path: Path, name: str, column: pa.ChunkedArray) -> NDArray[np.int64]:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):  # text with a zone takes the second
        try:
            return column.cast(kind, safe=False).cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]
        except pa.ArrowException as error:
            complaint = error
    raise SourceError(f"{path}: {name} holds {column.type} that cannot be read as times: {complaint}")
