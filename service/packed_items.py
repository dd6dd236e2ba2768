"""Packed items by id, in the buckets that they are stored in: how many may be held, and who hears of changes."""

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import structlog

from contract.codec import NUM_BUCKETS, bucket_of
from service.bucket import Bucket, Changes
from service.items import batched

_log = structlog.get_logger(__name__)

Listener = Callable[[Collection[int]], None]


class PackedItems:
    """Packed items by id.

    Parameters
    ----------
    capacity
        The most items to hold; None holds all.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self._buckets = [Bucket() for _ in range(NUM_BUCKETS)]
        self._listeners: list[Listener] = []

    def __len__(self) -> int:
        return sum(len(bucket.values) for bucket in self._buckets)

    @property
    def room(self) -> float:
        """How many more items may be held; infinite where all are."""
        return math.inf if self.capacity is None else self.capacity - len(self)

    def get(self, item_id: int) -> bytes | None:
        """Return the packed item, or None."""
        return self._buckets[bucket_of(item_id)].values.get(item_id)

    def snapshot(self) -> tuple[list[int], list[bytes]]:
        """Return the ids and the packed values of all items as they are now."""
        ids = itertools.chain.from_iterable(bucket.values for bucket in self._buckets)
        return list(ids), list(itertools.chain.from_iterable(bucket.values.values() for bucket in self._buckets))

    def values_of(self, item_ids: Iterable[int]) -> list[bytes]:
        """Return the packed items, empty where one is not held."""
        buckets = self._buckets
        return [buckets[bucket_of(item_id)].values.get(item_id, b"") for item_id in item_ids]

    def batches(self, size: int) -> Iterator[list[int]]:
        """Yield the ids of all items in batches of up to `size`, each bucket's as they are when its turn comes."""
        for batch in batched(itertools.chain.from_iterable(list(bucket.values) for bucket in self._buckets), size):
            yield list(batch)

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with the ids of items that changed or went, from now on."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Call `listener` no more."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    def some(self, count: int) -> list[int]:
        """Return up to `count` ids of items that are held, whichever."""
        return list(itertools.islice(itertools.chain.from_iterable(bucket.values for bucket in self._buckets), count))

    def admit(self, values: Mapping[int, bytes]) -> None:
        """Hold items that were read for a rank, as far as there is room; one that is held already is newer."""
        self.apply(self.fitting({i: value for i, value in values.items() if self.get(i) is None}))

    def evict(self, item_ids: Iterable[int]) -> list[int]:
        """Hold items no more, and return which of them were held; they stay in Redis."""
        held = [item_id for item_id in item_ids if self.get(item_id) is not None]
        self.apply(dict.fromkeys(held))
        return held

    def fitting(self, changes: Changes) -> Changes:
        """Leave out items that are not held and for which there is no room."""
        room = self.room
        if room >= len(changes):
            return changes
        held = {item_id: value for item_id, value in changes.items() if self.get(item_id) is not None}
        others = ((item_id, value) for item_id, value in changes.items() if item_id not in held and value is not None)
        return {**held, **dict(itertools.islice(others, int(room)))}

    def apply(self, changes: Changes) -> None:
        """Take over changes, and tell whoever listens."""
        for item_id, value in changes.items():
            self._buckets[bucket_of(item_id)].apply(item_id, value)
        for listener in list(self._listeners) if changes else ():
            try:
                listener(changes.keys())
            except Exception:
                _log.exception("items changed, and somebody could not be told")
