"""One version of the model, loaded: its scorer, and the catalogue as rows of its tables."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Executor

import numpy as np
import structlog
from numpy.typing import NDArray

from contract.codec import unpack_whole_items
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from service.mirror import Mirror
from service.recency import Recency

_FILL_AT_ONCE = 1024
"""So few that what is encoded of them stays in the cores' caches, and that the interpreter is soon free again."""
_FOLLOW_AT_ONCE = 512
"""Large enough that exchanging the map costs less than encoding, small enough that a rank may wait for it."""
_LOOK_FOR_ROWS_S = 0.001

_log = structlog.get_logger(__name__)


class LoadedVersion:
    """A scorer with the catalogue encoded for it, kept up to date from the mirror until it is closed.

    Parameters
    ----------
    scorer
        Of a verified bundle.
    mirror
        The catalogue. If it has a capacity the tables are made for that many items and never grow.
    """

    def __init__(self, scorer: Scorer, mirror: Mirror) -> None:
        self.scorer = scorer
        self.name = scorer.bundle.version
        self.rows = ItemRows(scorer, capacity=len(mirror) if mirror.capacity is None else mirror.capacity)
        self.recency = None if mirror.capacity is None else Recency(self.rows.num_free_rows + 1)
        self._mirror = mirror
        self._headroom = max(1, self.rows.num_free_rows - (mirror.capacity or 0))
        self._num_writing = 0
        self._pending: set[int] = set()
        self._queue: deque[tuple[int, float]] = deque()  # item ids, and when each was noted
        self._writing_since_s = math.inf
        self._wake = asyncio.Event()
        self._thread: Executor | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def followed_s(self) -> float:
        """The moment, by the monotonic clock, up to which the rows have every change that the mirror noted."""
        since_s = self._queue[0][1] if self._queue else math.inf
        return min(since_s, self._writing_since_s, time.monotonic())

    @property
    def num_pending(self) -> int:
        """How many changed items wait to be encoded."""
        return len(self._pending)

    async def fill(self, thread: Executor, before: "LoadedVersion | None" = None) -> None:
        """Encode the whole catalogue in `thread`; from here on changes are noted.

        When items were last used is taken over from the version `before`.
        """
        self._mirror.subscribe(self._note)
        for item_ids in self._mirror.batches(_FILL_AT_ONCE):
            await self._write(item_ids, thread)
        await self._catch_up(thread)
        if self.recency is not None and before is not None and before.recency is not None:
            with self.rows.view() as new, before.rows.view() as old:
                rows = new.rows(new.index.ids)
                self.recency.inherit(rows, before.recency.of(old.rows(new.index.ids)))

    def follow(self, thread: Executor) -> None:
        """Apply changes as they come, each in `thread`, until closed."""
        self._thread = thread
        self._following = asyncio.create_task(self._follow(thread), name=f"follow {self.name}")

    async def close(self) -> None:
        """Stop following. Requests that are still in flight on this version end undisturbed."""
        self._mirror.unsubscribe(self._note)
        if self._following is not None:
            following, self._following = self._following, None
            following.cancel()
            await asyncio.wait([following])

    async def write_now(self, item_ids: list[int]) -> None:
        """Bring items up to date before any others that wait for it."""
        assert self._thread is not None
        for start in range(0, len(item_ids), _FOLLOW_AT_ONCE):
            await self._write(item_ids[start : start + _FOLLOW_AT_ONCE], self._thread)

    async def least_recent(self, count: int) -> list[int]:
        """Return up to `count` of the items that were used the longest ago."""
        assert self._thread is not None
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._least_recent, count)

    def _least_recent(self, count: int) -> list[int]:
        assert self.recency is not None
        with self.rows.view() as view:
            ids = view.index.ids
            if count < len(ids):
                ids = ids[np.argpartition(self.recency.of(view.rows(ids)), count)[:count]]
            return list(map(int, ids))

    async def _follow(self, thread: Executor) -> None:
        while True:
            await self._wake.wait()
            try:
                await self._catch_up(thread)
            except Exception:
                _log.exception("items could not be updated", version=self.name)
                await asyncio.sleep(1)

    async def _catch_up(self, thread: Executor) -> None:
        self._wake.clear()
        while item_ids := self._next_pending():
            try:
                await self._write(item_ids, thread)
            finally:
                self._writing_since_s = math.inf

    def _next_pending(self) -> list[int]:
        """Take those items that have waited longest; what was written in the meantime waits no more."""
        item_ids: list[int] = []
        while self._queue and len(item_ids) < _FOLLOW_AT_ONCE:
            item_id, noted_s = self._queue.popleft()
            if item_id in self._pending:
                self._writing_since_s = min(self._writing_since_s, noted_s)
                self._pending.discard(item_id)
                item_ids.append(item_id)
        return item_ids

    async def _write(self, item_ids: list[int], thread: Executor) -> None:
        """Write items as the mirror has them now, in as many steps as there are free rows for."""
        at_once = len(item_ids) if self.recency is None else self._headroom
        try:
            for start in range(0, len(item_ids), at_once):
                await self._write_at_once(item_ids[start : start + at_once], thread)
        except BaseException:
            # Noted anew if the writing fails: no change is ever skipped.
            self._note(item_ids)
            raise

    async def _write_at_once(self, item_ids: list[int], thread: Executor) -> None:
        # Rows come back when the ranks that still read them have ended.
        while self.recency is not None and self.rows.num_free_rows - self._num_writing < len(item_ids):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_FOR_ROWS_S)
        # The values are taken in the step that hands them on, so that an older one never follows a newer one.
        self._pending.difference_update(item_ids)
        values = self._mirror.values_of(item_ids)
        self._num_writing += len(item_ids)
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self._write_rows, item_ids, values)
        finally:
            self._num_writing -= len(item_ids)

    def _write_rows(self, item_ids: list[int], values: list[bytes]) -> None:
        if self.recency is None:
            write_rows(self.rows, item_ids, values)
            return
        before = self._rows_of(item_ids)
        write_rows(self.rows, item_ids, values)
        self.recency.move(before, self._rows_of(item_ids))

    def _rows_of(self, item_ids: list[int]) -> NDArray[np.int64]:
        with self.rows.view() as view:
            return view.rows(np.array(item_ids, dtype=np.int64))

    def _note(self, item_ids: Collection[int]) -> None:
        now_s = time.monotonic()
        self._queue.extend((item_id, now_s) for item_id in item_ids if item_id not in self._pending)
        self._pending.update(item_ids)
        self._wake.set()


def write_rows(rows: ItemRows, item_ids: Sequence[int], values: Sequence[bytes]) -> None:
    """Bring table rows up to date; an empty value, or one that this model cannot read, removes the item."""
    ids, features = np.array(item_ids, dtype=np.int64), rows.scorer.features
    positions, records = unpack_whole_items(values, features.embedding_width, features.max_tags)
    _warn_of_unreadable(rows.scorer.bundle.version, ids, values, positions)
    rows.update(ids[positions], records)
    if len(positions) < len(ids):
        rows.remove(np.delete(ids, positions))


def _warn_of_unreadable(
    version: str, item_ids: NDArray[np.int64], values: Sequence[bytes], readable: NDArray[np.int64]
) -> None:
    if len(readable) == len(values):
        return
    wrong = [position for position in np.delete(np.arange(len(values)), readable).tolist() if values[position]]
    if wrong:
        _log.warning(
            "stored items are not readable and count as unknown",
            version=version,
            num_items=len(wrong),
            first=int(item_ids[wrong[0]]),
        )
