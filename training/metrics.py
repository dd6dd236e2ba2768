"""How good predicted click probabilities are; without torch."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from training.errors import DataError, OutputError


def auc(label: NDArray[np.floating], score: NDArray[np.floating]) -> float | None:
    """Return the area under the ROC curve over all rows; None where all labels are of one class.

    Parameters
    ----------
    label, score
        (n,) labels, 0 or 1, and scores of which only the order counts.
    """
    _check(label, score)
    if len(np.unique(label)) < 2:
        return None
    return float(metrics.roc_auc_score(label, score))


def log_loss(label: NDArray[np.floating], score: NDArray[np.floating]) -> float:
    """Return the mean binary cross-entropy, in nats, of (n,) labels, 0 or 1, and (n,) probabilities.

    A probability of exactly 0 or 1 counts as the nearest float64 that is neither, so that the mean is finite.
    """
    _check(label, score)
    return float(metrics.log_loss(label, score.astype(np.float64), labels=[0, 1]))


def _check(label: NDArray[np.floating], score: NDArray[np.floating]) -> None:
    if label.shape != score.shape or label.ndim != 1 or not len(label):
        raise DataError(f"labels {label.shape} and scores {score.shape} are not one number per row")
    if not np.isin(label, (0, 1)).all():
        raise DataError("a label is neither 0 nor 1")
    if not np.isfinite(score).all():
        raise DataError(f"the score of row {int(np.flatnonzero(~np.isfinite(score))[0])} is not finite")


def describe(score: NDArray[np.floating], label: NDArray[np.floating] | None) -> str:
    """Return a line with AUC and log loss, or why there is none."""
    if label is None:
        return f"{len(score)} rows scored; without labels there is no AUC"
    area = auc(label, score)
    named = "none (all labels are of one class)" if area is None else f"{area:.6f}"
    return f"{len(score)} rows: AUC {named}, log loss {log_loss(label, score):.6f}"


def save_scores(path: Path, score: NDArray[np.floating]) -> None:
    """Write (n,) scores as float32 to exactly this path, in numpy's format; raises OutputError where it cannot."""
    check_writable(path)
    try:
        with path.open("wb") as file:
            np.save(file, score.astype(np.float32), allow_pickle=False)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def check_writable(path: Path) -> None:
    """Refuse a path that no file can be written to, before the work whose result goes there; writes nothing.

    Raises
    ------
    OutputError
        The folder is missing, the path is a folder, or it may not be written to.
    """
    if path.is_dir():
        raise OutputError(f"{path} cannot be written: it is a folder")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"{path} cannot be written: permission denied")
