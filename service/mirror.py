"""A copy of the catalogue in this process, kept up to date from the log in Redis.

A bucket is read by remembering where its log ends, then scanning it, then following the log. Each entry names
the one before it and the bucket's epoch; where that chain is broken (the log was trimmed, lost, or is that of a
replica that lagged) the bucket is read again and compared, while the others are followed on. So it is with a bucket
whose number of items is not what it should be. A bucket that cannot be read at all is left out until it can.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Mapping

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from contract.codec import NUM_BUCKETS, bucket_of
from service import log
from service.items import Items, batched
from service.misses import Misses
from service.packed_items import PackedItems
from service.persistence import persistently

_WAIT_MS = 200
"""How long to wait for news at a time: so long at most a mirror that misses nothing has not heard of Redis."""
_WAIT_BROKEN_MS = 20
"""How long to wait for news while buckets are being read again: they are followed from the next waiting on."""
_GATHER_S = 0.005
_ENTRIES_AT_ONCE = 512
"""Few enough that a rank which waits for the event loop waits for some milliseconds."""
_READ_AT_ONCE = 1024
_RESYNC_AT_ONCE = 4
_CHECK_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


class Mirror(PackedItems):
    """The catalogue as packed items by id.

    Parameters
    ----------
    redis
        A client of its own: it blocks, so its time-out must be well above half a second.
    capacity
        The most items to hold; None holds all. Past it items come in by `admit` alone, and somebody has to `evict`.
    """

    def __init__(self, redis: Redis, capacity: int | None = None) -> None:
        super().__init__(capacity)
        self._redis, self._items = redis, Items(redis)
        self.misses = Misses()
        self._to_repair = asyncio.Event()
        self._degraded = False
        self._followed_s = -math.inf

    @property
    def degraded(self) -> bool:
        """Whether items are kept that Redis lost without anybody deleting them, or a bucket cannot be followed."""
        return self._degraded

    @property
    def followed_s(self) -> float:
        """The moment, by the monotonic clock, up to which every write is known; it lies back while Redis is away."""
        return self._followed_s

    @property
    def num_lost(self) -> int:
        """How many items are kept that Redis lost."""
        return sum(len(bucket.lost) for bucket in self._buckets)

    @property
    def num_unreadable(self) -> int:
        """How many buckets cannot be read; their items are as last seen."""
        return sum(bucket.error is not None for bucket in self._buckets)

    async def load(self) -> None:
        """Read the whole catalogue, or as much as is held of it. Errors of Redis pass through."""
        started_s = time.monotonic()
        await self._resync_broken()
        self._followed_s = started_s

    async def follow(self) -> None:
        """Follow the log until cancelled, through any time that Redis is away."""
        async with asyncio.TaskGroup() as group:
            group.create_task(persistently(self._follow_for_a_while, "catalogue"))
            group.create_task(persistently(self._repair, "broken part of the catalogue"))

    async def _follow_for_a_while(self) -> None:
        """Check every bucket's end, then follow those that are whole until the next check is due."""
        await self._check_tails()
        stop, count = time.monotonic() + _CHECK_EVERY_S, _ENTRIES_AT_ONCE // NUM_BUCKETS
        while time.monotonic() < stop:
            whole = {number: bucket.position for number, bucket in enumerate(self._buckets) if not bucket.broken}
            wait_ms = _WAIT_BROKEN_MS if any(b.broken and not b.error for b in self._buckets) else _WAIT_MS
            if not whole:
                await asyncio.sleep(wait_ms / 1000)
                continue
            news = await log.read_after(self._redis, whole, wait_ms, count)
            heard_s = time.monotonic()
            if news.entries:
                await self._take(news.entries)
                # Few busy buckets may give more each, so that none of them ever outruns its log.
                count = _ENTRIES_AT_ONCE // len(news.entries)
            if news.complete and not any(bucket.broken for bucket in self._buckets):
                self._followed_s = heard_s
            if news.entries:
                # Writes come in bursts: a short pause turns hundreds of small rounds into one.
                await asyncio.sleep(_GATHER_S)

    async def _take(self, entries: Mapping[int, list[log.Entry]]) -> None:
        """Read what the entries touched, then move on past them."""
        positions, touched = dict[int, log.Position](), set[int]()
        for number, written in entries.items():
            bucket = self._buckets[number]
            position = bucket.position
            for entry in written:
                # A loss that is accepted may be one that was not noticed yet.
                if entry.accepts or not entry.follows(position):
                    self._break(number)
                    break
                position = entry.position
                touched.update(entry.item_ids)
            else:
                positions[number] = position
        self.misses.written(touched)
        for ids in batched(self._worth_reading(touched), _READ_AT_ONCE):
            self.apply(self.fitting(await self._items.read(ids)))
        for number, position in positions.items():
            self._buckets[number].position = position
        self._recount()

    def _worth_reading(self, touched: set[int]) -> list[int]:
        """Leave out items of buckets that are read again as a whole and, where the mirror is full, those outside."""
        whole = [item_id for item_id in touched if not self._buckets[bucket_of(item_id)].broken]
        room = self.room
        if room >= len(whole):
            return whole
        held = [item_id for item_id in whole if self.get(item_id) is not None]
        others = (item_id for item_id in whole if self.get(item_id) is None)
        return held + list(itertools.islice(others, int(room)))

    async def _check_tails(self) -> None:
        """Compare every bucket's end with what is known."""
        for number, tail in enumerate(await log.read_tails(self._redis, range(NUM_BUCKETS))):
            self._note_error(number, tail.error)
            if tail.error is None and self._buckets[number].differs(tail, self.capacity is None):
                self._break(number)
        self._recount()

    def _break(self, number: int) -> None:
        self._buckets[number].broken = True
        self._to_repair.set()

    def _note_error(self, number: int, error: Exception | None) -> None:
        """Say once that a bucket cannot be read, and once that it can again."""
        bucket = self._buckets[number]
        if error is not None and bucket.error is None:
            _log.error(
                "part of the catalogue cannot be read, its items stay as they are", bucket=number, error=repr(error)
            )
        if error is None and bucket.error is not None:
            _log.info("part of the catalogue can be read again", bucket=number)
        if error is not None or bucket.error is not None:
            self._break(number)
        bucket.error = error

    async def _repair(self) -> None:
        await self._to_repair.wait()
        self._to_repair.clear()
        await self._resync_broken()

    async def _resync_broken(self) -> None:
        """Read every broken bucket again, several at a time, and take over what differs."""
        numbers = iter([number for number, bucket in enumerate(self._buckets) if bucket.broken and not bucket.error])

        async def resync_some() -> None:
            for number in numbers:
                await self._resync(number)

        outcomes = await asyncio.gather(*(resync_some() for _ in range(_RESYNC_AT_ONCE)), return_exceptions=True)
        for error in filter(None, outcomes):
            self._to_repair.set()
            raise error
        _log.info("catalogue read", num_items=len(self), num_lost=self.num_lost, num_unreadable=self.num_unreadable)

    async def _resync(self, number: int) -> None:
        bucket = self._buckets[number]
        try:
            (tail,) = await log.read_tails(self._redis, [number])
            self.misses.lapse(number)
            held = set(bucket.values)
            stored, num_foreign = await self._read(number, held)
            gone = held - stored.keys()
            suspicious = bucket.is_suspicious(gone, tail)
            if gone and (suspicious or bucket.lost):
                lost = gone if suspicious else gone & bucket.lost
                let_go = await self._let_go(number, lost)
                # What was written again since the scan is in the log too.
                stored.update(again := await self._stored_of(let_go))
                lost = lost - let_go
                gone -= lost | again.keys()
                # What was evicted meanwhile is not kept, and so not lost.
                bucket.lost |= lost & bucket.values.keys()
        except ResponseError as error:
            self._note_error(number, error)
            return
        self.apply(self.fitting(bucket.take(stored, gone, tail)))
        bucket.num_foreign = num_foreign
        self._recount()

    async def _let_go(self, number: int, lost: set[int]) -> set[int]:
        """Return those of the lost items that, by what is left of the log, are meant to be gone."""
        entries = await log.read_since(self._redis, number, self._buckets[number].position)
        if any(entry.accepts for entry in entries):
            return lost
        return lost.intersection(itertools.chain.from_iterable(entry.item_ids for entry in entries))

    async def _read(self, number: int, held: set[int]) -> tuple[dict[int, bytes], int]:
        """Read what a bucket holds, the items held here first, and how many of its fields are something else.

        With a capacity no more than that, and what there is room for.
        """
        stored, num_foreign = dict[int, bytes](), 0
        if self.capacity is not None:
            stored.update(await self._stored_of(held))
            if self.room <= 0:
                return stored, 0
        async for page, foreign in self._items.scan(number):
            stored.update(page)
            num_foreign += foreign
            if len(stored) - len(held) >= self.room:
                break
        return stored, num_foreign

    async def _stored_of(self, item_ids: set[int]) -> dict[int, bytes]:
        """Return those of the items that are stored now."""
        stored = dict[int, bytes]()
        for ids in batched(item_ids, _READ_AT_ONCE):
            read = await self._items.read(ids)
            stored.update((item_id, value) for item_id, value in read.items() if value is not None)
        return stored

    def _recount(self) -> None:
        self._degraded = any(bucket.lost or bucket.error for bucket in self._buckets)
