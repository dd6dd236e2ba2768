"""Which version serves: chosen at start, exchanged while requests run, the same in every replica."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from contract.bundle import StoreError
from contract.manifest import Manifest
from contract.store import Store, manifests
from contract.wire import GateResult
from service.active import ActiveVersion, Told
from service.connection import REDIS_ERRORS
from service.errors import NoVersionError, RequestError, UnavailableError
from service.gate import PromotionGate
from service.lineup import Lineup
from service.promoter import Promoter
from service.pursuit import Pursuit
from service.serving import State
from service.swapper import Swapper
from service.version import LoadedVersion

_log = structlog.get_logger(__name__)


class Registry:
    """Holds the versions that answer; everybody who ranks takes one from here, once per user.

    Parameters
    ----------
    store, model
        Where versions come from.
    swapper
        Loads and exchanges versions.
    active
        What all replicas are told.
    gate
        What a version must pass before it answers anybody; None: nothing.
    """

    def __init__(
        self,
        store: Store,
        model: str,
        swapper: Swapper,
        active: ActiveVersion,
        gate: PromotionGate | None = None,
    ) -> None:
        self._store, self._model = store, model
        self._swapper, self._active = swapper, active
        self._pursuit = Pursuit(swapper, active)
        self._promoter = Promoter(swapper, active, self._pursuit, gate)

    @property
    def lineup(self) -> Lineup[LoadedVersion]:
        """The loaded versions and who gets which."""
        return self._swapper.lineup

    @property
    def serving(self) -> LoadedVersion:
        """The version that answers whoever is in no trial."""
        return self._swapper.lineup.serving

    @property
    def is_serving(self) -> bool:
        """Whether a version has been loaded yet."""
        return self._swapper.is_serving

    @property
    def loading(self) -> str | None:
        """The version that is being made ready, if one is."""
        return self._swapper.loading

    @property
    def active(self) -> str | None:
        """What all replicas were last told to serve; None before that was read."""
        return self._pursuit.told.active

    @property
    def problem(self) -> str | None:
        """Why something else serves here than should, or None."""
        return self._pursuit.problem

    def choose(self, user_id: int) -> LoadedVersion:
        """Return the version that answers a user."""
        return self._swapper.lineup.choose(user_id)

    def named(self, name: str) -> LoadedVersion | None:
        """Return a loaded version by its name."""
        return self._swapper.lineup.named(name)

    def versions(self) -> list[Manifest]:
        """Return the manifests of all versions in the store, oldest first; raises UnavailableError."""
        return stored_versions(self._store, self._model)

    async def state(self) -> State:
        """Return what serves and what should; without Redis nothing is known of the latter."""
        told = Told()
        with contextlib.suppress(*REDIS_ERRORS):
            told = await self._active.read()
        return State(self.serving.name, told.active, told.previous, told.trial, self.problem)

    async def start(self) -> None:
        """Load the active version, or else the newest that can serve.

        Raises
        ------
        NoVersionError
            None can; the message says why.
        DeviceError
            The device is not the one that runs, or does nothing any more.
        """
        active = (await self._active.read()).active
        async for name in self._candidates(active):
            try:
                await self._swapper.start(name)
                break
            except RequestError as error:
                if name == active:
                    self._pursuit.note_problem(name, error.detail)
                else:
                    self._pursuit.passed_over = self._pursuit.passed_over or error.detail
                _log.warning("version cannot be served", version=name, reason=error.detail)
        else:
            empty = f"{self._store.location} holds no version of {self._model}"
            raise NoVersionError(f"nothing to serve: {self.problem or empty}")
        await self._active.propose(self.serving.name)
        # So that from the first answer on users of a trial are answered by the version that they have elsewhere.
        with contextlib.suppress(*REDIS_ERRORS):
            await self._pursuit.once()

    async def _candidates(self, active: str | None) -> AsyncIterator[str]:
        """Yield the active version, then the others, newest first; the store is listed only where that is needed."""
        if active:
            yield active
        try:
            names = await asyncio.to_thread(self._store.versions, self._model)
        except StoreError as error:
            self._pursuit.passed_over = str(error)
            return
        for name in reversed(names):
            if name != active:
                yield name

    async def promote(
        self, name: str, canary: float = 0.0, shadow: bool = False, force: bool = False
    ) -> GateResult | None:
        """Make a version the active one everywhere or, for a share of the users or in the shadow, put it on trial.

        It is loaded and checked here first. Returns what the gate found, None where it was not asked: a version that
        serves already, or that answers nobody, need not pass.

        Parameters
        ----------
        name
            The version.
        canary
            The share of users that it is to answer; 0: all, or with `shadow` none.
        shadow
            Only compare it.
        force
            Whatever the gate says.

        Raises
        ------
        RequestError
            It cannot serve or does not pass, another swap or trial is under way, or Redis is away; everything stays
            as it was.
        """
        return await self._promoter.promote(name, canary, shadow, force)

    async def rollback(self) -> None:
        """End the trial that is under way or, where none is, promote the version that was active before this one.

        Raises
        ------
        ConflictError
            There is none, or what was so when this was asked has changed meanwhile.
        RequestError
            See `promote`.
        """
        await self._promoter.rollback()

    async def follow(self, interval_s: float) -> None:
        """Serve whatever becomes active or is put on trial, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            if self._promoter.swapping.locked():
                continue
            try:
                async with self._promoter.swapping:
                    with contextlib.suppress(*REDIS_ERRORS):
                        await self._pursuit.once()
            except Exception:
                _log.exception("the active version could not be followed")

    async def close(self) -> None:
        """Stop keeping the loaded versions up to date."""
        await self._swapper.close()


def stored_versions(store: Store, model: str) -> list[Manifest]:
    """Return the manifests of a model's versions, oldest first, without unreadable ones; raises UnavailableError."""
    try:
        return manifests(store, model)
    except StoreError as error:
        raise UnavailableError(str(error)) from error
