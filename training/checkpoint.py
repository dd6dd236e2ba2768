"""A trained model on disk, as export and evaluation read it.

    model.safetensors   weights, item vocabulary, and what they are (`CheckpointInfo`): the checkpoint itself
    checkpoint.json     a copy of what they are, for people and tools

All that belongs together lies in one file, which takes the old one's place in one rename: no reader and no
crash ever meets new weights beside an old description.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from contract.schema import Schema
from training.errors import CheckpointError
from training.model import QIN, ModelConfig
from training.tensorfile import read_tensors, write_tensors, write_whole

WEIGHTS = "model.safetensors"
DESCRIPTION = "checkpoint.json"
_VOCABULARY = "vocabulary"


class CheckpointInfo(BaseModel):
    """What a checkpoint's weights are: their sizes, where they come from, and how good they were."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    features: Schema
    config: ModelConfig
    recipe: str
    settings: dict[str, int | float | bool | str] = {}
    data_fingerprint: str | None = None
    start: str | None = None  # SHA-256 of the checkpoint that training went on from
    epoch: int | None = None
    auc: float | None = None
    log_loss: float | None = None
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read and checked."""

    info: CheckpointInfo
    model: QIN  # float32, in evaluation mode, on the CPU
    vocabulary: NDArray[np.int64]  # (num_items,) the item id of each vocabulary row; row 0 is padding


def save_checkpoint(
    folder: Path, info: CheckpointInfo, weights: Mapping[str, Tensor], vocabulary: NDArray[np.int64]
) -> None:
    """Make these weights the checkpoint of `folder`, in place of an older one.

    Parameters
    ----------
    weights
        The state dict of a `QIN(info.features, info.config)`.
    vocabulary
        (num_items,) the item id of each vocabulary row.
    """
    assert vocabulary.shape == (info.features.num_items,)
    description = info.model_dump_json(indent=2)
    write_tensors(folder / WEIGHTS, {**weights, _VOCABULARY: torch.from_numpy(vocabulary)}, description)
    write_whole(folder / DESCRIPTION, description.encode())


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint of `folder`.

    Raises
    ------
    CheckpointError
        A file is missing, truncated or changed, or the weights are not of the sizes that it states.
    """
    path = folder / WEIGHTS
    tensors, description = read_tensors(path)
    try:
        info = CheckpointInfo.model_validate_json(description)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise CheckpointError(f"{path}: the description is not valid: {where}: {first['msg']}") from error
    vocabulary = tensors.pop(_VOCABULARY, torch.zeros(0))
    if vocabulary.dtype != torch.int64 or vocabulary.shape != (info.features.num_items,):
        raise CheckpointError(f"{path} does not hold the item ids of {info.features.num_items} vocabulary rows")
    model = QIN(info.features, info.config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the sizes that it states: {error}") from error
    return Checkpoint(info, model.eval(), vocabulary.numpy())
