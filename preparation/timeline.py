"""What was known before a moment: a user's clicks, an item's share. Everything at or after it stays unseen."""

from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from preparation.events import Events
from preparation.levels import to_shares

T = TypeVar("T", bound=np.integer)


class Before:
    """How many events of a key there are strictly before a time, for many keys and times at once.

    Events are sorted by (key, time); both are replaced by their ranks, so that one search over one integer finds
    the place of a (key, time).
    """

    __slots__ = ("_keys", "_places", "_starts", "_times", "order")

    def __init__(self, key: NDArray[np.int64], time: NDArray[np.int64]) -> None:
        self.order = np.lexsort((time, key))  # (n,) the events by key, then time
        self._keys, self._starts = np.unique(key[self.order], return_index=True)
        self._times = distinct(time)
        self._places = self._place(np.searchsorted(self._keys, key[self.order]), time[self.order])

    def _place(self, key_rank: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.int64]:
        return key_rank * (len(self._times) + 1) + _search(self._times, time)

    def spans(self, key: NDArray[np.int64], time: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (m,) starts and ends in `order` of each key's events strictly before its time; empty for no key."""
        if not len(self._keys):
            nothing = np.zeros(len(key), dtype=np.int64)
            return nothing, nothing
        rank = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        starts = self._starts[rank]
        ends = _search(self._places, self._place(rank, time))
        return starts, np.where(self._keys[rank] == key, ends, starts)

    def counts(self, key: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (m,) how many events of each key lie strictly before its time."""
        starts, ends = self.spans(key, time)
        return ends - starts


def distinct(values: NDArray[T]) -> NDArray[T]:
    """Return the distinct values in ascending order: `np.unique` hashes first, which costs more for millions."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _search(values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what `np.searchsorted` does; many times as fast on large arrays, for neighbours are searched in turn."""
    order = np.argsort(wanted)
    places = np.empty(len(wanted), dtype=np.int64)
    places[order] = np.searchsorted(values, wanted[order])
    return places


class Timeline:
    """The clicks of all users, and with them every history.

    A row's history is what its user clicked strictly before its time, so clicks at the same moment do not see each
    other, nor does a click see itself.
    """

    __slots__ = ("_before", "_item", "_length")

    def __init__(self, clicks: Events, item_ids: NDArray[np.int64], history_length: int) -> None:
        self._before = Before(clicks.user, clicks.time)
        self._item = item_ids[clicks.item[self._before.order]]
        self._length = history_length

    def histories(self, user: NDArray[np.int64], time: NDArray[np.int64]) -> "Ragged":
        """Return the last item ids that each of (m,) users had clicked before a time."""
        starts, ends = self._before.spans(user, time)
        return Ragged.gathered(self._item, np.maximum(starts, ends - self._length), ends)


class Popularity:
    """How items stood among all before any moment, by their events; see `preparation.levels` for what a share is."""

    __slots__ = ("_before", "_num_items", "_times", "total")

    def __init__(self, events: Events, num_items: int) -> None:
        self._before, self._num_items = Before(events.item, events.time), num_items
        self._times = np.sort(events.time)
        self.total = len(events)

    def shares(self, item: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return (m,) the share of each item strictly before a time."""
        return to_shares(self._before.counts(item, time), _search(self._times, time), self._num_items)


class Ragged:
    """Lists of different lengths, one after the other: list i is values[offsets[i]:offsets[i + 1]]."""

    __slots__ = ("offsets", "values")

    def __init__(self, values: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def gathered(cls, values: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Self:
        """Return the lists values[starts[i]:ends[i]]."""
        lengths = ends - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return cls(values[np.repeat(starts, lengths) + inside], offsets)

    def last(self, length: int) -> "Ragged":
        """Return each list cut to its last values."""
        ends = self.offsets[1:]
        return Ragged.gathered(self.values, np.maximum(self.offsets[:-1], ends - length), ends)

    def where(self, chosen: NDArray[np.bool_]) -> "Ragged":
        """Return the lists with their chosen values alone; `chosen` is a mark for each of `values`."""
        num_before = np.concatenate([[0], np.cumsum(chosen)])
        return Ragged(self.values[chosen], num_before[self.offsets])
