"""How good a model is on parts of the validation rows: by history, user, item and levels."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from training.data import ClickRows
from training.metrics import auc, log_loss
from training.rowscan import history_lengths, seen_items


@dataclass(frozen=True, slots=True)
class Slice:
    """One part of the rows."""

    group: str
    name: str
    num_rows: int
    clicked: float  # share
    auc: float | None  # None where all labels are of one class
    standard_error: float | None  # of the AUC, by Hanley and McNeil
    log_loss: float


def slices(
    train: ClickRows,
    valid: ClickRows,
    train_user: NDArray[np.int64],
    valid_user: NDArray[np.int64],
    num_items: int,
    score: NDArray[np.floating],
) -> list[Slice]:
    """Return the parts of labelled validation rows that hold any row, group by group.

    Parameters
    ----------
    train_user, valid_user
        The user of each row.
    num_items
        Rows of the item table.
    score
        (n,) of each validation row.
    """
    assert valid.label is not None
    label = valid.label
    parts = _parts(train, valid, train_user, valid_user, num_items)
    return [_slice(group, name, label[rows], score[rows]) for group, name, rows in parts if rows.any()]


def _parts(
    train: ClickRows,
    valid: ClickRows,
    train_user: NDArray[np.int64],
    valid_user: NDArray[np.int64],
    num_items: int,
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    assert train.label is not None
    yield from _ranges("History length", history_lengths(valid), [0, 1, 5, 9, 17, 33, 65, 129, 257])
    known = np.isin(valid_user, train_user)
    yield "User", "in the training rows", known
    yield "User", "new", ~known
    cold = ~seen_items(train, num_items)[valid.candidate]
    clicks = np.bincount(train.candidate[train.label == 1], minlength=num_items)
    yield "Item", "in the training rows", ~cold
    yield "Item", "cold: in no training row", cold
    yield from _ranges("Item's training clicks", clicks[valid.candidate], [0, 1, 10, 100, 1000, 10_000])
    for column, group in ((0, "Likes level"), (1, "Views level")):
        for level in np.unique(valid.levels[:, column]).tolist():
            yield group, str(level), valid.levels[:, column] == level


def _ranges(group: str, values: NDArray[np.int64], starts: list[int]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Yield the parts whose values begin at each start; the last one has no end."""
    for start, end in pairwise(starts):
        name = f"{start:,}" if end == start + 1 else f"{start:,} to {end - 1:,}"
        yield group, name, (values >= start) & (values < end)
    yield group, f"{starts[-1]:,} and more", values >= starts[-1]


def _slice(group: str, name: str, label: NDArray[np.float32], score: NDArray[np.floating]) -> Slice:
    area = auc(label, score)
    num_clicked = int(label.sum())
    error = None if area is None else _standard_error(area, num_clicked, len(label) - num_clicked)
    return Slice(group, name, len(label), float(label.mean()), area, error, log_loss(label, score))


def _standard_error(area: float, num_clicked: int, num_others: int) -> float:
    """Return the standard error of an AUC (Hanley and McNeil 1982, equation 1)."""
    both_above = area / (2 - area)
    above_both = 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (num_clicked - 1) * (both_above - area**2) + (num_others - 1) * (above_both - area**2)
    return float(np.sqrt(max(variance, 0.0) / (num_clicked * num_others)))
