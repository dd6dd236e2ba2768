"""One worker as the owner of the catalogue sees it."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import struct
from collections.abc import Sequence

import structlog

from scoring.memory import SharedMemory
from scoring.tables import Tables
from service.channel import Channel, ClosedError, Handle
from service.errors import RequestError
from service.lineup import Lineup
from service.messages import Forget, Message, Open, Ping, Released, Serve
from service.showing import Showing
from service.version import LoadedVersion

_WINDOW_S = 10.0
_ANSWER_WINDOWS = 3
_OPEN_WINDOWS = 30
"""A worker that takes this many windows for an answer hangs; while it opens a version it is asked in between whether
it is there. Counted in windows, so that a machine that slept for an hour does not count as one that waited for it."""

_log = structlog.get_logger(__name__)


class Link:
    """What a worker was told, and what it holds.

    Parameters
    ----------
    line
        Leads to the worker, which made it.
    memory
        What tables lie in.
    handle
        Takes what the worker asks for.
    """

    def __init__(self, line: socket.socket, memory: SharedMemory, handle: Handle) -> None:
        self.pid = _maker(line)
        self.lineup: Lineup[LoadedVersion] | None = None
        self.bringing = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._memory, self._handle = memory, handle
        self._channel = Channel(line, self._take)
        self._showings: dict[str, Showing] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}

    async def open(self, version: LoadedVersion, golden: Tables) -> None:
        """Let the worker open a version; once is enough, however often it is called.

        Raises
        ------
        RequestError
            It cannot.
        ClosedError
            It is gone.
        """
        name = version.name
        if name not in self._opening:
            showing = self._showings[name] = Showing(
                version, golden, self._memory, self._numbers, self._ask_with_parts
            )
            self._opening[name] = asyncio.create_task(showing.open(), name=f"open {name} in {self.pid}")
        opening = self._opening[name]
        try:
            await asyncio.shield(opening)
        finally:
            if opening.done() and (opening.cancelled() or opening.exception() is not None):
                self._opening.pop(name, None)
                # Whoever could not open a version holds nothing of it.
                if (unopened := self._showings.pop(name, None)) is not None:
                    unopened.close()

    async def serve(self, lineup: Lineup[LoadedVersion], takes_part: bool) -> None:
        """Let the worker answer with versions that it has opened; returns once it does.

        `takes_part` tells whether that is so of the one on trial.
        """
        await self._ask(Serve(lineup.serving.name, lineup.trial if takes_part else None))
        self.lineup = lineup

    def changed(self, name: str) -> None:
        """Note that the rows of a version have a newer state."""
        if name in self._showings:
            self._showings[name].changed()

    def forget(self, version: LoadedVersion) -> None:
        """Let the worker forget a version that nobody writes to any more."""
        if version.name in self._showings:
            self._drop(version.name)
            self._channel.tell(Forget(version.name))

    async def wait_closed(self) -> None:
        """Return once the worker is gone; what it held is given back then."""
        await self._channel.wait_closed()
        for showing in self._showings.values():
            showing.close()
        self._showings.clear()

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _drop(self, name: str) -> None:
        self._showings.pop(name).end()
        if (opening := self._opening.pop(name, None)) is not None:
            opening.cancel()

    async def _take(self, message: Message, descriptors: list[int]) -> Message | None:
        if isinstance(message, Released):
            if message.version in self._showings:
                self._showings[message.version].released(message.number)
            return None
        return await self._handle(message, descriptors)

    async def _ask_with_parts(self, message: Message, descriptors: Sequence[int]) -> Message:
        if isinstance(message, Open):
            pinging = asyncio.create_task(self._keep_pinging())
            try:
                return await self._ask(message, descriptors, _OPEN_WINDOWS)
            finally:
                pinging.cancel()
        try:
            return await self._ask(message, descriptors)
        except RequestError as error:
            self.kill(f"cannot follow the catalogue: {error.detail}")
            raise ClosedError from error

    async def _keep_pinging(self) -> None:
        """Find out that a worker hangs while it has much more time for something else."""
        with contextlib.suppress(ClosedError):
            while True:
                await self._ask(Ping())
                await asyncio.sleep(_WINDOW_S)

    async def _ask(
        self, message: Message, descriptors: Sequence[int] = (), num_windows: int = _ANSWER_WINDOWS
    ) -> Message:
        asking = asyncio.create_task(self._channel.ask(message, descriptors))
        try:
            for _ in range(num_windows):
                await asyncio.wait([asking], timeout=_WINDOW_S)
                if asking.done():
                    return asking.result()
        finally:
            asking.cancel()
        self.kill(f"does not answer to {type(message).__name__}")
        raise ClosedError

    def kill(self, reason: str) -> None:
        """End a worker that cannot be talked to: while it lives, nothing that it may read can be written again."""
        _log.error("a worker is killed", pid=self.pid, reason=reason)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _maker(line: socket.socket) -> int:
    """Return the process that made a pair of sockets."""
    credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid
