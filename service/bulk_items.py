"""Items in bulk over HTTP: lines of JSON, stored as they come, with an error for each line that is wrong."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from contract import wire
from contract.schema import Schema
from service import item_json
from service.body import Line, decode
from service.connection import or_unavailable
from service.errors import InvalidError, RequestError
from service.items import Items

_WRITE_AT_ONCE = 64
_MOST_ERRORS = 100


@dataclass(slots=True)
class _Batch:
    """Items that wait to be stored together, and the tally so far."""

    items: Items
    ids: list[int] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    written: int = 0
    failed: int = 0
    errors: list[wire.BulkError] = field(default_factory=list)

    async def add(self, item_id: int, value: bytes) -> None:
        self.ids.append(item_id)
        self.values.append(value)
        if len(self.ids) >= _WRITE_AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        with or_unavailable(f"{self.written} items were stored, then no more"):
            await self.items.write(self.ids, self.values)
        self.written += len(self.ids)
        self.ids.clear()
        self.values.clear()

    def refuse(self, line: int, error: RequestError) -> None:
        self.failed += 1
        if len(self.errors) < _MOST_ERRORS:
            self.errors.append(wire.BulkError(line, error.detail, error.field))


async def write_lines(lines: AsyncIterator[Line], items: Items, features: Schema) -> wire.BulkResult:
    """Store an item per line; empty lines are skipped.

    Raises
    ------
    UnavailableError
        Redis does not answer; the message says how many items are stored.
    """
    batch = _Batch(items)
    async for line in lines:
        if line.text is not None and not line.text.strip():
            continue
        try:
            item_id, value = _parse(line, features)
        except RequestError as error:
            batch.refuse(line.number, error)
        else:
            await batch.add(item_id, value)
    await batch.flush()
    return wire.BulkResult(batch.written, batch.failed, batch.errors)


def _parse(line: Line, features: Schema) -> tuple[int, bytes]:
    if line.text is None:
        raise InvalidError("the line is over the limit")
    item = decode(line.text, item_json.decoder)
    if item.item_id is None:
        raise InvalidError("an id is needed", "item_id")
    return item.item_id, item_json.pack_item(item, features)
