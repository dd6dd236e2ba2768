"""How items and histories lie in Redis: key names, and values to bytes and back.

An item is one fixed-width little-endian record, so that thousands decode with one `np.frombuffer`:
a header of 8 bytes (format, tag slots, likes level, views level, embedding width, reserved), the tags as
int32 and the embedding as float32. A history is the user's last item ids as int64, oldest first.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contract.schema import MAX_LEVEL, MAX_TAG_SLOTS, MAX_WIDTH

ITEM_FORMAT = 1
NUM_BUCKETS = 64
"""Items are spread over this many hashes, each with a log of its own, in one Cluster slot each."""


class CodecError(ValueError):
    """A stored value is not whole, or not of the layout that was asked for."""


def bucket_of(item_id: int) -> int:
    """Return the bucket that holds an item."""
    return item_id % NUM_BUCKETS


def items_key(bucket: int) -> str:
    """Name the hash of packed items of one bucket; its fields are decimal item ids."""
    return f"qin:{{i{bucket}}}:items"


def log_key(bucket: int) -> str:
    """Name the stream in which every write to one bucket is logged; in the same slot as its items."""
    return f"qin:{{i{bucket}}}:log"


def history_key(user_id: int) -> str:
    """Name the packed history of a user."""
    return f"qin:{{u{user_id}}}:history"


def retry_key(user_id: int, idempotency_key: str) -> str:
    """Name the marker of an append that has happened; in the same slot as the user's history."""
    return f"qin:{{u{user_id}}}:retry:{idempotency_key}"


def versions_key(model: str) -> str:
    """Name the hash that tells every replica which version of a model is active, and which is on trial."""
    return f"qin:{{m:{model}}}:versions"


def replicas_key(model: str) -> str:
    """Name the hash in which every replica of a model reports."""
    return f"qin:{{m:{model}}}:replicas"


def clock_key(model: str) -> str:
    """Name the stream whose last entry's id is the time by Redis' clock; in the same slot as `replicas_key`."""
    return f"qin:{{m:{model}}}:clock"


def recent_key(model: str) -> str:
    """Name the stream of a few recent requests to a model."""
    return f"qin:{{m:{model}}}:recent"


def shadow_key(model: str) -> str:
    """Name the hash in which every process sums up what it saw of a trial; in the same slot as the versions."""
    return f"qin:{{m:{model}}}:shadow"


@functools.lru_cache(maxsize=16)
def item_dtype(embedding_width: int, max_tags: int = 5) -> np.dtype[Any]:
    """Return the record layout of an item."""
    return np.dtype(
        [
            ("format", "u1"),
            ("max_tags", "u1"),
            ("likes_level", "u1"),
            ("views_level", "u1"),
            ("embedding_width", "<u2"),
            ("reserved", "<u2"),
            ("tags", "<i4", (max_tags,)),
            ("embedding", "<f4", (embedding_width,)),
        ]
    )


def item_records(tags: ArrayLike, levels: ArrayLike, embedding: ArrayLike) -> NDArray[np.void]:
    """Build item records, checking every value.

    Parameters
    ----------
    tags
        (n, max_tags) integers, 0 where a slot is empty.
    levels
        (n, 2) likes and views level, 0 to 10.
    embedding
        (n, width) finite numbers.

    Raises
    ------
    CodecError
        A value is out of range or an embedding is not finite; the message names the position.
    """
    tags, levels = np.asarray(tags, dtype=np.int64), np.asarray(levels, dtype=np.int64)
    with np.errstate(over="ignore"):
        embedding = np.asarray(embedding, dtype=np.float32)
    if tags.shape[1] > MAX_TAG_SLOTS or embedding.shape[1] > MAX_WIDTH:
        raise CodecError(
            f"{tags.shape[1]} tag slots and an embedding of width {embedding.shape[1]}: "
            f"at most {MAX_TAG_SLOTS} and {MAX_WIDTH} can be stored"
        )
    _refuse((tags < 0) | (tags > 2**31 - 1), "tag out of range (0 to 2147483647)")
    _refuse((levels < 0) | (levels > MAX_LEVEL), f"level out of range (0 to {MAX_LEVEL})")
    _refuse(~np.isfinite(embedding), "embedding is not finite")
    records = np.zeros(len(tags), dtype=item_dtype(embedding.shape[1], tags.shape[1]))
    records["format"] = ITEM_FORMAT
    records["max_tags"] = tags.shape[1]
    records["embedding_width"] = embedding.shape[1]
    records["likes_level"], records["views_level"] = levels[:, 0], levels[:, 1]
    records["tags"], records["embedding"] = tags, embedding
    return records


