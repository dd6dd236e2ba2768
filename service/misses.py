"""Items that a capped mirror does not hold: which are being read for a rank, which Redis is known to lack."""

import asyncio
from collections.abc import Iterable

from contract.codec import NUM_BUCKETS, bucket_of

_MOST_ABSENT = 2048
"""Ids remembered as absent, of one bucket."""


class Misses:
    """What is known of items outside the mirror. A value that is on its way here must not outlive a newer one.

    Whoever reads items `begin`s, reads, and then asks `take_stale` until nothing is left: what was written meanwhile
    has to be read again. The mirror reports every write that it hears of.
    """

    def __init__(self) -> None:
        self._reading: dict[int, asyncio.Task[None]] = {}
        self._stale: set[int] = set()
        self._absent: list[dict[int, None]] = [{} for _ in range(NUM_BUCKETS)]

    @property
    def num_absent(self) -> int:
        """How many ids are remembered as absent."""
        return sum(map(len, self._absent))

    def is_absent(self, item_id: int) -> bool:
        """Whether Redis is known to lack an item."""
        return item_id in self._absent[bucket_of(item_id)]

    def reader(self, item_id: int) -> "asyncio.Task[None] | None":
        """Return who reads an item at the moment."""
        return self._reading.get(item_id)

    def begin(self, item_ids: Iterable[int], reader: "asyncio.Task[None]") -> None:
        """Note that items are about to be read."""
        self._reading.update(dict.fromkeys(item_ids, reader))

    def end(self, item_ids: Iterable[int]) -> None:
        """Note that the reading is over."""
        for item_id in item_ids:
            self._reading.pop(item_id, None)
            self._stale.discard(item_id)

    def take_stale(self, item_ids: set[int]) -> set[int]:
        """Return those that were written since they were read, or since this was last asked."""
        stale = self._stale & item_ids
        self._stale -= stale
        return stale

    def remember_absent(self, item_ids: Iterable[int]) -> None:
        """Remember that Redis lacks items; of too many the first are forgotten."""
        for item_id in item_ids:
            absent = self._absent[bucket_of(item_id)]
            absent[item_id] = None
            if len(absent) > _MOST_ABSENT:
                del absent[next(iter(absent))]

    def written(self, item_ids: set[int]) -> None:
        """Note that items were written or deleted: what was read of them before counts no more."""
        self._stale.update(item_ids & self._reading.keys())
        for item_id in item_ids:
            self._absent[bucket_of(item_id)].pop(item_id, None)

    def lapse(self, bucket: int) -> None:
        """Note that any item of a bucket may have been written."""
        self._stale.update(item_id for item_id in self._reading if bucket_of(item_id) == bucket)
        self._absent[bucket].clear()
