"""The hot part of a catalogue that is larger than the mirror: read in when a rank misses it, put out when unused."""

import asyncio
from collections.abc import Callable, Collection
from functools import partial

import numpy as np
import structlog
from numpy.typing import NDArray

from service.batch import Batch
from service.breaker import Breaker
from service.items import Items
from service.mirror import Mirror
from service.serving import ServingVersion
from service.timed import REDIS_ERRORS
from service.version import LoadedVersion

_EVICT_SHARE = 64
"""At least so small a share of the capacity is put out at once: choosing looks at the last use of every item."""
_MOST_READS = 3
"""How often an item is read that is written again and again meanwhile."""

_log = structlog.get_logger(__name__)

Count = Callable[[str, int], None]
"""Told how many items were `hit`, `missed`, `admitted`, `evicted` or, for Redis did not answer in time, `unread`."""


class HotSet:
    """Admits items that ranks ask for into a capped mirror, and evicts those that were not ranked the longest.

    Parameters
    ----------
    mirror
        A mirror with a capacity.
    items
        Reads them, by another client than the mirror's own, whose time-out is longer.
    timeout_ms
        How long a rank waits for Redis.
    count
        Is told what happens.
    """

    def __init__(self, mirror: Mirror, items: Items, timeout_ms: float, count: Count) -> None:
        assert mirror.capacity is not None
        self._mirror, self._items, self._misses = mirror, items, mirror.misses
        self._capacity, self._count = mirror.capacity, count
        self._breaker = Breaker("items that are not mirrored", timeout_ms / 1000)
        self._evicting = asyncio.Lock()

    async def aclose(self) -> None:
        """End whatever waits for Redis to come back."""
        await self._breaker.aclose()

    def missing(self, version: ServingVersion, batch: Batch) -> dict[int, set[int]]:
        """Return, by position of the user, which items are not mirrored though Redis may hold them.

        Notes that the others are used. It may be called from any thread.
        """
        assert isinstance(version, LoadedVersion)
        assert version.recency is not None
        version.recency.touch(batch.candidate_rows, batch.history_rows)
        readable = {user: self._worth_waiting_for(version, ids) for user, ids in batch.missing.items()}
        missing = {user: ids for user, ids in readable.items() if ids}
        if not missing:
            self._count("hit", int(np.count_nonzero(batch.candidate_rows) + np.count_nonzero(batch.history_rows)))
        return missing

    def _worth_waiting_for(self, version: LoadedVersion, item_ids: NDArray[np.int64]) -> set[int]:
        """Return those without a row that may get one: Redis may hold them, and no model found them unreadable."""
        unknown = [item_id for item_id in item_ids.tolist() if not self._misses.is_absent(item_id)]
        held = [item_id for item_id in unknown if self._mirror.get(item_id) is not None]
        # Held and not being written: that the model cannot read it, or the row came after this rank had looked.
        settled = [item_id for item_id in held if self._misses.reader(item_id) is None]
        if not settled:
            return set(unknown)
        with version.rows.view() as view:
            rows = view.rows(np.array(settled, dtype=np.int64))
        return set(unknown) - {item_id for item_id, row in zip(settled, rows.tolist(), strict=True) if row == 0}

    async def admit(self, version: ServingVersion, item_ids: Collection[int]) -> None:
        """Read items in one round trip and make them ready to rank with, as far as that succeeds in time.

        Items that another rank is reading are waited for. No more than half the capacity is admitted for one rank.
        """
        assert isinstance(version, LoadedVersion)
        wanted = list(item_ids)[: max(1, self._capacity // 2)]
        self._count("missed", len(wanted))
        readers = {reader for item_id in wanted if (reader := self._misses.reader(item_id))}
        others = [item_id for item_id in wanted if self._misses.reader(item_id) is None]
        if mine := [item_id for item_id in others if self._mirror.get(item_id) is None]:
            reader = asyncio.create_task(self._read_in(version, mine))
            self._misses.begin(mine, reader)
            readers.add(reader)
        if readers:
            await asyncio.wait(readers)

    async def _read_in(self, version: LoadedVersion, item_ids: list[int]) -> None:
        values, evicted = dict[int, bytes | None](), list[int]()
        unread = set(item_ids)
        try:
            for _ in range(_MOST_READS):
                values.update(await self._breaker.call(partial(self._items.read, unread)))
                evicted += await self._make_room(version, sum(value is not None for value in values.values()))
                if not (unread := self._misses.take_stale(set(item_ids))):
                    break
            # Nothing is awaited from here until the values are held: what is written later comes by the log.
            present = {i: value for i, value in values.items() if value is not None and i not in unread}
            self._mirror.admit(present)
            self._misses.remember_absent(values.keys() - present.keys() - unread)
            # The evicted first: the rows that they leave are needed.
            await version.write_now([*evicted, *present])
        except REDIS_ERRORS:
            pass  # Whoever waits sees that the items are still missing, and says so in its answer.
        except Exception:
            _log.exception("items could not be admitted", num_items=len(item_ids))
        else:
            self._count("admitted", len(present))
        finally:
            self._misses.end(item_ids)
            self._count("unread", len(unread))

    async def _make_room(self, version: LoadedVersion, num_items: int) -> list[int]:
        """Evict until so many others fit in, and return what was evicted."""
        evicted: list[int] = []
        async with self._evicting:
            # Again if, while it was looked for what to evict, the mirror took in news.
            while (too_many := len(self._mirror) + num_items - self._capacity) > 0:
                unused = await version.least_recent(max(too_many, self._capacity // _EVICT_SHARE))
                # Where none of them is held, all that is left are items that this model cannot read.
                evicted += self._mirror.evict(unused) or self._mirror.evict(self._mirror.some(too_many))
        self._count("evicted", len(evicted))
        return evicted