def _refuse(wrong: NDArray[np.bool_], complaint: str) -> None:
    if wrong.any():
        raise CodecError(f"item {int(np.argwhere(wrong)[0][0])}: {complaint}")


def pack_items(records: NDArray[np.void]) -> list[bytes]:
    """Return the bytes of each record."""
    size, whole = records.dtype.itemsize, records.tobytes()
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def packed_layout(value: bytes) -> tuple[int, int]:
    """Return embedding width and number of tag slots that a packed item's header names; (0, 0) without a header."""
    return (int.from_bytes(value[4:6], "little"), value[1]) if len(value) >= 8 else (0, 0)


def unpack_items(values: Sequence[bytes], embedding_width: int, max_tags: int = 5) -> NDArray[np.void]:
    """Return (n,) item records of packed values.

    Raises
    ------
    CodecError
        A value is truncated, of another format or of another width, or its header is damaged.
    """
    positions, records = unpack_whole_items(values, embedding_width, max_tags)
    if len(positions) < len(values):
        position = next(p for p, q in enumerate([*positions.tolist(), -1]) if p != q)
        raise CodecError(_complaint(position, values[position], embedding_width, max_tags))
    return records


def unpack_whole_items(
    values: Sequence[bytes], embedding_width: int, max_tags: int = 5
) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    """Return (m,) the positions of the values that are whole items of this layout, and (m,) their records."""
    dtype = item_dtype(embedding_width, max_tags)
    positions = np.flatnonzero(np.fromiter(map(len, values), np.int64, len(values)) == dtype.itemsize)
    if len(positions) < len(values):
        values = [values[position] for position in positions.tolist()]
    records = np.frombuffer(b"".join(values), dtype)
    whole = (
        (records["format"] == ITEM_FORMAT)
        & (records["max_tags"] == max_tags)
        & (records["embedding_width"] == embedding_width)
        & (records["reserved"] == 0)
        & (records["likes_level"] <= MAX_LEVEL)
        & (records["views_level"] <= MAX_LEVEL)
    )
    return (positions, records) if whole.all() else (positions[whole], records[whole])


def _complaint(position: int, value: bytes, embedding_width: int, max_tags: int) -> str:
    width, slots = packed_layout(value)
    size = item_dtype(embedding_width, max_tags).itemsize
    if len(value) < 8 or value[0] != ITEM_FORMAT or len(value) != item_dtype(width, slots).itemsize:
        return f"stored item {position} is not whole: {len(value)} bytes where {size} were expected"
    if (width, slots) != (embedding_width, max_tags):
        return (
            f"stored item {position} has an embedding of width {width} and {slots} tag slots; "
            f"width {embedding_width} was expected"
        )
    return f"stored item {position} has a damaged header"


def pack_history(item_ids: ArrayLike) -> bytes:
    """Return a history's bytes: the ids as little-endian int64, oldest first."""
    return np.asarray(item_ids, dtype="<i8").tobytes()


def unpack_history(value: bytes) -> NDArray[np.int64]:
    """Return a history's ids, oldest first.

    Raises
    ------
    CodecError
        The value is not a whole number of ids.
    """
    if len(value) % 8:
        raise CodecError(f"stored history is not whole: {len(value)} bytes")
    return np.frombuffer(value, dtype="<i8").astype(np.int64, copy=False)
