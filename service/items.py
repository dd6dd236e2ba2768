"""The catalogue in Redis: packed items in buckets, and a log of every write for the mirrors."""

import itertools
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from contract.codec import NUM_BUCKETS, bucket_of, items_key, log_key
from contract.ids import MAX_ID

_MAX_LOG = 10_000
"""Entries kept in a bucket's log: minutes of writing, where reading a bucket takes milliseconds."""
_WRITE_AT_ONCE = 256
_SCAN_AT_ONCE = 512

_CHAIN = """
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local epoch, previous = ARGV[1], ''
if last[1] then epoch, previous = last[1][2][2], last[1][1] .. ' ' .. (last[1][2][4] or '') end
local function log(ids)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'e', epoch, 'n', ARGV[1], 'p', previous, 'ids', ids)
end
"""
"""Append to a bucket's log, as one link of a chain.

The entry carries the bucket's epoch, a nonce of its own, the id and nonce of the entry before it, and the ids that
were touched: a reader sees from the first three whether it has missed anything, and reads the values afresh.
The nonce tells apart two entries that got the same id from two servers, one of which did not know of the other's.
"""

_WRITE = (
    _CHAIN
    + """
local ids = {}
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
  ids[#ids + 1] = ARGV[i]
end
log(table.concat(ids, ' '))
"""
)
"""Write or, where a value is empty, delete items of one bucket and log it as one entry."""

_ACCEPT = _CHAIN + "log('*')"
"""Log that what the bucket lacks is meant to be gone."""

T = TypeVar("T")

Change = tuple[int, bytes]
"""An item id and its packed value; an empty value deletes the item."""


@dataclass(frozen=True, slots=True)
class Items:
    """Reads and writes the stored catalogue. Errors of Redis pass through."""

    redis: Redis

    async def write(self, item_ids: Sequence[int], values: Sequence[bytes]) -> None:
        """Store packed items; of an id that occurs twice the last value."""
        if not item_ids:
            return
        # One value of each id: in a Cluster whose slots are moving, commands of one call may overtake each other.
        buckets: defaultdict[int, list[Change]] = defaultdict(list)
        for item_id, value in dict(zip(item_ids, values, strict=True)).items():
            buckets[bucket_of(item_id)].append((item_id, value))
        pipeline = self.redis.pipeline()
        for bucket, changes in buckets.items():
            for start in range(0, len(changes), _WRITE_AT_ONCE):
                arguments = [part for change in changes[start : start + _WRITE_AT_ONCE] for part in change]
                _eval(pipeline, _WRITE, bucket, arguments)
        await pipeline.execute()

    async def delete(self, item_ids: Sequence[int]) -> None:
        """Delete items; ids that are not there are logged all the same, so that every mirror forgets them."""
        await self.write(item_ids, [b""] * len(item_ids))

    async def accept_loss(self) -> None:
        """Tell every mirror that items which Redis lacks are gone for good, though nobody deleted them."""
        pipeline = self.redis.pipeline()
        for bucket in range(NUM_BUCKETS):
            _eval(pipeline, _ACCEPT, bucket)
        await pipeline.execute()

    async def read(self, item_ids: Iterable[int]) -> dict[int, bytes | None]:
        """Return the packed value of each item, None where there is none."""
        buckets: defaultdict[int, list[int]] = defaultdict(list)
        for item_id in item_ids:
            buckets[bucket_of(item_id)].append(item_id)
        pipeline = self.redis.pipeline()
        for bucket, ids in buckets.items():
            pipeline.hmget(items_key(bucket), [str(item_id) for item_id in ids])
        replies = await pipeline.execute()
        read: dict[int, bytes | None] = {}
        for ids, values in zip(buckets.values(), replies, strict=True):
            read.update(zip(ids, values, strict=True))
        return read

    async def sample(self) -> bytes | None:
        """Return some stored item's packed value, None where nothing is stored."""
        pipeline = self.redis.pipeline()
        for bucket in range(NUM_BUCKETS):
            pipeline.hrandfield(items_key(bucket), 1, True)
        return next((reply[1] for reply in await pipeline.execute() if reply), None)

    async def count(self) -> int:
        """Return how many items are stored."""
        pipeline = self.redis.pipeline()
        for bucket in range(NUM_BUCKETS):
            pipeline.hlen(items_key(bucket))
        return sum(await pipeline.execute())

    async def scan(self, bucket: int) -> AsyncIterator[tuple[dict[int, bytes], int]]:
        """Yield a bucket's items page by page; one that changes meanwhile comes in its old or its new state.

        With each page goes how many of its fields are no ids of this bucket; they are left out. An item may come
        twice.
        """
        cursor = 0
        while True:
            reply: Any = await self.redis.hscan(items_key(bucket), cursor, count=_SCAN_AT_ONCE)
            cursor, fields = reply
            ids = {parse_id(field): value for field, value in fields.items()}
            page = {
                item_id: value
                for item_id, value in ids.items()
                if item_id is not None and bucket_of(item_id) == bucket
            }
            yield page, len(fields) - len(page)
            if cursor == 0:
                return


def _eval(pipeline: Pipeline, script: str, bucket: int, arguments: Sequence[int | bytes] = ()) -> None:
    """Add a script that logs to a pipeline."""
    pipeline.eval(script, 2, items_key(bucket), log_key(bucket), secrets.token_hex(8), str(_MAX_LOG), *arguments)


def parse_id(text: bytes) -> int | None:
    """Return the item id that a field or a log entry names, None where it names none."""
    if not text.isdigit() or len(text) > len(str(MAX_ID)) or (text[:1] == b"0" and text != b"0"):
        return None
    item_id = int(text)
    return item_id if item_id <= MAX_ID else None


def batched(values: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield the values in tuples of up to `size`."""
    iterator = iter(values)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch
