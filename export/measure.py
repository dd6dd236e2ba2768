"""What a bundle does before it is published: its error on golden rows, and its AUC beside that of float32.

A precision below float32 has no error bound that would hold for every network, so each export measures its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.manifest import Measured
from contract.mmctr import ItemInfo, iter_clicks
from export.draft import Draft
from export.errors import ExportError
from scoring.evaluate import score_clicks
from scoring.scorer import Scorer
from training.metrics import auc

_MOST_SCORE_ERROR = 0.25


@dataclass(frozen=True, slots=True)
class Validation:
    """A clicks file with labels of both classes."""

    path: Path
    labels: NDArray[np.float32]  # (n,)


def read_validation(path: Path) -> Validation:
    """Read the labels of a clicks file.

    Raises
    ------
    ExportError
        There are no labels, or no two classes of them, so that there is no AUC.
    MmctrError
        The file is not of the MM-CTR layout.
    """
    labels = np.concatenate([np.zeros(0, dtype=np.float32), *_labels(path)])
    if not np.isin(labels, (0, 1)).all():
        raise ExportError(f"{path} cannot validate: a label is neither 0 nor 1")
    if len(np.unique(labels)) < 2:
        what = f"all its labels are {labels[0]:.0f}" if len(labels) else "it has no rows"
        raise ExportError(f"{path} cannot validate: {what}, so there is no AUC")
    return Validation(path, labels)


def _labels(path: Path) -> Iterator[NDArray[np.float32]]:
    for clicks in iter_clicks(path, history_length=1):
        if clicks.label is None:
            raise ExportError(f"{path} cannot validate: it has no column label")
        yield clicks.label


def measure(draft: Draft, float32: Draft | None, validation: Validation, items: ItemInfo) -> Measured:
    """Score golden and validation rows with a draft.

    Parameters
    ----------
    draft
        What is to be published.
    float32
        The same network with float32 matrices, where the draft's are others. It has to pass its own golden rows: an
        error in the fold would hide behind what a reduced precision may err.
    validation, items
        Clicks to compare by, and a catalogue with all their items.

    Raises
    ------
    ExportError
        A golden score is so far off that the precision does not suit the network.
    MmctrError, DataError
        A click names an item that `items` does not hold or a level that the model lacks, or a score is not finite.
    ParityError
        In float32 the network does not score as the model does.
    """
    auc_float32 = None if float32 is None else _verified_auc(float32, validation, items)
    with draft.scorer() as scorer:
        error = _golden_error(scorer)
        if float32 is None:
            scorer.verify()
        elif not error <= _MOST_SCORE_ERROR:
            raise ExportError(
                f"{draft.manifest.precision} does not suit this network: a golden score is off by {error:.3g}; "
                f"{_MOST_SCORE_ERROR} is allowed"
            )
        area = _auc(scorer, validation, items)
    return Measured(
        num_rows=len(validation.labels),
        auc=area,
        auc_float32=area if auc_float32 is None else auc_float32,
        max_score_error=error,
    )


def auc_loss(measured: Measured) -> float:
    """Return how much AUC the precision costs; below 0 where it gains by chance."""
    return measured.auc_float32 - measured.auc


def describe(measured: Measured) -> str:
    """Return a line for people."""
    return (
        f"AUC {measured.auc:.6f} on {measured.num_rows} validation rows, {measured.auc_float32:.6f} in float32 "
        f"(a loss of {auc_loss(measured):.1e}); golden scores are off by at most {measured.max_score_error:.1e}"
    )


def _verified_auc(draft: Draft, validation: Validation, items: ItemInfo) -> float:
    with draft.scorer() as scorer:
        scorer.verify()
        return _auc(scorer, validation, items)


def _golden_error(scorer: Scorer) -> float:
    """Return the largest error of a golden score; infinite where a score is NaN."""
    golden = scorer.bundle.golden
    tables = scorer.new_tables(len(golden.item_id) + 1)
    encoded, _ = scorer.encode(golden.item_id, golden.tags, golden.embedding)
    tables.write(np.arange(1, len(golden.item_id) + 1), encoded)
    scores = scorer.score(tables, golden.candidate_rows, golden.history_rows, golden.levels)
    return float(np.nan_to_num(np.abs(scores - golden.scores), nan=np.inf).max())


def _auc(scorer: Scorer, validation: Validation, items: ItemInfo) -> float:
    scores, _ = score_clicks(scorer, validation.path, items)
    area = auc(validation.labels, scores)
    assert area is not None
    return area
