"""`qin load-items` and `qin load-histories`: parquet files into Redis, thousands of rows a second."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contract.codec import item_records, pack_items, packed_layout
from contract.mmctr import read_items
from service import connection
from service.embedded import running_or_own
from service.errors import ConflictError
from service.items import Items
from service.last_rows import last_histories, last_levels
from service.settings import default_data_dir
from service.users import Histories

_ITEMS_AT_ONCE = 2048
_HISTORIES_AT_ONCE = 1024
_LONGEST_HISTORY = 4096
"""The most items of a history that any model can take (`Schema.history_length`): a load does not know which will."""
_IN_FLIGHT = 3
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load did.

    Attributes
    ----------
    written
        Items or histories that were stored.
    differing
        How many of them came with differing values in the rows; the last one counts.
    """

    written: int
    differing: int


def load_items(
    items: Path, levels: Sequence[Path] = (), redis_url: str | None = None, data_dir: Path | None = None
) -> Loaded:
    """Store the items of an `item_info` file, with the levels that click files last show of each.

    Parameters
    ----------
    items
        The `item_info` file.
    levels
        Files of clicks; items that occur in none get level 0.
    redis_url
        Where to store; none: the embedded Valkey of `data_dir`.

    Raises
    ------
    MmctrError
        A file is not of the MM-CTR layout.
    ConflictError
        Items of another layout are stored already: a service that runs on them would lose its whole catalogue.
    ServiceError
        Redis does not answer.
    """
    info = read_items(items)
    last, differing = last_levels(info.item_id, levels)
    records = item_records(info.tags, last, info.embedding)

    async def write(redis: Redis, part: slice) -> None:
        await Items(redis).write(info.item_id[part].tolist(), pack_items(records[part]))

    async def check(redis: Redis) -> None:
        stored = await Items(redis).sample()
        if len(records) and stored is not None:
            _check_layout(stored, pack_items(records[:1])[0])

    _run("items", len(records), _ITEMS_AT_ONCE, write, redis_url, data_dir, check)
    return Loaded(len(records), differing)


def _check_layout(stored: bytes, new: bytes) -> None:
    """Raise ConflictError where a stored item has another embedding width or number of tag slots than a new one."""
    (old_width, old_slots), (width, slots) = packed_layout(stored), packed_layout(new)
    if (old_width, old_slots) != (width, slots):
        raise ConflictError(
            f"these items have embeddings of width {width} and {slots} tag slots, the stored ones {old_width} and "
            f"{old_slots}; nothing was written: load them into a Redis or a data folder of their own"
        )


def load_histories(
    data: Sequence[Path], redis_url: str | None = None, data_dir: Path | None = None, length: int = _LONGEST_HISTORY
) -> Loaded:
    """Store the history of each user's last row, in the order of files and rows.

    Parameters
    ----------
    data
        Files of clicks.
    redis_url, data_dir
        See `load_items`.
    length
        How many of a user's last items are stored, by default all that a model can take. A rank uses as many as
        its model takes, and the next event trims the rest.

    Raises
    ------
    MmctrError
        A file is not of the MM-CTR layout.
    ServiceError
        Redis does not answer.
    """
    histories, differing = last_histories(data, length)
    rows = list(histories.items())

    async def write(redis: Redis, part: slice) -> None:
        await Histories(redis, length).replace_many(rows[part])

    _run("histories", len(rows), _HISTORIES_AT_ONCE, write, redis_url, data_dir)
    return Loaded(len(rows), differing)


def _run(
    what: str,
    num_rows: int,
    at_once: int,
    write: Callable[[Redis, slice], Awaitable[None]],
    redis_url: str | None,
    data_dir: Path | None,
    check: Callable[[Redis], Awaitable[None]] | None = None,
) -> None:
    place = contextlib.nullcontext(redis_url) if redis_url else running_or_own(data_dir or default_data_dir())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())

    async def store(url: str) -> None:
        async with _connected(url) as redis:
            bars = Progress(*columns, console=_terminal(), transient=True)
            with bars as progress, connection.or_unavailable(f"not all {what} stored"):
                if check is not None:
                    await check(redis)
                task = progress.add_task(what, total=num_rows)
                starts = iter(range(0, num_rows, at_once))

                async def write_some() -> None:
                    for start in starts:
                        stop = min(start + at_once, num_rows)
                        await write(redis, slice(start, stop))
                        progress.advance(task, stop - start)

                # Redis stores some rows while others are packed.
                await _all_or_first_error(write_some() for _ in range(_IN_FLIGHT))

    with place as url:
        asyncio.run(store(url))


async def _all_or_first_error(coroutines: Iterable[Coroutine[None, None, None]]) -> None:
    """Wait for all; at the first error end the others and raise it as it is."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Redis]:
    redis = connection.connect(url, _TIMEOUT_S)
    try:
        await connection.check(redis, url)
        yield redis
    finally:
        await redis.aclose()


def _terminal() -> Console:
    """Return a console that shows bars on a terminal, and nothing at all elsewhere."""
    console = Console(stderr=True)
    console.quiet = not console.is_terminal
    return console
