"""One version of the model, loaded: its scorer, and the catalogue as rows of its tables."""

import asyncio
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
        ids, values = self._mirror.snapshot()
        for start in range(0, len(ids), _FILL_AT_ONCE):
            part = slice(start, start + _FILL_AT_ONCE)
            await self._write(ids[part], values[part], thread)
        await self._catch_up(thread)

    def follow(self, thread: Executor) -> None:
        """Apply changes as they come, each in `thread`, until closed."""
        self._following = asyncio.create_task(self._follow(thread), name=f"follow {self.name}")

    async def close(self) -> None:
        """Stop following. Requests that are still in flight on this version end undisturbed."""
        self._mirror.unsubscribe(self._note)
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

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
            await self._write(ids, [self._mirror.get(item_id) or b"" for item_id in ids], thread)

    async def _write(self, item_ids: list[int], values: list[bytes], thread: Executor) -> None:
        # Forgotten before they are written, noted anew if the writing fails: no change is ever skipped.
        self._pending.difference_update(item_ids)
        try:
            await asyncio.get_running_loop().run_in_executor(thread, write_rows, self.rows, item_ids, values)
        except BaseException:
            self._note(item_ids)
            raise

    def _note(self, item_ids: Collection[int]) -> None:
        self._pending.update(item_ids)
        self._wake.set()


def write_rows(rows: ItemRows, item_ids: Sequence[int], values: Sequence[bytes]) -> None:
    """Bring table rows up to date; an empty value, or one that this model cannot read, removes the item."""
    kept, records = _readable(item_ids, values, rows.scorer.features)
    rows.update(kept, records)
    gone = np.setdiff1d(np.array(item_ids, dtype=np.int64), kept)
    if len(gone):
        rows.remove(gone)


def _readable(
    item_ids: Sequence[int], values: Sequence[bytes], features: Schema
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    try:
        records = unpack_items(values, features.embedding_width, features.max_tags)
    except CodecError:
        kept = [
            position for position, value in enumerate(values) if _is_readable(item_ids[position], value, features)
        ]
        item_ids, values = [item_ids[position] for position in kept], [values[position] for position in kept]
        records = unpack_items(values, features.embedding_width, features.max_tags)
    return np.array(item_ids, dtype=np.int64), records


def _is_readable(item_id: int, value: bytes, features: Schema) -> bool:
    try:
        unpack_items([value], features.embedding_width, features.max_tags)
    except CodecError as error:
        if value:
            _log.warning("stored item is not readable and counts as unknown", item_id=item_id, reason=str(error))
        return False
    return True
