"""Items between JSON and the packed form in Redis."""

import math
from collections.abc import Iterator

import msgspec
import numpy as np

from contract.codec import CodecError, item_records, pack_items, packed_layout, unpack_items
from contract.schema import Schema
from contract.wire import Item
from service.errors import InvalidError

_LARGEST = float(np.finfo(np.float32).max)

decoder = msgspec.json.Decoder(Item)


def pack_item(item: Item, features: Schema) -> bytes:
    """Return the packed form of an item that fits the model's features.

    Raises
    ------
    InvalidError
        Too many tags, an embedding of another width, a number that float32 cannot hold, or a level that the
        model does not have.
    """
    if len(item.tags) > features.max_tags:
        raise InvalidError(f"{len(item.tags)} tags where at most {features.max_tags} are allowed", "tags")
    if len(item.embedding) != features.embedding_width:
        raise InvalidError(
            f"{len(item.embedding)} numbers where the model takes {features.embedding_width}", "embedding"
        )
    for position in _not_finite(item.embedding):
        raise InvalidError("not a finite number in 32 bits", f"embedding[{position}]")
    _check_level(item.likes_level, features.num_likes_levels, "likes_level")
    _check_level(item.views_level, features.num_views_levels, "views_level")
    tags = item.tags + [0] * (features.max_tags - len(item.tags))
    return pack_items(item_records([tags], [[item.likes_level, item.views_level]], [item.embedding]))[0]


def unpack_item(item_id: int, value: bytes) -> Item:
    """Return a stored item, of whatever width it is; raises CodecError where it is not whole."""
    if len(value) < 8:
        raise CodecError(f"stored item is not whole: {len(value)} bytes")
    record = unpack_items([value], *packed_layout(value))[0]
    return Item(
        embedding=record["embedding"].astype(float).tolist(),
        item_id=item_id,
        tags=[tag for tag in record["tags"].tolist() if tag],
        likes_level=int(record["likes_level"]),
        views_level=int(record["views_level"]),
    )


def _check_level(level: int, num_levels: int, field: str) -> None:
    if level >= num_levels:
        raise InvalidError(f"level {level} where the model's highest is {num_levels - 1}", field)


def _not_finite(embedding: list[float]) -> Iterator[int]:
    return (i for i, number in enumerate(embedding) if not math.isfinite(number) or abs(number) > _LARGEST)
