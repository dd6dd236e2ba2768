"""What happened: clicks, and what was shown where a log says so."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from preparation.errors import SourceError
from preparation.identity import raw_ids
from preparation.settings import Settings
from preparation.source import files_of, read_table, read_times, whole_column


@dataclass(frozen=True, slots=True)
class RawLog:
    """The events of some files, in file order, with ids as they come."""

    user: pa.ChunkedArray
    item: pa.ChunkedArray
    time: NDArray[np.int64]  # (n,) microseconds
    clicked: NDArray[np.bool_] | None  # (n,) None where no file has labels: all were

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True, slots=True)
class Events:
    """Events on items of the catalogue."""

    user: NDArray[np.int64]  # (n,) user ids
    item: NDArray[np.int64]  # (n,) positions in the catalogue
    time: NDArray[np.int64]  # (n,) microseconds

    def __len__(self) -> int:
        return len(self.time)

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Events":
        """Return the chosen events."""
        return Events(self.user[chosen], self.item[chosen], self.time[chosen])


def read_log(paths: list[Path], settings: Settings) -> RawLog:
    """Read logs of user, item, time and, optionally, a label: 1 for a click, 0 for shown without a click.

    Raises
    ------
    SourceError
        A file cannot be read, a value is missing, a label is neither 0 nor 1, or only some files have labels.
    """
    files = files_of(paths)
    parts = [_read(path, settings) for path in files]
    labelled = {path: part.clicked is not None for path, part in zip(files, parts, strict=True)}
    if len(set(labelled.values())) > 1:
        without = next(path for path, has in labelled.items() if not has)
        raise SourceError(f"{without} has no column {settings.columns.label}, the other logs have; tell them apart")
    marks = [part.clicked for part in parts if part.clicked is not None]
    return RawLog(
        _joined([part.user for part in parts]),
        _joined([part.item for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate(marks) if marks else None,
    )


def _read(path: Path, settings: Settings) -> RawLog:
    names = settings.columns
    ids = [names.user, names.item]
    table = read_table(path, [*ids, names.time], [names.label], text=ids)
    user, item = (raw_ids(path, name, whole_column(path, table, name)) for name in ids)
    clicked = None
    if names.label in table.column_names:
        clicked = _labels(path, names.label, whole_column(path, table, names.label))
    return RawLog(user, item, read_times(path, table, names.time, settings.time_unit), clicked)


def _labels(path: Path, name: str, column: pa.ChunkedArray) -> NDArray[np.bool_]:
    try:
        label = column.cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise SourceError(f"{path}: {name} holds {column.type}, not 0 and 1") from error
    wrong = np.flatnonzero(~np.isin(label, (0, 1)))
    if len(wrong):
        raise SourceError(f"{path}: {name} of row {wrong[0]} is {label[wrong[0]]:g}, neither 0 nor 1")
    clicked: NDArray[np.bool_] = label == 1
    return clicked


def _joined(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Return columns of ids one after the other: text, if any of them is."""
    kinds = {column.type for column in columns}
    kind = pa.int64() if kinds == {pa.int64()} else pa.string()
    return pa.chunked_array([chunk for column in columns for chunk in column.cast(kind).chunks], type=kind)


def known_events(
    what: str, user: NDArray[np.int64], item: NDArray[np.int64], time: NDArray[np.int64], max_unknown_share: float
) -> tuple[Events, NDArray[np.bool_]]:
    """Return the events on items of the catalogue, and which ones of all they are.

    Parameters
    ----------
    item
        (n,) positions in the catalogue, -1 where it lacks the item.

    Raises
    ------
    SourceError
        The catalogue lacks the items of more than `max_unknown_share` of the events, or of all.
    """
    if not len(item):
        raise SourceError(f"{what}: there are none")
    known: NDArray[np.bool_] = item >= 0
    share = 1 - known.mean()
    if share > max_unknown_share or not known.any():
        raise SourceError(
            f"{what}: {share:.1%} of {len(known):,} events are on items that the catalogue lacks; "
            f"at most {max_unknown_share:.1%} may be"
        )
    return Events(user[known], item[known], time[known]), known
