"""Raw ids, of any kind, to the integer ids of the parquet files and of the service."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from preparation.errors import SourceError, StoredError
from preparation.settings import IdRule


@dataclass(frozen=True, slots=True)
class IdMap:
    """Distinct raw ids and the integer id of each."""

    raw: pa.Array  # int64 or string, in the order in which they were met
    ids: NDArray[np.int64]  # (n,)
    kept: bool  # every id is, and stays, what it was; else they are numbered as they come

    def positions(self, column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Return (n,) the position of each raw id in the map, -1 where it is not there."""
        found = pc.index_in(_as_kind(column, self.raw.type), value_set=self.raw)
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)  # type: ignore[no-any-return]

    def save(self, path: Path) -> None:
        """Write a parquet file with the columns raw and id."""
        table = pa.table({"raw": self.raw, "id": self.ids})
        pq.write_table(table.replace_schema_metadata({"kept": str(int(self.kept))}), path)


def load_ids(path: Path) -> IdMap:
    """Read what `IdMap.save` wrote; raises StoredError."""
    try:
        table = pq.read_table(path)
        kept = table.schema.metadata[b"kept"] == b"1"
        return IdMap(table["raw"].combine_chunks(), table["id"].to_numpy(), kept)
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        raise StoredError(f"{path} cannot be read as a map of ids: {error}") from error


def make_ids(name: str, column: pa.ChunkedArray, rule: IdRule, smallest: int, before: IdMap | None = None) -> IdMap:
    """Return the map of all raw ids of a column, after those that an earlier map holds and with the same ids.

    Parameters
    ----------
    name
        What the ids are, for messages.
    column
        Raw ids as `raw_ids` gives them, repeated or not.
    rule
        For the first map; one that continues another follows that one's.
    smallest
        The smallest id that may be kept.

    Raises
    ------
    SourceError
        Ids that are to be kept are no integers, or smaller than `smallest`.
    """
    if before is not None and pa.types.is_integer(before.raw.type) and pa.types.is_string(column.type):
        if before.kept:
            raise SourceError(f"{name} ids were kept before as integers and cannot be text now, such as {column[0]}")
        before = IdMap(before.raw.cast(pa.string()), before.ids, kept=False)
    distinct = pc.unique(column if before is None else _as_kind(column, before.raw.type))
    if isinstance(distinct, pa.ChunkedArray):
        distinct = distinct.combine_chunks()
    if before is not None:
        return _continued(name, distinct, before, smallest)
    complaint = _not_keepable(distinct, smallest)
    if rule == "keep" and complaint:
        raise SourceError(f"{name} ids cannot be kept: {complaint}")
    if rule == "dense" or complaint:
        return IdMap(distinct, np.arange(1, len(distinct) + 1), kept=False)
    return IdMap(distinct, distinct.to_numpy(), kept=True)


def _continued(name: str, distinct: pa.Array, before: IdMap, smallest: int) -> IdMap:
    new = distinct.filter(pc.invert(pc.is_in(distinct, value_set=before.raw)))
    if before.kept:
        complaint = _not_keepable(new, smallest)
        if complaint:
            raise SourceError(f"{name} ids were kept before and cannot be kept now: {complaint}")
        ids = new.to_numpy()
    else:
        ids = np.arange(1, len(new) + 1) + before.ids.max(initial=0)
    return IdMap(pa.concat_arrays([before.raw, new]), np.concatenate([before.ids, ids]), before.kept)


def _not_keepable(distinct: pa.Array, smallest: int) -> str | None:
    """Return why ids cannot be kept, None where they can."""
    if not pa.types.is_integer(distinct.type):
        return f"they are text, such as {distinct[0].as_py()!r}" if len(distinct) else None
    least = pc.min(distinct).as_py()
    return f"{least} is smaller than {smallest}" if least is not None and least < smallest else None


def raw_ids(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of ids as int64 or as text; text that only holds plain integers becomes int64.

    Raises
    ------
    SourceError
        The column holds anything else.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise SourceError(f"{path}: {name} holds {column.type}; ids are integers or text")
    column = column.cast(pa.string())
    # No leading zero and no plus sign: else two texts would be one id.
    plain = pc.all(pc.match_substring_regex(column, r"^(0|[1-9][0-9]{0,17})$")).as_py()
    return column.cast(pa.int64()) if plain and len(column) else column


def _as_kind(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if column.type == kind:
        return column
    if pa.types.is_string(kind):
        return column.cast(pa.string())
    # Text where the map holds integers: what is no plain integer is in no map.
    plain = pc.match_substring_regex(column, r"^(0|[1-9][0-9]{0,17})$")
    return pc.if_else(plain, column, None).cast(pa.int64())
