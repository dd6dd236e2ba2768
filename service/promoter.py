"""Makes a version active, puts it on trial, or goes back: done here first, then told to all replicas."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

from contract.wire import GateResult
from scoring.errors import DeviceError
from service.active import ActiveVersion, Told
from service.connection import or_unavailable
from service.errors import ConflictError, UnavailableError
from service.gate import PromotionGate
from service.lineup import Trial
from service.pursuit import Pursuit
from service.swapper import Swapper
from service.version import LoadedVersion

_MEANWHILE = "another version became active or was put on trial meanwhile; look and try again"


class Promoter:
    """Changes what is told to all, one change at a time.

    Parameters
    ----------
    swapper, active, pursuit
        Of this replica.
    gate
        What a version must pass before it answers anybody; None: nothing.

    Attributes
    ----------
    swapping
        Held by whoever changes what serves here.
    """

    def __init__(self, swapper: Swapper, active: ActiveVersion, pursuit: Pursuit, gate: PromotionGate | None) -> None:
        self._swapper, self._active, self._pursuit, self._gate = swapper, active, pursuit, gate
        self.swapping = asyncio.Lock()

    async def promote(self, name: str, canary: float, shadow: bool, force: bool) -> GateResult | None:
        """Make a version active or put it on trial; see `service.registry.Registry.promote`."""
        async with self._one_swap():
            with or_unavailable("the active version is not known"):
                told = await self._active.read()
            trial = self._trial(told, name, canary, shadow) if canary or shadow else None
            async with self._ready(name) as version:
                passed = None if shadow else await self._passed(version, force)
                await self._swapper.prepare(version)
                await (self._begin(trial, version, told) if trial else self._activate(version))
            return passed

    async def rollback(self) -> None:
        """Undo what is told at this moment; see `service.registry.Registry.rollback`."""
        # Before whatever is under way: who asks has seen what was so until then.
        with or_unavailable("the previous version is not known"):
            told = await self._active.read()
        async with self._one_swap():
            if told.trial is not None:
                await self._end(told, told.trial)
            elif told.active is None or told.previous is None:
                raise ConflictError("no version was active before this one")
            else:
                await self._return(told.active, told.previous)

    async def _return(self, active: str, previous: str) -> None:
        async with self._ready(previous) as version:
            await self._swapper.prepare(version)
            with or_unavailable("the active version cannot be stored"):
                if not await self._active.roll_back(active, previous):
                    raise ConflictError(_MEANWHILE)
            await self._swapper.exchange(version)
            self._pursuit.note_done(Told(previous, active))

    @contextlib.asynccontextmanager
    async def _ready(self, name: str) -> AsyncIterator[LoadedVersion]:
        """Load a version; whatever answers nobody after the block is freed."""
        try:
            yield await self._swapper.load(name)
        finally:
            await self._swapper.drop_unused()

    def _trial(self, told: Told, name: str, canary: float, shadow: bool) -> Trial:
        """Return the trial to begin, or the one under way with another share; raises ConflictError."""
        if name in (told.active, self._swapper.lineup.serving.name):
            raise ConflictError(f"version {name} is active already, there is nothing to try", "version")
        before = told.trial
        if before is None:
            return Trial(name, canary, shadow, uuid.uuid4().hex)
        if before.version != name:
            raise ConflictError(f"version {before.version} is on trial: promote it or roll back first", "version")
        return Trial(name, canary, shadow, before.id if before.shadow == shadow else uuid.uuid4().hex)

    async def _passed(self, version: LoadedVersion, force: bool) -> GateResult | None:
        if self._gate is None or version is self._swapper.lineup.serving:
            return None
        return await self._gate.judge(version, self._swapper.lineup.serving, force)

    async def _activate(self, version: LoadedVersion) -> None:
        before = self._swapper.lineup.serving.name
        with or_unavailable("the active version cannot be stored"):
            await self._active.write(version.name, before)
        await self._swapper.exchange(version)
        self._pursuit.note_done(Told(version.name, before))

    async def _begin(self, trial: Trial, version: LoadedVersion, told: Told) -> None:
        with or_unavailable("the trial cannot be stored"):
            if not await self._active.begin(trial):
                raise ConflictError(_MEANWHILE)
        await self._swapper.exchange(self._swapper.lineup.serving, trial, version)
        self._pursuit.note_done(Told(told.active, told.previous, trial))

    async def _end(self, told: Told, trial: Trial) -> None:
        with or_unavailable("the end of the trial cannot be stored"):
            if not await self._active.end(trial):
                raise ConflictError(f"the trial of version {trial.version} is over already; look and try again")
        await self._swapper.exchange(self._swapper.lineup.serving)
        await self._swapper.drop_unused()
        self._pursuit.told = Told(told.active, told.previous)

    @contextlib.asynccontextmanager
    async def _one_swap(self) -> AsyncIterator[None]:
        # Whoever only looks up the active version holds the lock for a moment: that is worth waiting for.
        if self._swapper.loading:
            raise ConflictError("another version is being loaded; try again when it serves")
        async with self.swapping:
            try:
                yield
            except DeviceError as error:
                raise UnavailableError(f"the device that scores failed: {error}") from error
