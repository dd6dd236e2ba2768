"""The authors' published checkpoints, as FuxiCTR saves them, turned into ours.

A published checkpoint is a state dict in a pickle, with a feature map in JSON beside it. The network's own
sizes (layers, rows, batch norm) follow from the names and shapes of the weights. Source of the names: the
authors' code for arXiv 2504.17699.
"""

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contract.schema import Schema
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.errors import ForeignCheckpointError
from training.featuremap import read_feature_map
from training.model import QIN, ModelConfig

RECIPE = "published"

_EMBEDDING = "embedding_layer.embedding_layer."
_FIXED_NAMES = {
    f"{_EMBEDDING}embedding_layers.likes_level.weight": "likes_embedding.weight",
    f"{_EMBEDDING}embedding_layers.views_level.weight": "views_embedding.weight",
    f"{_EMBEDDING}embedding_layers.item_id.weight": "item_embedding.weight",
    f"{_EMBEDDING}embedding_layers.item_tags.weight": "tag_embedding.weight",
    "attention_layers.W_q.weight": "attention.query.weight",
    "attention_layers.W_k.weight": "attention.key.weight",
    "attention_layers.W_v.weight": "attention.value.weight",
    "attention_layers.W_o.weight": "attention.output.weight",
    "qnn.fc.weight": "output.weight",
    "qnn.fc.bias": "output.bias",
}
_NORM_VALUES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def import_checkpoint(path: Path, feature_map: Path, out: Path, history_length: int = 64) -> CheckpointInfo:
    """Turn a published checkpoint into the checkpoint of the folder `out`, and return what it is.

    Parameters
    ----------
    path, feature_map
        The file that `torch.save` wrote of a state dict, and the JSON beside it.
    history_length
        How many items of a history count; the published files do not say.

    Raises
    ------
    ForeignCheckpointError
        A file is missing or damaged, the pickle holds more than tensors, or names or shapes are not those of a
        QIN with this feature map; the message lists them.
    """
    schema, embedding_feature = read_feature_map(feature_map, history_length)
    published = read_state_dict(path)
    config = infer_config(path, published)
    names = published_names(config, embedding_feature)
    _check_names(path, published, names)
    weights = {ours: _as_trained(path, theirs, published[theirs]) for theirs, ours in names.items()}
    _check_shapes(path, weights, names, schema, config)
    info = CheckpointInfo(features=schema, config=config, recipe=RECIPE)
    save_checkpoint(out, info, weights, np.arange(schema.num_items, dtype=np.int64))
    return info


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that `torch.save` wrote; nothing else in it is ever run."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ForeignCheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ForeignCheckpointError(f"{path} is refused: it is damaged or holds more than tensors") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ForeignCheckpointError(f"{path} is not a whole file that torch.save wrote: {error}") from error
    if not isinstance(loaded, Mapping):
        raise ForeignCheckpointError(f"{path} holds one {type(loaded).__name__}, not a state dict of named tensors")
    others = [str(name) for name, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise ForeignCheckpointError(f"{path} holds more than tensors: {', '.join(others)}")
    return {str(name): tensor for name, tensor in loaded.items()}


def infer_config(path: Path, published: Mapping[str, Tensor]) -> ModelConfig:
    """Return the network's sizes from the names and shapes of its weights; dropout, unknown, counts as none."""
    layers = {int(match[1]) for name in published if (match := re.match(r"qnn\.layer\.(\d+)\.", name))}
    first, output = published.get("qnn.layer.0.linear.0.weight"), published.get("qnn.fc.weight")
    if first is None or output is None or first.ndim != 2 or output.ndim != 2:
        raise ForeignCheckpointError(f"{path} holds no quadratic layer and output (qnn.layer.0..., qnn.fc...)")
    width = output.shape[1]
    if width % 8 or not width or first.shape[0] % width or not first.shape[0]:
        raise ForeignCheckpointError(
            f"{path}: qnn.fc.weight is {tuple(output.shape)} and qnn.layer.0.linear.0.weight {tuple(first.shape)}: "
            "the input is not 8 embeddings wide, or the layer not a number of rows of that width"
        )
    return ModelConfig(
        embedding_dim=width // 8,
        num_layers=max(layers) + 1,
        num_rows=first.shape[0] // width,
        batch_norm=any(name.startswith("qnn.norm.") for name in published),
        dropout=0.0,
    )


def published_names(config: ModelConfig, embedding_feature: str) -> dict[str, str]:
    """Return our name of every weight by its published name."""
    names = {**_FIXED_NAMES, f"{_EMBEDDING}feature_encoders.{embedding_feature}.weight": "projection.weight"}
    for layer in range(config.num_layers):
        names[f"qnn.layer.{layer}.linear.0.weight"] = f"layers.{layer}.linear.weight"
        names[f"qnn.layer.{layer}.linear.0.bias"] = f"layers.{layer}.linear.bias"
        names[f"qnn.activation.{layer}.weight"] = f"layers.{layer}.activation.weight"
        if config.batch_norm:
            names |= {f"qnn.norm.{layer}.{value}": f"layers.{layer}.norm.{value}" for value in _NORM_VALUES}
    return names


def _check_names(path: Path, published: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    missing, extra = sorted(names.keys() - published.keys()), sorted(published.keys() - names.keys())
    if missing or extra:
        complaints = [f"misses {', '.join(missing)}"] * bool(missing) + [f"also holds {', '.join(extra)}"] * bool(
            extra
        )
        raise ForeignCheckpointError(f"{path} is not a QIN of this feature map: it {' and '.join(complaints)}")


def _as_trained(path: Path, name: str, tensor: Tensor) -> Tensor:
    if tensor.is_sparse or tensor.is_quantized:
        raise ForeignCheckpointError(f"{path}: {name} is not a plain tensor")
    if name.endswith("num_batches_tracked"):
        return tensor.long()
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise ForeignCheckpointError(f"{path}: {name} holds {tensor.dtype}, or numbers that are not finite")
    return tensor.float()


def _check_shapes(
    path: Path, weights: Mapping[str, Tensor], names: Mapping[str, str], schema: Schema, config: ModelConfig
) -> None:
    with torch.device("meta"):
        expected = QIN(schema, config).state_dict()
    wrong = [
        f"{theirs} is {tuple(weights[ours].shape)} where {tuple(expected[ours].shape)} was expected"
        for theirs, ours in names.items()
        if weights[ours].shape != expected[ours].shape
    ]
    if wrong:
        raise ForeignCheckpointError(f"{path} does not fit its feature map: {'; '.join(wrong)}")
    for theirs, ours in names.items():
        if ours.endswith("_embedding.weight") and weights[ours][0].any():
            raise ForeignCheckpointError(f"{path}: row 0 of {theirs}, padding, is not zero")
