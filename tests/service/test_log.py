"""The log of a bucket, read from a real Valkey."""

import asyncio

from service import log
from service.connection import connect
from service.items import Items


def test_a_page_that_is_full_is_not_all_there_is(redis_url: str) -> None:
    """Whoever has read part of a backlog knows that he has not heard of everything."""

    async def read() -> list[tuple[int, bool]]:
        async with connect(redis_url, 10) as redis:
            for _ in range(5):
                await Items(redis).write([64], [b"value"])
            start = {bucket: log.Position() for bucket in (0, 1)}
            pages = [await log.read_after(redis, start, 10, count) for count in (4, 5, 6)]
            nothing = await log.read_after(redis, {1: log.Position()}, 10)
        return [(len(page.entries.get(0, ())), page.complete) for page in (*pages, nothing)]

    assert asyncio.run(read()) == [(4, False), (5, False), (5, True), (0, True)]
