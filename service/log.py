"""The log of catalogue writes in Redis: one stream per bucket, read from a known position onwards.

On one server a read waits there for the first entry of any bucket. In a Cluster a read that waits cannot span slots:
there all buckets are polled, those of each node in one round trip.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from contract.codec import NUM_BUCKETS, items_key, log_key
from service.cluster import ClusterRedis
from service.items import parse_id

_READ_AT_ONCE = 16
_POLL_S = 0.2
"""Five looks a second at 64 logs cost the nodes under 1 ms of one core together, and the reader 4 ms of one."""
_POLL_AT_ONCE = 1024
_BUCKET_OF_KEY = {log_key(bucket).encode(): bucket for bucket in range(NUM_BUCKETS)}
_EVERYTHING_LACKING = b"*"


@dataclass(frozen=True, slots=True)
class Position:
    """The last entry of one bucket's log that a reader knows; all parts are empty before the first entry."""

    entry: bytes = b"0-0"
    epoch: bytes = b""
    nonce: bytes = b""

    def is_past(self, tail: "Position") -> bool:
        """Whether a log that ends at `tail` cannot be the one that this position was read from."""
        if self == tail or not self.epoch:
            return False
        return self.epoch != tail.epoch or _order(self.entry) >= _order(tail.entry)


@dataclass(frozen=True, slots=True)
class Entry:
    """One write to a bucket: the position after it, the entry before it, and the items it touched.

    Where `accepts` is set it says instead that what the bucket lacks is meant to be gone. Of an entry that cannot be
    read `previous` is empty, so that it follows nothing: the chain is broken there.
    """

    position: Position
    previous: bytes
    item_ids: tuple[int, ...]
    accepts: bool = False

    def follows(self, position: Position) -> bool:
        """Whether nothing lies between `position`, of a log that was not empty, and this entry."""
        return self.position.epoch == position.epoch and self.previous == position.entry + b" " + position.nonce


@dataclass(frozen=True, slots=True)
class Tail:
    """How a bucket stands: where its log ends and how many fields its hash has, or why that cannot be read.

    The count was taken first: where the log still ends at a known position, it is the count at that position.
    """

    position: Position = Position()
    num_items: int = 0
    error: Exception | None = None


async def read_tails(redis: Redis, buckets: Sequence[int]) -> list[Tail]:
    """Return how each bucket stands.

    What is wrong with some buckets is told in their tails; errors of Redis itself, and of all buckets, pass through.
    """
    pipeline = redis.pipeline()
    for bucket in buckets:
        pipeline.hlen(items_key(bucket))
        pipeline.xrevrange(log_key(bucket), count=1)
    replies = await pipeline.execute(raise_on_error=False)
    tails = [_tail(*pair) for pair in zip(replies[::2], replies[1::2], strict=True)]
    errors = [tail.error for tail in tails if tail.error is not None]
    if len(errors) == len(tails):
        raise errors[0]
    return tails


def _tail(num_items: Any, entries: Any) -> Tail:
    for reply in (num_items, entries):
        if isinstance(reply, Exception):
            return Tail(error=reply)
    return Tail(_entry(*entries[0]).position if entries else Position(), num_items)


@dataclass(frozen=True, slots=True)
class News:
    """Entries by bucket, and whether those are all that there were."""

    entries: Mapping[int, list[Entry]]
    complete: bool


async def read_after(
    redis: Redis, positions: Mapping[int, Position], wait_ms: int, count: int = _READ_AT_ONCE
) -> News:
    """Return about `count` entries after each bucket's position, waiting up to `wait_ms` for the first."""
    streams: dict[Any, Any] = {log_key(bucket): position.entry for bucket, position in positions.items()}
    replies: Any
    if isinstance(redis, ClusterRedis):
        count = max(count, _POLL_AT_ONCE)
        replies = await _poll(redis, streams, wait_ms, count)
    else:
        replies = await redis.xread(streams, count=count, block=wait_ms)
    entries = {_BUCKET_OF_KEY[key]: [_entry(*entry) for entry in written] for key, written in replies}
    return News(entries, all(len(written) < count for written in entries.values()))


async def _poll(redis: ClusterRedis, streams: Mapping[Any, Any], wait_ms: int, count: int) -> list[Any]:
    """Look until there is something to read, first after a pause: writes that keep coming cost no more looks."""
    loop = asyncio.get_running_loop()
    stop = loop.time() + wait_ms / 1000
    while True:
        await asyncio.sleep(_POLL_S)
        pipeline = redis.pipeline()
        for key, entry in streams.items():
            pipeline.xread({key: entry}, count=count)
        replies = [stream for reply in await pipeline.execute() for stream in reply or ()]
        if replies or loop.time() >= stop:
            return replies


async def read_since(redis: Redis, bucket: int, position: Position) -> list[Entry]:
    """Return what is left of a bucket's log, newest first: after `position`, or all where it is another log."""
    replies: Any = await redis.xrevrange(log_key(bucket))
    entries = [_entry(*reply) for reply in replies]
    if not entries or entries[0].position.epoch != position.epoch:
        return entries
    return [entry for entry in entries if _order(entry.position.entry) > _order(position.entry)]


def _entry(entry: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    position = Position(entry, fields.get(b"e", b""), fields.get(b"n", b""))
    text = fields.get(b"ids", b"?")
    accepts = text == _EVERYTHING_LACKING
    ids = () if accepts else tuple(parse_id(part) for part in text.split())
    known = tuple(item_id for item_id in ids if item_id is not None)
    readable = len(known) == len(ids) and position.epoch != b"" and position.nonce != b""
    return Entry(position, fields.get(b"p", b"") if readable else b"", known, accepts)


def _order(entry: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition(b"-")
    return int(milliseconds), int(sequence)
