"""Is this data fit to learn from? What layout and look-ups cannot tell: classes, leaks, overlap, ranges.

Files that are not of the layout, items that item_info lacks, repeated ids, levels and embeddings out of range are
found on reading (`contract.mmctr`, `training.data`); `examine` lists those too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from contract.mmctr import MmctrError, read_clicks, read_items
from training.data import Catalogue, ClickRows, build_catalogue, item_vocabulary, read_click_rows, schema_of
from training.dataset import ITEM_INFO, TRAIN, VALID
from training.errors import DataError
from training.rowscan import history_lengths, row_hashes, seen_items

T = TypeVar("T")

_RARE_CLASS, _COMMON_CLASS = 0.002, 0.9
"""Shares of clicks below and above which a log is hardly one of a ranking."""
_MOST = 0.5
"""From this share on a leak is not chance: the figures of a run would mean nothing."""
_LARGE = 1e3
"""An embedding's number above this drowns what the others say at the start of training."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: an error forbids training, a warning does not, a fact is good to know."""

    kind: Literal["error", "warning", "fact"]
    check: str
    message: str


@dataclass(frozen=True, slots=True)
class _Data:
    """What the checks look at."""

    train: ClickRows
    valid: ClickRows
    train_user: NDArray[np.int64]
    valid_user: NDArray[np.int64]
    catalogue: Catalogue
    seen: NDArray[np.bool_]  # of each table row, whether it occurs in the training rows

    @property
    def parts(self) -> tuple[tuple[str, ClickRows], tuple[str, ClickRows]]:
        """Both files with their names."""
        return (TRAIN, self.train), (VALID, self.valid)


def examine(folder: Path, history_length: int = 64) -> list[Finding]:
    """Return everything that is wrong with a folder of data, or noteworthy, without stopping at the first error."""
    found: list[Finding] = []
    info = _tried(found, ITEM_INFO, lambda: read_items(folder / ITEM_INFO))
    if info is None:
        for name in (TRAIN, VALID):
            _tried(found, name, lambda name=name: read_clicks(folder / name, 1))  # type: ignore[misc]
        return found
    schema = _tried(found, ITEM_INFO, lambda: schema_of(info, history_length))
    if schema is None:
        return found
    catalogue = build_catalogue(info, item_vocabulary(info), schema)
    train, valid = (
        _tried(found, name, lambda name=name: read_click_rows(folder / name, catalogue, schema))  # type: ignore[misc]
        for name in (TRAIN, VALID)
    )
    if train is None or valid is None:
        return found
    for name, rows in ((TRAIN, train), (VALID, valid)):
        if rows.label is None:
            found.append(Finding("error", "labels", f"{name} has no column label"))
    return found or check_rows(folder, train, valid, catalogue)


