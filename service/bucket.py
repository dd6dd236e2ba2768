"""What a mirror holds of one bucket, and what it makes of a fresh reading of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from service.log import Position, Tail

Changes = Mapping[int, bytes | None]
"""Packed items by id; None where the item is gone."""


@dataclass(slots=True)
class Bucket:
    """A bucket's packed items, and how far its log has been followed.

    Attributes
    ----------
    values
        Packed items by id.
    lost
        Those of them that Redis lacks though nobody deleted them; they are kept until somebody says more.
    position
        Where its log has been followed to.
    broken
        Whether entries may have been missed, so that it has to be read again before it is followed on.
    error
        Why it cannot be read at all, such as a key of another type; None where it can.
    num_foreign
        Fields of its hash that are no items of this bucket.
    """

    values: dict[int, bytes] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    position: Position = field(default_factory=Position)
    broken: bool = True
    error: Exception | None = None
    num_foreign: int = 0
    _seen: Tail | None = None
    _suspected: Tail | None = None

    def differs(self, tail: Tail, complete: bool) -> bool:
        """Whether a bucket that stands at `tail` cannot be what is held here.

        Its log is another one or lost its end; or, while nothing was logged, its hash has more or fewer fields than
        were read or, where that is but a part, than before: somebody wrote past the log, or a failover made the
        reading skip some. The latter is said once for each count, so that one which can never fit does not lead to
        reading for ever.
        """
        if self.position.is_past(tail.position):
            return True
        if tail.position != self.position:
            return False
        before, self._seen = self._seen, tail
        if complete:
            fits = tail.num_items == len(self.values) - len(self.lost) + self.num_foreign
        else:
            fits = before is None or before.position != tail.position or before.num_items == tail.num_items
        if fits or tail == self._suspected:
            return False
        self._suspected = tail
        return True

    def is_suspicious(self, gone: Collection[int], tail: Tail) -> bool:
        """Whether items that vanished while nobody looked were lost rather than deleted.

        So it is where the log is another one than before, for then Redis lost what it held, and where most of the
        items went.
        """
        other_log = self.position.epoch not in (b"", tail.position.epoch)
        return bool(gone) and (other_log or 2 * len(gone) > len(self.values))

    def take(self, stored: Mapping[int, bytes], gone: set[int], tail: Tail) -> dict[int, bytes | None]:
        """Stand at `tail` from now on, and return what is to be applied: `stored` was read since, `gone` is to go."""
        changes: dict[int, bytes | None] = dict.fromkeys(gone)
        changes.update((item_id, value) for item_id, value in stored.items() if self.values.get(item_id) != value)
        self.lost.difference_update(stored)
        self.position, self.broken, self.error = tail.position, False, None
        return changes

    def apply(self, item_id: int, value: bytes | None) -> None:
        """Hold a value, or nothing any more, of an item that is as it should be."""
        self.lost.discard(item_id)
        if value is None:
            self.values.pop(item_id, None)
        else:
            self.values[item_id] = value
