"""One new item, prepared as the catalogue was, for `PUT /v1/items/{id}`; with numpy alone for text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from contract.ids import MAX_ID
from contract.wire import Item
from preparation.describe import image_of, tags_of, text_of
from preparation.errors import SourceError
from preparation.fitted import ITEM_IDS, Fitted
from preparation.tags import to_slots


def prepare_item(fitted: Fitted, folder: Path, row: Mapping[str, Any], images: Path) -> tuple[Item, str | None]:
    """Return an item as the service takes it, and what there is to say about its id.

    Parameters
    ----------
    folder
        Where the preparation lies; its ids are read only if the item's is no integer that could be kept.
    row
        The item by the catalogue's column names, and `likes` and `views`, by default 0: how often it was clicked and
        shown within as long a time as the log spans.
    images
        The folder that an image's path is relative to.

    Raises
    ------
    SourceError
        A count or the id cannot be read.
    EncoderError
        The encoder of the preparation cannot be loaded, or the image cannot be read.
    """
    settings = fitted.settings
    item_id, remark = _item_id(fitted, folder, row.get(settings.columns.item))
    embedding = fitted.embedder.embed([text_of(row, settings)], [image_of(row, settings, images)])[0]
    tags = to_slots([tags_of(row, settings)], fitted.tags, settings.max_tags)[0]
    item = Item(
        embedding=embedding.astype(float).tolist(),
        item_id=item_id,
        tags=tags[tags > 0].tolist(),
        likes_level=fitted.likes.level(_count(row, "likes")),
        views_level=fitted.views.level(_count(row, "views")),
    )
    return item, remark


def _count(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SourceError(f"{name} is {value!r}; it is a count, 0 or more")
    return value


def _item_id(fitted: Fitted, folder: Path, raw: object) -> tuple[int | None, str | None]:
    """Return the id of a raw one; None, with a remark, for an item that has none yet."""
    if raw is None:
        return None, f"the item has no {fitted.settings.columns.item}; {fitted.next_item_id} is free"
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise SourceError(f"{fitted.settings.columns.item} is {raw!r}; ids are integers or text")
    if fitted.items_kept:
        return _kept(raw, fitted.settings.columns.item), None
    import pyarrow as pa

    from preparation.identity import load_ids

    ids = load_ids(folder / ITEM_IDS)
    position = int(ids.positions(pa.array([raw]))[0])
    if position >= 0:
        return int(ids.ids[position]), None
    return None, f"item {raw!r} is new and ids are numbered: {fitted.next_item_id} is free"


def _kept(raw: int | str, column: str) -> int:
    if str(raw).isdecimal() and 1 <= int(raw) <= MAX_ID:
        return int(raw)
    raise SourceError(f"{column} is {raw!r}; the catalogue's ids were kept, so it is an integer from 1")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the items of a file: one JSON object, or, where the suffix is .jsonl or .ndjson, one a line.

    Raises
    ------
    SourceError
        The file is missing or is not of that form.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    parts = data.splitlines() if path.suffix in (".jsonl", ".ndjson") else [data]
    for number, part in enumerate(parts, start=1):
        if not part.strip():
            continue
        try:
            yield msgspec.json.decode(part, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise SourceError(f"{path}: object {number} is not an item as JSON: {error}") from error
