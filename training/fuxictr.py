"""The authors' published checkpoints, as FuxiCTR saves them, turned into ours.

A published checkpoint is a state dict in a pickle, with a feature map in JSON beside it. The network's own
sizes (layers, rows, batch norm) follow from the names and shapes of the weights. Source of the names: the
authors' code for arXiv 2504.17699.
"""

import io
import pickle
import re
from collections.abc import Iterable, Mapping
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
_TABLES = f"{_EMBEDDING}embedding_layers."
_FIXED_NAMES = {
    f"{_TABLES}likes_level.weight": "likes_embedding.weight",
    f"{_TABLES}views_level.weight": "views_embedding.weight",
    f"{_TABLES}item_id.weight": "item_embedding.weight",
    f"{_TABLES}item_tags.weight": "tag_embedding.weight",
    "attention_layers.W_q.weight": "attention.query.weight",
    "attention_layers.W_k.weight": "attention.key.weight",
    "attention_layers.W_v.weight": "attention.value.weight",
    "attention_layers.W_o.weight": "attention.output.weight",
    "qnn.fc.weight": "output.weight",
    "qnn.fc.bias": "output.bias",
}
_NORM_VALUES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MAX_LISTED, _MAX_NAME = 40, 120


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
        A file is missing or damaged, the pickle holds more than tensors, names or shapes are not those of a QIN
        with this feature map, or weights are no numbers that a QIN can have; the message lists them.
    OutputError
        The folder `out` cannot be made.
    """
    schema, embedding_feature = read_feature_map(feature_map, history_length)
    published = read_state_dict(path)
    _check_plain(path, published)  # first: until then a shape of terabytes may stand in a file of a few bytes
    config = infer_config(path, published)
    names = published_names(config, embedding_feature)
    _check_names(path, published, names)
    _check_shapes(path, published, names, schema, config)
    weights = {ours: _as_trained(path, theirs, published[theirs]) for theirs, ours in names.items()}
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
    except Exception as error:  # of any type: torch checks damaged bytes with asserts, indices and much else
        why = str(error) or type(error).__name__
        raise ForeignCheckpointError(f"{path} is not a whole file that torch.save wrote: {why}") from error
    if not isinstance(loaded, dict):
        raise ForeignCheckpointError(f"{path} holds one {type(loaded).__name__}, not a state dict of named tensors")
    entries = dict.items(loaded)  # not loaded.items(): a pickle may put anything in that place
    unnamed = [type(name).__name__ for name, _ in entries if not isinstance(name, str)]
    if unnamed:
        raise ForeignCheckpointError(f"{path} holds a key of type {unnamed[0]}, not a state dict of named tensors")
    others = [name for name, value in entries if not isinstance(value, Tensor)]
    if others:
        raise ForeignCheckpointError(f"{path} holds more than tensors: {_listed(others)}")
    return dict(entries)


def _check_plain(path: Path, published: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose numbers are not all in the file, or not of a type that weights have; converts nothing."""
    owners: dict[int, str] = {}
    for name, tensor in published.items():
        complaint = _complaint(name, tensor)
        if complaint:
            raise ForeignCheckpointError(f"{path}: {_listed([name])} {complaint}")
        owner = owners.setdefault(tensor.untyped_storage().data_ptr(), name)
        if owner != name:
            raise ForeignCheckpointError(f"{path}: {_listed([name])} shares its numbers with {_listed([owner])}")


def _complaint(name: str, tensor: Tensor) -> str | None:
    """Return what is wrong with one tensor, if anything."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        return "is not a plain tensor"
    if tensor.device.type != "cpu":
        return f"holds no numbers, it is of the device {tensor.device}"
    is_count = name.endswith("num_batches_tracked")
    if tensor.dtype not in ((torch.int64,) if is_count else _FLOATS):
        return f"holds {tensor.dtype}, not {'int64' if is_count else 'float16, bfloat16, float32 or float64'}"
    if not tensor.numel():
        return f"is empty, of shape {tuple(tensor.shape)}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"repeats its numbers: the file does not hold all of shape {tuple(tensor.shape)}"
    return None


def _listed(names: Iterable[str]) -> str:
    """Return names for a message, which a hostile file could make endless."""
    cut = [name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..." for name in names]
    more = f" and {len(cut) - _MAX_LISTED} more" if len(cut) > _MAX_LISTED else ""
    return ", ".join(cut[:_MAX_LISTED]) + more


def infer_config(path: Path, published: Mapping[str, Tensor]) -> ModelConfig:
    """Return the network's sizes from the names and shapes of its weights; dropout, unknown, counts as none."""
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
        num_layers=_num_layers(path, published),
        num_rows=first.shape[0] // width,
        batch_norm=any(name.startswith("qnn.norm.") for name in published),
        dropout=0.0,
    )


def _num_layers(path: Path, published: Mapping[str, Tensor]) -> int:
    # As text: a file may name layers whose number alone would take a second, or a list of names up to it a minute.
    found = {match[1] for name in published if (match := re.match(r"qnn\.layer\.([0-9]+)\.", name))}
    if found != {str(layer) for layer in range(len(found))}:
        numbers = _listed(sorted(found, key=lambda number: (len(number), number)))
        raise ForeignCheckpointError(f"{path} has the layers qnn.layer.{numbers}; they must count up from 0 by one")
    return len(found)


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
        complaints = [f"misses {_listed(missing)}"] * bool(missing) + [f"also holds {_listed(extra)}"] * bool(extra)
        raise ForeignCheckpointError(f"{path} is not a QIN of this feature map: it {' and '.join(complaints)}")


def _as_trained(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return a checked tensor as our checkpoints hold it, if its numbers are ones that weights can be."""
    if name.endswith("num_batches_tracked"):
        return tensor
    weights = tensor.float()
    if not weights.isfinite().all():
        raise ForeignCheckpointError(f"{path}: {name} holds numbers that are not finite as float32")
    if name.endswith("running_var") and (weights < 0).any():
        raise ForeignCheckpointError(f"{path}: {name}, variances, holds a negative number")
    if name.startswith(_TABLES) and weights[0].any():
        raise ForeignCheckpointError(f"{path}: row 0 of {name}, padding, is not zero")
    return weights


def _check_shapes(
    path: Path, published: Mapping[str, Tensor], names: Mapping[str, str], schema: Schema, config: ModelConfig
) -> None:
    with torch.device("meta"):
        expected = QIN(schema, config).state_dict()
    wrong = [
        f"{theirs} is {tuple(published[theirs].shape)} where {tuple(expected[ours].shape)} was expected"
        for theirs, ours in names.items()
        if published[theirs].shape != expected[ours].shape
    ]
    if wrong:
        raise ForeignCheckpointError(f"{path} does not fit its feature map: {'; '.join(wrong)}")
