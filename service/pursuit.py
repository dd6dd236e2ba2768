"""Serves, in this replica, whatever all replicas are told to serve, as far as that is possible here."""

import time
from dataclasses import dataclass

from scoring.errors import ScoringError
from service.active import ActiveVersion, Told
from service.errors import RequestError
from service.swapper import Swapper
from service.version import LoadedVersion

_TRY_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why a version cannot serve here, and from when on it is tried again."""

    reason: str
    try_again_s: float


class Pursuit:
    """Follows the active version and the trial. Errors of Redis pass through.

    Attributes
    ----------
    told
        What was told last.
    passed_over
        Why a newer version than the one that serves was not taken at start.
    """

    def __init__(self, swapper: Swapper, active: ActiveVersion) -> None:
        self._swapper, self._active = swapper, active
        self._problems: dict[str, _Problem] = {}
        self.told = Told()
        self.passed_over: str | None = None

    @property
    def problem(self) -> str | None:
        """Why something else serves here than should, or None."""
        return next((problem.reason for problem in self._problems.values()), self.passed_over)

    def note_problem(self, name: str, reason: str) -> None:
        """Note why a version that should serve does not; it is tried again."""
        self._problems[name] = _Problem(reason, time.monotonic() + _TRY_AGAIN_S)

    def note_done(self, told: Told) -> None:
        """Note what was told through this replica, which does it already."""
        self.told = told
        if told.trial is None:
            self._problems.clear()
            self.passed_over = None
        else:
            self._problems.pop(told.trial.version, None)

    async def once(self) -> None:
        """Look at what is told, and do it."""
        told, before = await self._active.read(), self._swapper.lineup.serving
        if told.active is None:
            # Redis lost the key: what serves stays active, for replicas that start later too.
            await self._active.restore(before.name, self.told)
            return
        self.told = told
        trial = told.trial if told.trial and told.trial.version != told.active else None
        wanted = {told.active, *([trial.version] if trial else [])}
        self._problems = {name: problem for name, problem in self._problems.items() if name in wanted}
        serving = await self._ready(told.active) or before
        candidate = await self._ready(trial.version) if trial else None
        await self._swapper.exchange(serving, trial if candidate else None, candidate)
        await self._swapper.drop_unused()
        if serving is not before:
            self.passed_over = None

    async def _ready(self, name: str) -> LoadedVersion | None:
        """Return a version, ready everywhere; None where it cannot be, which is tried again later."""
        problem = self._problems.get(name)
        if problem is not None and not self._swapper.has(name) and time.monotonic() < problem.try_again_s:
            return None
        try:
            version = await self._swapper.load(name)
            await self._swapper.prepare(version)
        except (RequestError, ScoringError) as error:
            self._problems[name] = _Problem(str(error), time.monotonic() + _TRY_AGAIN_S)
            return None
        self._problems.pop(name, None)
        return version
