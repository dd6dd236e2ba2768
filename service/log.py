"""The log of catalogue writes in Redis: one stream per bucket, read from a known position onwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from contract.codec import NUM_BUCKETS, log_key
from service.items import parse_id

_READ_AT_ONCE = 16
_BUCKET_OF_KEY = {log_key(bucket).encode(): bucket for bucket in range(NUM_BUCKETS)}


@dataclass(frozen=True, slots=True)
class Position:
    """The last entry of one bucket's log that a reader knows; both parts are empty before the first entry."""

    entry: bytes = b"0-0"
    epoch: bytes = b""

    def is_past(self, tail: "Position") -> bool:
        """Whether a log that ends at `tail` cannot be the one that this position was read from."""
        return self.epoch != b"" and (self.epoch != tail.epoch or _order(self.entry) > _order(tail.entry))


@dataclass(frozen=True, slots=True)
class Entry:
    """One write to a bucket: the position after it, the entry before it, and the items it touched.

    Of an entry that cannot be read `previous` is empty, so that it follows nothing: the chain is broken there.
    """

    position: Position
    previous: bytes
    item_ids: tuple[int, ...]

    def follows(self, position: Position) -> bool:
        """Whether nothing lies between `position` and this entry."""
        return self.previous == position.entry and position.epoch in (b"", self.position.epoch)


async def read_tails(redis: Redis, buckets: Sequence[int]) -> list[Position]:
    """Return where the log of each bucket ends."""
    pipeline = redis.pipeline()
    for bucket in buckets:
        pipeline.xrevrange(log_key(bucket), count=1)
    replies = await pipeline.execute()
    return [_entry(*reply[0]).position if reply else Position() for reply in replies]


async def read_after(redis: Redis, positions: Mapping[int, Position], wait_ms: int) -> dict[int, list[Entry]]:
    """Return the entries after each bucket's position, waiting up to `wait_ms` for the first."""
    streams: dict[Any, Any] = {log_key(bucket): position.entry for bucket, position in positions.items()}
    replies: Any = await redis.xread(streams, count=_READ_AT_ONCE, block=wait_ms)
    return {_BUCKET_OF_KEY[key]: [_entry(*entry) for entry in entries] for key, entries in replies}


def _entry(entry: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    position = Position(entry, fields.get(b"e", b""))
    ids = [parse_id(text) for text in fields.get(b"ids", b"?").split()]
    known = tuple(item_id for item_id in ids if item_id is not None)
    readable = len(known) == len(ids) and position.epoch != b""
    return Entry(position, fields.get(b"p", b"") if readable else b"", known)


def _order(entry: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition(b"-")
    return int(milliseconds), int(sequence)
