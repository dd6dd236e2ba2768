"""The feature map that FuxiCTR writes beside a checkpoint: vocabulary sizes, widths and the order of the features."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.schema import Schema
from training.errors import ForeignCheckpointError

_MAX_ROWS = 2**31 - 1  # a row number is an int32
_TABLES = ("likes_level", "views_level", "item_id", "item_tags")


class FeatureMap(NamedTuple):
    """What a feature map says about a QIN."""

    schema: Schema
    embedding_feature: str  # the name of the frozen embedding


class _Feature(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: Literal["meta", "categorical", "sequence", "embedding"]
    padding_idx: int | None = None
    vocab_size: int | None = Field(default=None, ge=1, le=_MAX_ROWS)
    max_len: int | None = Field(default=None, ge=1)
    embedding_dim: int | None = Field(default=None, ge=1)
    feature_encoder: str | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore")

    features: list[dict[str, _Feature]]


def read_feature_map(path: Path, history_length: int) -> FeatureMap:
    """Read a feature map and check that its features are those of a QIN, in the published order.

    The network concatenates features in this order, so that another order would be another network.

    Raises
    ------
    ForeignCheckpointError
        The file is missing or no feature map, a feature is missing, of another type, or in another place, or a
        size, such as the history length, is one that no model can have.
    """
    features = _read(path)
    embedded = [name for name, feature in features.items() if feature.type != "meta"]
    expected = [*_TABLES, "one of type embedding"]
    if tuple(embedded[:-1]) != _TABLES or features[embedded[-1]].type != "embedding":
        raise ForeignCheckpointError(
            f"{path}: the features are {', '.join(embedded) or 'none'}; "
            f"a QIN has, in this order, {', '.join(expected)}"
        )
    tags, embedding = features["item_tags"], features[embedded[-1]]
    pooling = tags.feature_encoder or ""
    if tags.type != "sequence" or "MaskedAveragePooling" not in pooling:
        raise ForeignCheckpointError(
            f"{path}: item_tags is not a sequence whose mean is taken (MaskedAveragePooling)"
        )
    sizes = {
        "num_items": _vocabulary_size(path, features, "item_id"),
        "num_tags": _vocabulary_size(path, features, "item_tags"),
        "num_likes_levels": _vocabulary_size(path, features, "likes_level"),
        "num_views_levels": _vocabulary_size(path, features, "views_level"),
        "max_tags": _stated(path, "item_tags", "max_len", tags.max_len),
        "embedding_width": _stated(path, embedded[-1], "embedding_dim", embedding.embedding_dim),
        "history_length": history_length,
    }
    return FeatureMap(_schema(path, sizes), embedded[-1])


def _schema(path: Path, sizes: dict[str, int]) -> Schema:
    try:
        return Schema.model_validate(sizes)
    except ValidationError as error:
        first: Any = error.errors()[0]
        name = first["loc"][0]
        # The history length is the caller's; the feature map does not state one.
        source = "" if name == "history_length" else f"{path}: "
        raise ForeignCheckpointError(f"{source}{name} cannot be {first['input']}: {first['msg']}") from error


def _read(path: Path) -> dict[str, _Feature]:
    try:
        document = _Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ForeignCheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise ForeignCheckpointError(f"{path} is not a feature map: {where}: {first['msg']}") from error
    return {name: feature for entry in document.features for name, feature in entry.items()}


def _vocabulary_size(path: Path, features: dict[str, _Feature], name: str) -> int:
    feature = features[name]
    if feature.type == "embedding" or feature.padding_idx != 0:
        raise ForeignCheckpointError(f"{path}: {name} is not a vocabulary whose row 0 is padding")
    return _stated(path, name, "vocab_size", feature.vocab_size)


def _stated(path: Path, name: str, key: str, value: int | None) -> int:
    if value is None:
        raise ForeignCheckpointError(f"{path}: {name} has no {key}")
    return value
