"""Scores of labelled or unlabelled rows by a checkpoint, in torch."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from contract.mmctr import read_items
from training.checkpoint import load_checkpoint
from training.data import ClickRows, build_catalogue, read_click_rows
from training.device import resolve_device
from training.model import QIN, ItemTable

PREDICTED_ROWS = 4096
"""How many rows go through the network at a time."""


class Evaluation(NamedTuple):
    """Scores in row order, and the labels where the file has them."""

    scores: NDArray[np.float32]  # (n,) click probabilities
    labels: NDArray[np.float32] | None  # (n,)


@torch.no_grad()
def predict(
    model: QIN, items: ItemTable, rows: ClickRows, on_batch: Callable[[int], None] = lambda _num_rows: None
) -> NDArray[np.float32]:
    """Return (n,) click probabilities in row order; `on_batch` hears how many rows were done.

    The model is in evaluation mode for this, and as it was afterwards; it shares a device with the items.
    """
    device, was_training = items.embedding.device, model.training
    scores = []
    model.eval()
    for start in range(0, len(rows), PREDICTED_ROWS):
        batch = rows.batch(slice(start, start + PREDICTED_ROWS), device)
        scores.append(model(items, batch).float().cpu())
        on_batch(len(batch.candidate))
    model.train(was_training)
    return torch.cat([torch.zeros(0), *scores]).numpy()


def score_checkpoint(checkpoint: Path, data: Path, items: Path, device: str = "auto") -> Evaluation:
    """Score every row of a clicks file by the checkpoint of a folder.

    Items are those of `items`, an `item_info` file; one that was not trained on is scored by its tags and its
    embedding.

    Raises
    ------
    CheckpointError
        There is no valid checkpoint.
    DataError
        The files do not fit together, or not the model.
    MmctrError
        A file is not of the MM-CTR layout.
    """
    loaded = load_checkpoint(checkpoint)
    schema, target = loaded.info.features, resolve_device(device)
    catalogue = build_catalogue(read_items(items), loaded.vocabulary, schema)
    rows = read_click_rows(data, catalogue, schema)
    scores = predict(loaded.model.to(target), catalogue.items.to(target), rows)
    return Evaluation(scores, rows.label)
