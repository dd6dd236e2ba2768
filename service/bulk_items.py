"""Items in bulk over HTTP: lines of JSON, stored as they come, with an error for each line that is wrong."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from contract.schema import Schema
from service import item_json
from service.body import Line, decode
from service.connection import or_unavailable
from service.errors import InvalidError, RequestError
from service.items import Items

_WRITE_AT_ONCE = 64
_MOST_ERRORS = 100


@dataclass(slots=True)
class BulkResult:
    """How many items were stored, how many lines were wrong, and what was wrong with the first of them."""

    written: int = 0
    failed: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, line: int, error: RequestError) -> None:
        """Count a line that is wrong."""
        self.failed += 1
        if len(self.errors) < _MOST_ERRORS:
            where = {} if error.field is None else {"field": error.field}
            self.errors.append({"line": line, "detail": error.detail, **where})


async def write_lines(lines: AsyncIterator[Line], items: Items, features: Schema) -> BulkResult:
    """Store an item per line.

    Raises
    ------
    UnavailableError
        Redis does not answer; the message says how many items are stored.
    """
    result = BulkResult()
    ids: list[int] = []
    values: list[bytes] = []

    async def flush() -> None:
        with or_unavailable(f"{result.written} items were stored, then no more"):
            await items.write(ids, values)
        result.written += len(ids)
        ids.clear()
        values.clear()

    async for line in lines:
        if line.text is None or line.text.strip():
            try:
                item_id, value = _parse(line, features)
            except RequestError as error:
                result.refuse(line.number, error)
                continue
            ids.append(item_id)
            values.append(value)
            if len(ids) >= _WRITE_AT_ONCE:
                await flush()
    if ids:
        await flush()
    return result


def _parse(line: Line, features: Schema) -> tuple[int, bytes]:
    if line.text is None:
        raise InvalidError("the line is over the limit")
    item = decode(line.text, item_json.decoder)
    if item.item_id is None:
        raise InvalidError("an id is needed", "item_id")
    return item.item_id, item_json.pack_item(item, features)
