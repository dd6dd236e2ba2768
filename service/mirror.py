"""A copy of the catalogue in this process, kept up to date from the log in Redis.

A bucket is read by remembering where its log ends, then scanning it, then following the log. Each entry names
the one before it and the bucket's epoch; where that chain is broken (the log was trimmed, lost, or is that of a
replica that lagged) the bucket is read again and compared.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Collection, Mapping

import structlog
from redis.asyncio import Redis

from contract.codec import NUM_BUCKETS, bucket_of
from service import log
from service.connection import REDIS_ERRORS
from service.items import Items, batched

_WAIT_MS = 500
_GATHER_S = 0.005
_READ_AT_ONCE = 1024
_CHECK_EVERY_S = 1.0
_LONGEST_PAUSE_S = 2.0

_log = structlog.get_logger(__name__)

Listener = Callable[[Collection[int]], None]


class Mirror:
    """The catalogue as packed items by id.

    Parameters
    ----------
    redis
        A client of its own: it blocks, so its time-out must be well above half a second.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis, self._items = redis, Items(redis)
        self._values: list[dict[int, bytes]] = [{} for _ in range(NUM_BUCKETS)]
        self._positions = dict.fromkeys(range(NUM_BUCKETS), log.Position())
        self._broken = set(range(NUM_BUCKETS))
        self._lost: set[int] = set()
        self._listeners: list[Listener] = []

    def __len__(self) -> int:
        return sum(len(values) for values in self._values)

    @property
    def degraded(self) -> bool:
        """Whether items are kept here that Redis lost without anybody deleting them."""
        return bool(self._lost)

    def get(self, item_id: int) -> bytes | None:
        """Return the packed item, or None."""
        return self._values[bucket_of(item_id)].get(item_id)

    def snapshot(self) -> tuple[list[int], list[bytes]]:
        """Return the ids and the packed values of all items as they are now."""
        ids = itertools.chain.from_iterable(self._values)
        return list(ids), list(itertools.chain.from_iterable(values.values() for values in self._values))

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with the ids of items that changed or went, from now on."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Call `listener` no more."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    async def load(self) -> None:
        """Read the whole catalogue. Errors of Redis pass through."""
        await self._resync()

    async def follow(self) -> None:
        """Follow the log until cancelled, through any time that Redis is away."""
        pause_s = 0.0
        while True:
            try:
                await self._check_tails()
                if pause_s:
                    _log.info("catalogue followed again", num_items=len(self))
                pause_s = 0.0
                await self._follow_until_check()
            except REDIS_ERRORS as error:
                if not pause_s:
                    _log.warning("catalogue cannot be followed, trying again", error=repr(error))
            except Exception:
                _log.exception("catalogue log is not readable, trying again")
            else:
                continue
            pause_s = min(max(2 * pause_s, 0.05), _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _follow_until_check(self) -> None:
        stop = time.monotonic() + _CHECK_EVERY_S
        while time.monotonic() < stop and not self._broken:
            entries = await log.read_after(self._redis, self._positions, _WAIT_MS)
            if entries:
                await self._take(entries)
                # Writes come in bursts: a short pause turns hundreds of small rounds into one.
                await asyncio.sleep(_GATHER_S)

    async def _take(self, entries: Mapping[int, list[log.Entry]]) -> None:
        """Read what the entries touched, then move on past them."""
        positions, touched = dict(self._positions), set[int]()
        for bucket, written in entries.items():
            for entry in written:
                if not entry.follows(positions[bucket]):
                    self._broken.add(bucket)
                    break
                positions[bucket] = entry.position
                touched.update(entry.item_ids)
        for ids in batched(touched, _READ_AT_ONCE):
            self._apply(await self._items.read(ids))
        self._lost -= touched
        self._positions = positions

    async def _check_tails(self) -> None:
        """Compare every log's end with what is known, and read again what does not belong together."""
        tails = await log.read_tails(self._redis, range(NUM_BUCKETS))
        self._broken.update(bucket for bucket, tail in enumerate(tails) if self._positions[bucket].is_past(tail))
        if self._broken:
            await self._resync()

    async def _resync(self) -> None:
        """Read every broken bucket again and take over what differs."""
        buckets = sorted(self._broken)
        tails = await log.read_tails(self._redis, buckets)
        keep_vanished = await self._items.count() < len(self) / 2
        changed = vanished = 0
        for bucket, tail in zip(buckets, tails, strict=True):
            stored = {item_id: value async for item_id, value in self._items.scan(bucket)}
            gone = self._values[bucket].keys() - stored.keys()
            if keep_vanished:
                self._lost.update(gone)
                gone = set()
            known = self._values[bucket]
            changes: dict[int, bytes | None] = dict.fromkeys(gone)
            changes.update((item_id, value) for item_id, value in stored.items() if known.get(item_id) != value)
            changed, vanished = changed + len(changes) - len(gone), vanished + len(gone)
            self._lost.difference_update(stored)
            self._positions[bucket] = tail
            self._broken.discard(bucket)
            self._apply(changes)
        _log.info(
            "catalogue read", num_buckets=len(buckets), changed=changed, vanished=vanished, lost=len(self._lost)
        )

    def _apply(self, changes: Mapping[int, bytes | None]) -> None:
        for item_id, value in changes.items():
            if value is None:
                self._values[bucket_of(item_id)].pop(item_id, None)
            else:
                self._values[bucket_of(item_id)][item_id] = value
        if changes:
            for listener in list(self._listeners):
                listener(changes.keys())
