"""`report.html`: one page about a run, complete in itself, beside its checkpoint.

Curves of every epoch; how well the kept epoch's probabilities come true; its AUC on parts of the validation rows.
"""

from itertools import groupby
from pathlib import Path

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray

from contract.mmctr import read_items
from training.calibration import Bin, calibration, expected_error
from training.chart import Line, chart
from training.checkpoint import Checkpoint, load_checkpoint
from training.checks import read_users
from training.data import Catalogue, ClickRows, build_catalogue, read_click_rows
from training.dataset import ITEM_INFO, TRAIN, VALID, Dataset
from training.device import resolve_device
from training.errors import DataError
from training.evaluate import predict
from training.journal import EpochRecord, read_journal
from training.metrics import auc, log_loss
from training.slices import Slice, slices
from training.tensorfile import write_whole

REPORT = "report.html"
_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(checkpoint: Path, data: Path, device: str = "auto") -> Path:
    """Score the validation rows with a checkpoint, and write its report; return the file.

    Parameters
    ----------
    checkpoint
        A folder that training wrote, or an import, of which there are no curves.
    data
        The folder of `train.parquet`, `valid.parquet` and `item_info.parquet`.

    Raises
    ------
    CheckpointError, ResumeError
        There is no checkpoint, or its journal cannot be read.
    DataError, MmctrError
        The data do not fit each other or the checkpoint, or have no labels.
    """
    loaded = load_checkpoint(checkpoint)
    schema = loaded.info.features
    catalogue = build_catalogue(read_items(data / ITEM_INFO), loaded.vocabulary, schema)
    train, valid = (read_click_rows(data / name, catalogue, schema) for name in (TRAIN, VALID))
    target = resolve_device(device)
    score = predict(loaded.model.to(target), catalogue.items.to(target), valid)
    page = render(loaded, read_journal(checkpoint), train, valid, catalogue, data, score)
    write_whole(checkpoint / REPORT, page.encode())
    return checkpoint / REPORT


def report_run(folder: Path, data: Path, dataset: Dataset, device: torch.device) -> None:
    """Write the report of a run that has just ended, from the data that it has in memory."""
    loaded = load_checkpoint(folder)
    score = predict(loaded.model.to(device), dataset.catalogue.items.to(device), dataset.valid)
    page = render(loaded, read_journal(folder), dataset.train, dataset.valid, dataset.catalogue, data, score)
    write_whole(folder / REPORT, page.encode())


def render(
    loaded: Checkpoint,
    records: list[EpochRecord],
    train: ClickRows,
    valid: ClickRows,
    catalogue: Catalogue,
    data: Path,
    score: NDArray[np.floating],
) -> str:
    """Return the page; `score` is (n,) of the validation rows, `data` the folder that the users are read from."""
    if train.label is None or valid.label is None:
        raise DataError(f"{data}: a report needs the column label in {TRAIN} and {VALID}")
    bins, num_items = calibration(valid.label, score), len(catalogue.items.vocabulary_row)
    parts = slices(train, valid, read_users(data / TRAIN), read_users(data / VALID), num_items, score)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        info=loaded.info,
        num_parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        num_train=len(train),
        num_valid=len(valid),
        clicked=float(valid.label.mean()),
        auc=auc(valid.label, score),
        log_loss=log_loss(valid.label, score),
        calibration_error=expected_error(bins),
        curves=_curves(records, loaded.info.epoch),
        reliability=_reliability(bins),
        bins=bins,
        groups=_groups(parts),
        num_epochs=len(records),
    )


def _curves(records: list[EpochRecord], kept: int | None) -> list[tuple[str, str]]:
    """Return the charts of a run's epochs with their titles."""
    if not records:
        return []
    epoch = [float(record.epoch) for record in records]
    mark = None if kept is None or kept < 1 else float(kept)

    def drawn(y_name: str, *lines: Line, log_y: bool = False) -> str:
        return chart(lines, "epoch", y_name, log_y, mark)

    entropy = [record.loss - record.penalty for record in records]
    return [
        ("Validation AUC", drawn("AUC", Line("valid", epoch, [record.auc for record in records]))),
        (
            "Log loss: validation, training",
            drawn(
                "log loss",
                Line("valid", epoch, [record.log_loss for record in records]),
                Line("train", epoch, entropy),
            ),
        ),
        ("Training loss with the L2 term", drawn("loss", Line("train", epoch, [record.loss for record in records]))),
        (
            "Learning rate",
            drawn("learning rate", Line("train", epoch, [record.learning_rate for record in records]), log_y=True),
        ),
    ]


def _reliability(bins: list[Bin]) -> str:
    highest = max(max(one.score, one.clicked) for one in bins)
    lines = [
        Line("perfect", [0, highest], [0, highest], dots=False),
        Line("valid", [one.score for one in bins], [one.clicked for one in bins]),
    ]
    return chart(lines, "mean score", "share of clicks")


def _groups(parts: list[Slice]) -> list[tuple[str, list[Slice]]]:
    return [(name, list(group)) for name, group in groupby(parts, key=lambda one: one.group)]