def _tried(found: list[Finding], name: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (MmctrError, DataError) as error:
        found.append(Finding("error", f"reading {name}", str(error)))
        return None


def check_rows(folder: Path, train: ClickRows, valid: ClickRows, catalogue: Catalogue) -> list[Finding]:
    """Return what is wrong or noteworthy in labelled rows that could be read.

    Parameters
    ----------
    folder
        Where they were read from; the users are read from there once more, as rows do not hold them.
    """
    seen = seen_items(train, len(catalogue.items.vocabulary_row))
    data = _Data(train, valid, read_users(folder / TRAIN), read_users(folder / VALID), catalogue, seen)
    checks = (_balance, _leak, _own_click, _overlap, _histories, _levels, _embeddings, _items)
    found = [finding for check in checks for finding in check(data)]
    order = ("error", "warning", "fact")
    return sorted(found, key=lambda finding: order.index(finding.kind))


def refuse_errors(found: list[Finding]) -> list[str]:
    """Return a line for each warning; raises DataError where anything is an error."""
    errors = [f"{finding.check}: {finding.message}" for finding in found if finding.kind == "error"]
    if errors:
        raise DataError("; ".join(errors))
    return [f"{finding.check}: {finding.message}" for finding in found if finding.kind == "warning"]


def read_users(path: Path) -> NDArray[np.int64]:
    """Return (n,) the user of each row of a clicks file."""
    return pq.read_table(path, columns=["user_id"])["user_id"].to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def _balance(data: _Data) -> Iterator[Finding]:
    shares = []
    for name, rows in data.parts:
        assert rows.label is not None
        share = float(rows.label.mean())
        shares.append(share)
        message = f"{share:.2%} of the {len(rows):,} rows of {name} are clicks"
        if share in (0, 1) and len(rows) > 1:
            yield Finding("error", "classes", f"{name}: every label is {share:g}; there is nothing to tell apart")
        else:
            extreme = not _RARE_CLASS <= share <= _COMMON_CLASS
            yield Finding("warning" if extreme else "fact", "classes", message)
    low, high = sorted(shares)
    if low > 0 and high > 2 * low:
        yield Finding("warning", "classes", "one file has more than twice the other's share of clicks: calibration")


def _leak(data: _Data) -> Iterator[Finding]:
    repeated = _held(row_hashes(data.valid, data.valid_user), row_hashes(data.train, data.train_user))
    share = float(repeated.mean())
    if not share:
        yield Finding("fact", "leak", f"no row of {VALID} is in {TRAIN}")
        return
    first = int(np.flatnonzero(repeated)[0])
    yield Finding(
        "error" if share >= _MOST else "warning",
        "leak",
        f"{int(repeated.sum()):,} rows of {VALID} ({share:.1%}) are in {TRAIN} too, with the same user, item and "
        f"history; the first is row {first}",
    )


def _held(few: NDArray[np.uint64], many: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which of a few values are among many, sorting the few alone."""
    distinct, position = np.unique(few, return_inverse=True)
    place = np.minimum(np.searchsorted(distinct, many), len(distinct) - 1)
    found = np.zeros(len(distinct), dtype=bool)
    found[place[distinct[place] == many]] = True
    return found[position]


def _own_click(data: _Data) -> Iterator[Finding]:
    for name, rows in data.parts:
        assert rows.label is not None
        clicked = rows.label == 1
        if not clicked.any():
            continue
        share = float((rows.history[clicked, -1] == rows.candidate[clicked]).mean())
        if share >= _MOST:
            yield Finding(
                "error",
                "leak",
                f"in {share:.0%} of the clicks of {name} the history ends with the very item: it holds the click "
                "that is to be predicted",
            )


def _overlap(data: _Data) -> Iterator[Finding]:
    known = np.isin(data.valid_user, data.train_user)
    num_users = len(np.unique(data.valid_user))
    yield Finding("fact", "users", f"{num_users:,} in {VALID}, {1 - known.mean():.1%} of its rows of users new to it")
    cold = ~data.seen[data.valid.candidate]
    yield Finding("fact", "items", f"{cold.mean():.1%} of the rows of {VALID} are on items that {TRAIN} never shows")


def _histories(data: _Data) -> Iterator[Finding]:
    for name, rows in data.parts:
        lengths = history_lengths(rows)
        if not lengths.any():
            yield Finding("warning", "histories", f"every history of {name} is empty: there is no user to learn from")
            continue
        full = (lengths == rows.history.shape[1]).mean()
        yield Finding(
            "fact",
            "histories",
            f"{name}: {lengths.mean():.1f} items on average, {(lengths == 0).mean():.1%} empty, {full:.1%} full",
        )


def _levels(data: _Data) -> Iterator[Finding]:
    for column, which in ((0, "likes_level"), (1, "views_level")):
        values = np.unique(data.train.levels[:, column])
        others = np.setdiff1d(data.valid.levels[:, column], values)
        if len(others):
            message = f"{which}: {VALID} has levels that {TRAIN} never shows: {', '.join(map(str, others))}"
            yield Finding("warning", "levels", message)
        if len(values) == 1:
            yield Finding("warning", "levels", f"{which} is {values[0]} in every row of {TRAIN}: it says nothing")
        else:
            yield Finding("fact", "levels", f"{which} is {values[0]} to {values[-1]}")


def _embeddings(data: _Data) -> Iterator[Finding]:
    embedding = data.catalogue.items.embedding.numpy()[1:]
    zero = (embedding == 0).all(axis=1)
    if zero.all():
        yield Finding("error", "embeddings", f"every embedding of {ITEM_INFO} is zero")
        return
    largest = float(np.abs(embedding).max())
    yield Finding(
        "fact", "embeddings", f"{zero.mean():.1%} of {len(zero):,} are zero; the largest number is {largest:.3g}"
    )
    if largest > _LARGE:
        yield Finding("warning", "embeddings", f"numbers up to {largest:.3g}: scale them to about 1")
    if zero.mean() > _MOST:
        yield Finding("warning", "embeddings", f"{zero.mean():.1%} are zero: these items have tags and id alone")


def _items(data: _Data) -> Iterator[Finding]:
    items = data.catalogue.items
    tagless = (items.tags.numpy()[1:] == 0).all(axis=1)
    unseen = 1 - data.seen[1:].mean()
    message = (
        f"{len(tagless):,} in {ITEM_INFO}, {unseen:.1%} of them never in {TRAIN}, {tagless.mean():.1%} without tags"
    )
    yield Finding("fact", "items", message)


def table(found: list[Finding]) -> Table:
    """Return findings as a table for a terminal."""
    colours = {"error": "bold red", "warning": "yellow", "fact": "dim"}
    shown = Table("", "check", "found", box=None, padding=(0, 2, 0, 0))
    for finding in found:
        shown.add_row(finding.kind, escape(finding.check), escape(finding.message), style=colours[finding.kind])
    return shown
