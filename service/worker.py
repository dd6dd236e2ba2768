"""A process that answers requests with what the owner of the catalogue shares."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from service.auth import AccessGate
from service.family import Family
from service.follower import Follower
from service.mapped import MappedCatalogue
from service.metrics import Metrics
from service.replica import Replica, assemble, cancel, connected, load_options


@contextlib.asynccontextmanager
async def open_worker(family: Family) -> AsyncIterator[Replica]:
    """Start the replica of a worker, ready to rank, and stop it at the block's end.

    Raises
    ------
    StartError
        It cannot start; the message says why in one line.
    """
    settings, board = family.settings, family.board
    async with contextlib.AsyncExitStack() as stack:
        gate = AccessGate.of(settings)
        redis = await connected(family.url, settings.redis_timeout_s, stack)
        metrics = Metrics(family.counters)
        metrics.count_processes(board)
        # Not `auto`: the owner has seen to it that there is no GPU to be found.
        options = replace(load_options(settings), device="cpu")
        follower = Follower(options, family.for_workers, board, metrics)
        stack.push_async_callback(cancel, asyncio.create_task(follower.follow()))
        await follower.start()
        catalogue = MappedCatalogue(board)
        yield assemble(settings, gate, redis, catalogue, follower, metrics, follower.last_seen, stack)
