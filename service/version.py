"""One version of the model, loaded: its scorer, and the catalogue as rows of its tables."""

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from contract.codec import CodecError, unpack_items
from contract.schema import Schema
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from service.items import Change, batched
from service.mirror import Mirror

_FILL_AT_ONCE = 4096
_FOLLOW_AT_ONCE = 512

_log = structlog.get_logger(__name__)


class LoadedVersion:
    """A scorer with the catalogue encoded for it, kept up to date from the mirror until it is closed.

    Parameters
    ----------
    scorer
        Of a verified bundle.
    mirror
        The catalogue.
    """

    def __init__(self, scorer: Scorer, mirror: Mirror) -> None:
        self.scorer = scorer
        self.name = scorer.bundle.version
        self.rows = ItemRows(scorer, capacity=len(mirror))
        self._mirror = mirror
        self._pending: set[int] = set()
        self._wake = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def fill(self, thread: Executor) -> None:
        """Encode the whole catalogue in `thread`; from here on changes are noted."""
        self._mirror.subscribe(self._note)
        for changes in batched(self._mirror.snapshot(), _FILL_AT_ONCE):
            await self._write(changes, thread)
        await self._catch_up(thread)

    def follow(self, thread: Executor) -> None:
        """Apply changes as they come, each in `thread`, until closed."""
        self._following = asyncio.create_task(self._follow(thread), name=f"follow {self.name}")

    async def close(self) -> None:
        """Stop following. Requests that are still in flight on this version end undisturbed."""
        self._mirror.unsubscribe(self._note)
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following

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
        while self._pending:
            ids = list(self._pending)[:_FOLLOW_AT_ONCE]
            await self._write([(item_id, self._mirror.get(item_id) or b"") for item_id in ids], thread)

    async def _write(self, changes: Sequence[Change], thread: Executor) -> None:
        # Forgotten before they are read again, noted anew if the writing fails: no change is ever skipped.
        self._pending.difference_update(item_id for item_id, _ in changes)
        try:
            await asyncio.get_running_loop().run_in_executor(thread, write_rows, self.rows, changes)
        except BaseException:
            self._note([item_id for item_id, _ in changes])
            raise

    def _note(self, item_ids: Collection[int]) -> None:
        self._pending.update(item_ids)
        self._wake.set()


def write_rows(rows: ItemRows, changes: Sequence[Change]) -> None:
    """Bring table rows up to date; an empty value, or one that this model cannot read, removes the item."""
    item_ids, records = _readable(changes, rows.scorer.features)
    rows.update(item_ids, records)
    gone = np.setdiff1d(np.array([item_id for item_id, _ in changes], dtype=np.int64), item_ids)
    if len(gone):
        rows.remove(gone)


def _readable(changes: Sequence[Change], features: Schema) -> tuple[NDArray[np.int64], NDArray[Any]]:
    kept = [change for change in changes if change[1]]
    try:
        records = unpack_items([value for _, value in kept], features.embedding_width, features.max_tags)
    except CodecError:
        kept = [change for change in kept if _is_readable(change, features)]
        records = unpack_items([value for _, value in kept], features.embedding_width, features.max_tags)
    return np.array([item_id for item_id, _ in kept], dtype=np.int64), records


def _is_readable(change: Change, features: Schema) -> bool:
    try:
        unpack_items([change[1]], features.embedding_width, features.max_tags)
    except CodecError as error:
        _log.warning("stored item is not readable and counts as unknown", item_id=change[0], reason=str(error))
        return False
    return True
