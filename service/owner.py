"""The process that owns the catalogue: follows it, encodes it into shared memory, and swaps versions everywhere."""

import asyncio
import contextlib
import socket

import structlog

from scoring.device import CPU
from scoring.memory import SharedMemory
from service.channel import close_all
from service.errors import StartError
from service.family import Family
from service.messages import Done, GetItem, GetState, ItemIs, Message, Promote, Promoted, Rollback, StateIs
from service.metrics import Metrics
from service.mirror import Mirror
from service.registry import Registry
from service.replica import cancel, connected, open_catalogue
from service.workers import Workers

_NOTE_EVERY_S = 0.1
_NO_GPU = "several workers would each need the GPU: give --device cpu, or --workers 1 and one process per GPU"

_log = structlog.get_logger(__name__)


class Owner:
    """Follows the catalogue for the workers of one service, and does what they ask for."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._workers = Workers(SharedMemory(), self._take)
        self._mirror: Mirror | None = None
        self._registry: Registry | None = None
        self._metrics: Metrics | None = None

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Read the catalogue, load a version, then take in workers until the stack is closed.

        Raises
        ------
        StartError
            Redis is not there, or nothing can be served.
        """
        family, settings = self._family, self._family.settings
        redis = await connected(family.url, settings.redis_timeout_s, stack)
        metrics = Metrics(family.counters)
        self._mirror, self._registry = await open_catalogue(
            settings, family.url, redis, metrics, stack, self._workers.memory.zeros, self._workers
        )
        if self._registry.serving.scorer.provider != CPU:
            raise StartError(_NO_GPU)
        self._metrics = metrics
        self._note()
        stack.push_async_callback(cancel, asyncio.create_task(self._keep_noting()))
        stack.push_async_callback(self._workers.close)
        loop = asyncio.get_running_loop()
        loop.add_reader(family.for_owner, self._take_in)
        stack.callback(loop.remove_reader, family.for_owner)

    def _take_in(self) -> None:
        """Take in the workers that left a line to themselves."""
        with contextlib.suppress(BlockingIOError):
            while True:
                _, descriptors, *_ = socket.recv_fds(self._family.for_owner, 64, 1, socket.MSG_CMSG_CLOEXEC)
                for descriptor in descriptors:
                    self._workers.add(socket.socket(fileno=descriptor))

    async def _take(self, message: Message, descriptors: list[int]) -> Message:
        close_all(descriptors)
        assert self._registry is not None
        assert self._mirror is not None
        if isinstance(message, Promote):
            return Promoted(
                await self._registry.promote(message.version, message.canary, message.shadow, message.force)
            )
        if isinstance(message, Rollback):
            await self._registry.rollback()
        elif isinstance(message, GetState):
            return StateIs(await self._registry.state())
        elif isinstance(message, GetItem):
            return ItemIs(self._mirror.get(message.item_id))
        return Done()

    async def _keep_noting(self) -> None:
        while True:
            await asyncio.sleep(_NOTE_EVERY_S)
            self._note()

    def _note(self) -> None:
        assert self._registry is not None
        assert self._mirror is not None
        assert self._metrics is not None
        board = self._family.board
        board["owner_beats"] += 1
        board["num_items"] = len(self._mirror)
        board["is_degraded"] = self._mirror.degraded
        loaded = self._registry.lineup.versions
        followed_s = min(self._mirror.followed_s, *(version.followed_s for version in loaded))
        board["followed_ms"] = int(followed_s * 1000)
        board["has_problem"] = self._registry.problem is not None
        board["num_unknown_tags"] = self._registry.serving.rows.num_unknown_tags
        self._metrics.active.share()
