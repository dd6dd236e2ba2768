"""The outputs of the authors' own code for small random weights, beside our model with the same weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contract.mmctr import ItemInfo
from training.checkpoint import load_checkpoint
from training.data import ClickRows, build_catalogue
from training.fuxictr import import_checkpoint
from training.model import QIN, Batch, ItemTable

DATA = Path(__file__).parent.parent / "data"
CHECKPOINT = DATA / "qin_small.model"
FEATURE_MAP = DATA / "qin_small.feature_map.json"
EMBEDDING_FEATURE = "item_emb_d128"


@dataclass(frozen=True, slots=True)
class Oracle:
    """The imported model, and the rows that the authors' code was run on."""

    model: QIN
    items: ItemTable
    batch: Batch
    mask: NDArray[np.bool_]  # (B, H) where the history holds an item
    expected: dict[str, NDArray[np.floating]]  # outputs of the authors' code by name


def load_oracle(folder: Path, dtype: torch.dtype = torch.float64) -> Oracle:
    """Import the authors' checkpoint into `folder` and load it, with their outputs of the same precision."""
    import_checkpoint(CHECKPOINT, FEATURE_MAP, folder)
    checkpoint = load_checkpoint(folder)
    with np.load(DATA / "qin_small.npz") as arrays:
        given = {name.removeprefix("input/"): arrays[name] for name in arrays if name.startswith("input/")}
        prefix = "out64/" if dtype == torch.float64 else "out32/"
        expected = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        info = ItemInfo(np.arange(200), arrays["item/item_tags"], arrays["item/item_emb"])
    with np.load(DATA / "qin_small_train.npz") as arrays:
        label = arrays["label"]
    catalogue = build_catalogue(info, checkpoint.vocabulary, checkpoint.info.features)
    mask = given["item_seq"] != 0
    history = np.where(mask, catalogue.index.rows(given["item_seq"]), 0)
    levels = np.stack([given["likes_level"], given["views_level"]], axis=1)
    rows = ClickRows(catalogue.index.rows(given["item_id"]), history, levels, label)
    items = catalogue.items.to("cpu", dtype)
    return Oracle(checkpoint.model.to(dtype), items, rows.batch(slice(None)), mask, expected)


def load_steps(name: str) -> dict[str, NDArray[np.floating]]:
    """Return what the authors' trainer saw and did in three float64 steps: loss, reg, grad_norm, grad0, state3."""
    prefix = f"{name}/f64/"
    with np.load(DATA / "qin_small_train.npz") as arrays:
        return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
