"""All workers as the owner of the catalogue sees them: what one is told, all are told."""

import asyncio
import contextlib
import socket

import structlog

from scoring.memory import SharedMemory
from scoring.tables import Tables
from service.channel import ClosedError, Handle
from service.errors import RequestError
from service.lineup import Lineup
from service.link import Link
from service.version import LoadedVersion

_LAST_WORDS_S = 1.0

_log = structlog.get_logger(__name__)


class Workers:
    """The audience of the owner's registry.

    Workers come by `add` at any time, also amid a swap: each is brought to the version that serves, and only then
    answers requests.

    Parameters
    ----------
    memory
        What tables lie in.
    handle
        Takes what workers ask for.
    """

    def __init__(self, memory: SharedMemory, handle: Handle) -> None:
        self.memory, self._handle = memory, handle
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._golden: dict[str, Tables] = {}
        self._lineup: Lineup[LoadedVersion] | None = None
        self._loop = asyncio.get_running_loop()

    def add(self, line: socket.socket) -> None:
        """Take in a worker."""
        link = Link(line, self.memory, self._handle)
        self._links[link] = asyncio.create_task(self._keep(link), name=f"worker {link.pid}")

    async def prepare(self, version: LoadedVersion) -> None:
        """Let every worker open a version; raises RequestError where one cannot, and all forget it then."""
        await self._introduce(version)
        opened = await asyncio.gather(*(self._open(link, version) for link in self._links), return_exceptions=True)
        reasons = [
            error for error in opened if isinstance(error, BaseException) and not isinstance(error, ClosedError)
        ]
        if reasons:
            self.forget(version)
            raise reasons[0]

    async def exchange(self, lineup: Lineup[LoadedVersion]) -> None:
        """Let every worker answer with these versions; returns once all do that are left."""
        for version in lineup.versions:
            await self._introduce(version)
        self._lineup = lineup
        await asyncio.gather(*(self._bring(link) for link in self._links), return_exceptions=True)

    def forget(self, version: LoadedVersion) -> None:
        """Let every worker forget a version."""
        self._golden.pop(version.name, None)
        for link in self._links:
            link.forget(version)

    async def close(self) -> None:
        """Hang up."""
        for link in self._links:
            link.close()
        if self._links:
            await asyncio.wait(self._links.values())

    async def _introduce(self, version: LoadedVersion) -> None:
        if version.name in self._golden:
            return
        self._golden[version.name] = await asyncio.to_thread(version.scorer.golden_tables)

        name = version.name

        def note() -> None:
            # In the thread that writes, which may outlive the loop. It knows the version by name only: in a circle of
            # references large tables would outlive their last user.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._changed, name)

        version.rows.subscribe(note)

    def _changed(self, name: str) -> None:
        for link in self._links:
            link.changed(name)

    async def _keep(self, link: Link) -> None:
        """Bring a new worker to what serves, and forget it when it is gone."""
        bringing = asyncio.create_task(self._bring(link))
        try:
            await link.wait_closed()
        finally:
            bringing.cancel()
            del self._links[link]
        _log.info("worker left", pid=link.pid)

    async def _bring(self, link: Link) -> None:
        """Let a worker serve what serves, whatever that becomes meanwhile."""
        try:
            async with link.bringing:
                while link.lineup is not self._lineup and self._lineup is not None:
                    lineup = self._lineup
                    await self._open(link, lineup.serving)
                    await link.serve(lineup, takes_part=await self._open_candidate(link, lineup))
        except ClosedError:
            return
        except RequestError as error:
            _log.error("a worker cannot serve", pid=link.pid, reason=error.detail)
            # What it serves, if anything, is not kept up to date any more. One that starts says why before it ends.
            await asyncio.sleep(_LAST_WORDS_S)
            if link in self._links:
                link.kill(f"cannot serve: {error.detail}")

    async def _open_candidate(self, link: Link, lineup: Lineup[LoadedVersion]) -> bool:
        """Let a worker open the version on trial; one that cannot goes on without."""
        if lineup.candidate is None:
            return False
        try:
            await self._open(link, lineup.candidate)
        except RequestError as error:
            _log.error("a worker takes no part in the trial", pid=link.pid, reason=error.detail)
            return False
        return True

    async def _open(self, link: Link, version: LoadedVersion) -> None:
        await link.open(version, self._golden[version.name])
