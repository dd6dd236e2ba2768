"""The registry of a worker: serves what the owner of the catalogue lets it, and passes on what it should change."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog
from numpy.typing import NDArray

from contract.manifest import Manifest
from contract.wire import GateResult
from scoring.errors import ScoringError
from scoring.scorer import Scorer
from scoring.tables import Tables
from service.board import Board
from service.channel import Channel, ClosedError, close_all, pair
from service.errors import NoVersionError, RequestError, UnavailableError
from service.lineup import Lineup
from service.loader import LoadOptions, open_scorer, opening_thread, or_refused, read_version, warm_up
from service.mapped import MappedRows, MappedVersion, Mapping
from service.messages import (
    Done,
    Forget,
    GetItem,
    GetState,
    ItemIs,
    Message,
    Open,
    Promote,
    Promoted,
    Released,
    Rollback,
    Serve,
    Show,
    StateIs,
)
from service.metrics import Metrics
from service.registry import stored_versions
from service.serving import State

_TRY_AGAIN_S = 0.05
_BEING_REPLACED = "the process that follows the catalogue is being replaced"

_log = structlog.get_logger(__name__)


class _Owner:
    """One owner, for as long as it lives: the line to it, and the versions that it let this worker open."""

    def __init__(
        self, line: socket.socket, take: Callable[["_Owner", Message, list[int]], Awaitable[Message]]
    ) -> None:
        self.channel = Channel(line, functools.partial(take, self))
        self.versions: dict[str, MappedVersion] = {}
        self.is_there = False


class Follower:
    """Holds the versions with which a worker answers. While the owner is away it goes on with what it has.

    Parameters
    ----------
    options
        Where bundles lie and how they run.
    owners
        Where an owner, this one or the next, takes in the line that a worker sends it.
    board
        What the owner notes.
    metrics
        Told of the version that serves.
    """

    def __init__(self, options: LoadOptions, owners: socket.socket, board: Board, metrics: Metrics) -> None:
        self._options, self._owners, self._board, self._metrics = options, owners, board, metrics
        self._lineup: Lineup[MappedVersion] | None = None
        self._owner: _Owner | None = None
        self._opening = opening_thread(options.num_threads)
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def lineup(self) -> Lineup[MappedVersion]:
        """The versions that the owner lets this worker answer with, and who gets which."""
        assert self._lineup is not None
        return self._lineup

    @property
    def serving(self) -> MappedVersion:
        """The version that answers whoever is in no trial."""
        return self.lineup.serving

    @property
    def is_serving(self) -> bool:
        """Whether the owner has let this worker serve yet."""
        return self._lineup is not None

    @property
    def problem(self) -> str | None:
        """Whether something else serves here than should; the owner's report says why."""
        return "the owner cannot serve what is told" if self._board["has_problem"] else None

    def choose(self, user_id: int) -> MappedVersion:
        """Return the version that answers a user."""
        return self.lineup.choose(user_id)

    def named(self, name: str) -> MappedVersion | None:
        """Return a loaded version by its name."""
        return self.lineup.named(name)

    def versions(self) -> list[Manifest]:
        """Return the manifests of all versions in the store, oldest first; raises UnavailableError."""
        return stored_versions(self._options.store, self._options.model)

    async def state(self) -> State:
        """Return what serves here and what should; without the owner nothing is known of the latter."""
        try:
            answer = await self._ask(GetState())
        except UnavailableError as error:
            return State(self.serving.name, None, None, None, error.detail)
        assert isinstance(answer, StateIs)
        return replace(answer.state, serving=self.serving.name)

    async def promote(
        self, name: str, canary: float = 0.0, shadow: bool = False, force: bool = False
    ) -> GateResult | None:
        """Let the owner make a version active or put it on trial; every worker serves it then.

        Raises
        ------
        RequestError
            It cannot serve, another swap is under way, or the owner is away.
        """
        answer = await self._ask(Promote(name, canary, shadow, force))
        assert isinstance(answer, Promoted)
        return answer.found

    async def rollback(self) -> None:
        """Let the owner end the trial or make the version active again that was so before; raises RequestError."""
        await self._ask(Rollback())

    async def last_seen(self, item_id: int) -> bytes | None:
        """Return an item as the owner last saw it; raises UnavailableError where it is away."""
        answer = await self._ask(GetItem(item_id))
        assert isinstance(answer, ItemIs)
        return answer.value

    async def start(self) -> None:
        """Return once a version serves; raises NoVersionError where that fails here."""
        await self._started

    async def follow(self) -> None:
        """Do what owners say, one after the other, until cancelled."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._opening.shutdown, wait=False)
            await self._follow()

    async def _follow(self) -> None:
        while True:
            self._owner = owner = await self._connect()
            try:
                await owner.channel.wait_closed()
            finally:
                owner.channel.close()
                owner.versions.clear()
            if owner.is_there:
                _log.warning("the catalogue is not followed, its owner is gone; what is known of it serves on")

    async def _connect(self) -> _Owner:
        line, owners_line = await self._pair()
        with owners_line:
            while True:
                try:
                    socket.send_fds(self._owners, [b"worker"], [owners_line.fileno()])
                    break
                except BlockingIOError:
                    await asyncio.sleep(_TRY_AGAIN_S)
        return _Owner(line, self._take)

    async def _pair(self) -> tuple[socket.socket, socket.socket]:
        """Make a line; a process that has no descriptors left may have some again."""
        while True:
            with contextlib.suppress(OSError):
                return pair()
            await asyncio.sleep(_TRY_AGAIN_S)

    async def _ask(self, message: Message) -> Message:
        if self._owner is None or not self._owner.is_there or self._owner.channel.is_closed:
            raise UnavailableError(f"{_BEING_REPLACED}; try again")
        try:
            return await self._owner.channel.ask(message)
        except ClosedError:
            raise UnavailableError(f"{_BEING_REPLACED}, perhaps after it did this; look and try again") from None

    async def _take(self, owner: _Owner, message: Message, descriptors: list[int]) -> Message:
        owner.is_there = True
        try:
            if isinstance(message, Open):
                await self._open(owner, message, descriptors)
            elif isinstance(message, Show) and message.version in owner.versions:
                owner.versions[message.version].rows.show(message.number, message.view, descriptors)
            elif isinstance(message, Serve):
                self._serve(owner, message)
            elif isinstance(message, Forget):
                owner.versions.pop(message.version, None)
        finally:
            close_all(descriptors)
        return Done()

    async def _open(self, owner: _Owner, message: Open, descriptors: list[int]) -> None:
        mapping, name = Mapping(), message.version
        try:
            with or_refused(name, self._options):
                arrays = mapping.take(message.view, descriptors)
                golden = Mapping().take(message.golden, descriptors)
                scorer = await self._scorer(name, golden)
                rows = self._rows(owner, scorer, message, arrays, mapping)
                version = MappedVersion(name, scorer, rows)
                await asyncio.get_running_loop().run_in_executor(self._opening, warm_up, version)
        except (RequestError, ScoringError) as error:
            # One that cannot open what is on trial only takes no part in that.
            if not self.is_serving and not owner.versions and not self._started.done():
                self._started.set_exception(NoVersionError(f"version {name} cannot be served by a worker: {error}"))
            raise
        owner.versions[name] = version

    async def _scorer(self, name: str, golden: Sequence[NDArray[Any]]) -> Scorer:
        """Open a version, or take the scorer that is open: a new owner shows what the one before showed."""
        if self._lineup is not None and (known := self._lineup.named(name)) is not None:
            return known.scorer
        return await asyncio.get_running_loop().run_in_executor(self._opening, self._verified, name, golden)

    def _verified(self, name: str, golden: Sequence[NDArray[Any]]) -> Scorer:
        bundle = read_version(name, self._options)
        scorer = open_scorer(bundle, self._options, encodes=False)
        scorer.verify(Tables.of_arrays(bundle.manifest.tables, golden))
        return scorer

    def _rows(
        self, owner: _Owner, scorer: Scorer, message: Open, arrays: Sequence[NDArray[Any]], mapping: Mapping
    ) -> MappedRows:
        loop, channel = asyncio.get_running_loop(), owner.channel

        def released(number: int) -> None:
            # From a scoring thread, which may outlive the loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(channel.tell, Released(message.version, number))

        specs, history_length = scorer.bundle.manifest.tables, scorer.features.history_length
        return MappedRows(specs, history_length, message.number, arrays, mapping, self._board, released)

    def _serve(self, owner: _Owner, message: Serve) -> None:
        version, trial = owner.versions[message.version], message.trial
        self._lineup = Lineup(version, trial, owner.versions[trial.version] if trial else None)
        self._metrics.serve(self._lineup)
        _log.info("version serves", version=version.name, num_items=len(version.rows), trial=trial)
        if not self._started.done():
            self._started.set_result(None)
