"""What an item's columns say of it: its text, its tags, its image."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from preparation.settings import Settings


def text_of(row: Mapping[str, Any], settings: Settings) -> str:
    """Return an item's text: its text columns joined by a space."""
    parts = (row.get(name) for name in settings.columns.text)
    return " ".join(str(part).strip() for part in parts if part is not None).strip()


def tags_of(row: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return an item's distinct tags in their order: a list, or text with separators."""
    value = row.get(settings.columns.tags)
    if value is None:
        return []
    parts = value.split(settings.tag_separator) if isinstance(value, str) else _list(value)
    return list(dict.fromkeys(part for part in (str(part).strip() for part in parts if part is not None) if part))


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple | np.ndarray) else [value]


def image_of(row: Mapping[str, Any], settings: Settings, folder: Path) -> Path | None:
    """Return the path of an item's image, if it has one; a relative one starts from `folder`."""
    value = row.get(settings.columns.image)
    return folder / str(value) if value else None
