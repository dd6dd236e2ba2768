"""The item catalogue as it comes: ids, text, tags, image paths, in file order."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from preparation.describe import image_of, tags_of, text_of
from preparation.errors import SourceError
from preparation.identity import raw_ids
from preparation.settings import Settings
from preparation.source import read_table, whole_column


@dataclass(frozen=True, slots=True)
class RawCatalogue:
    """The items of a catalogue; all lists are in file order and of one length."""

    item: pa.ChunkedArray  # raw ids, distinct
    text: list[str]  # empty where there is none
    tags: list[list[str]]
    image: list[Path | None]

    def __len__(self) -> int:
        return len(self.item)


def read_catalogue(path: Path, settings: Settings) -> RawCatalogue:
    """Read a catalogue.

    Text columns, tags and images may be missing altogether, or in some rows; image paths are relative to the
    catalogue's folder.

    Raises
    ------
    SourceError
        The file cannot be read, holds no item, has no id column, or an id is missing or repeats.
    """
    names = settings.columns
    described = [*names.text, names.tags, names.image]
    table = read_table(path, [names.item], described, text=[names.item, *described])
    if not len(table):
        raise SourceError(f"{path} holds no items")
    item = raw_ids(path, names.item, whole_column(path, table, names.item))
    _refuse_repeated(path, names.item, item)
    columns = {name: table[name].to_pylist() for name in table.column_names if name != names.item}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    rows = rows or [{} for _ in range(len(table))]
    return RawCatalogue(
        item,
        [text_of(row, settings) for row in rows],
        [tags_of(row, settings) for row in rows],
        [image_of(row, settings, path.parent) for row in rows],
    )


def _refuse_repeated(path: Path, name: str, item: pa.ChunkedArray) -> None:
    counts = pc.value_counts(item).flatten()
    repeated = counts[0].filter(pc.greater(counts[1], 1))
    if len(repeated):
        raise SourceError(f"{path}: {name} {repeated[0].as_py()!r} occurs more than once; {len(repeated)} ids do")
