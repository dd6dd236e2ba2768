"""The feature map that FuxiCTR writes beside a checkpoint: vocabulary sizes, widths and the order of the features."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.schema import Schema
from training.errors import ForeignCheckpointError

_TABLES = ("likes_level", "views_level", "item_id", "item_tags")


class FeatureMap(NamedTuple):
    """What a feature map says about a QIN."""

    schema: Schema
    embedding_feature: str  # the name of the frozen embedding


class _Feature(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: Literal["meta", "categorical", "sequence", "embedding"]
    padding_idx: int | None = None
    vocab_size: int | None = Field(default=None, ge=1)
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
        The file is missing or no feature map, or a feature is missing, of another type, or in another place.
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
    schema = Schema(
        num_items=_vocabulary_size(path, features, "item_id"),
        num_tags=_vocabulary_size(path, features, "item_tags"),
        num_likes_levels=_vocabulary_size(path, features, "likes_level"),
        num_views_levels=_vocabulary_size(path, features, "views_level"),
        max_tags=_stated(path, "item_tags", "max_len", tags.max_len),
        embedding_width=_stated(path, embedded[-1], "embedding_dim", embedding.embedding_dim),
        history_length=history_length,
    )
    return FeatureMap(schema, embedded[-1])


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
