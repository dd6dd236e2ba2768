"""What every replica of a model is told to serve: a hash in Redis that all of them follow."""

from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

from contract.codec import shadow_key, versions_key
from contract.names import is_name
from service.lineup import Trial

_FIELDS = ("active", "previous", "trial", "trial_canary", "trial_shadow", "trial_id")

_END = """
redis.call('HDEL', KEYS[1], 'trial', 'trial_canary', 'trial_shadow', 'trial_id')
redis.call('DEL', KEYS[2])
"""

_SET_TRIAL = """
redis.call('HSET', KEYS[1], 'trial', ARGV[1], 'trial_canary', ARGV[2], 'trial_shadow', ARGV[3], 'trial_id', ARGV[4])
"""

_ACTIVATE = f"""
local active = redis.call('HGET', KEYS[1], 'active') or ARGV[2]
if active ~= ARGV[1] then redis.call('HSET', KEYS[1], 'active', ARGV[1], 'previous', active) end
{_END}
"""

_ROLL_BACK = """
if redis.call('HGET', KEYS[1], 'active') ~= ARGV[1] or redis.call('HGET', KEYS[1], 'trial') then return 0 end
redis.call('HSET', KEYS[1], 'active', ARGV[2], 'previous', ARGV[1])
return 1
"""

_BEGIN = f"""
local tried = redis.call('HGET', KEYS[1], 'trial')
if tried and tried ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[1], 'active') == ARGV[1] then return 0 end
if redis.call('HGET', KEYS[1], 'trial_id') ~= ARGV[4] then redis.call('DEL', KEYS[2]) end
{_SET_TRIAL}
return 1
"""

_END_TRIAL = f"""
if redis.call('HGET', KEYS[1], 'trial_id') ~= ARGV[1] then return 0 end
{_END}
return 1
"""

_RESTORE = f"""
if redis.call('HSETNX', KEYS[1], 'active', ARGV[5]) == 0 then return 0 end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'previous', ARGV[6]) end
if ARGV[1] ~= '' then {_SET_TRIAL} end
return 1
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What the hash says; None where it says nothing, or what cannot be a version."""

    active: str | None = None
    previous: str | None = None
    trial: Trial | None = None


@dataclass(frozen=True, slots=True)
class ActiveVersion:
    """Reads and writes the hash. Errors of Redis pass through; what is written is written by one command."""

    redis: Redis
    model: str

    async def read(self) -> Told:
        """Return what should be served and tried."""
        values = await self.redis.hmget(versions_key(self.model), list(_FIELDS))
        active, previous, version, canary, shadow, trial_id = (cast("bytes | None", value) for value in values)
        trial = _trial(_name(version), _text(canary), _text(shadow), _name(trial_id))
        return Told(_name(active), _name(previous), trial)

    async def propose(self, version: str) -> None:
        """Make a version active if none is."""
        await self.redis.hsetnx(versions_key(self.model), "active", version)

    async def restore(self, version: str, told: Told) -> None:
        """Say again what was told, with `version` as the active one, if Redis lost that."""
        await self._run(_RESTORE, *_arguments(told.trial), version, told.previous or "")

    async def write(self, version: str, before: str) -> None:
        """Make a version active; the one that was, or else `before`, becomes the previous one. A trial is over."""
        await self._run(_ACTIVATE, version, before)

    async def roll_back(self, active: str, previous: str) -> bool:
        """Make the version before active; False where `active` is so no more, or something is on trial."""
        return bool(await self._run(_ROLL_BACK, active, previous))

    async def begin(self, trial: Trial) -> bool:
        """Put a version on trial, or change how; False where another one is, or where this one is active already."""
        return bool(await self._run(_BEGIN, *_arguments(trial)))

    async def end(self, trial: Trial) -> bool:
        """End a trial; False where it is over already."""
        return bool(await self._run(_END_TRIAL, trial.id))

    async def _run(self, script: str, *arguments: str) -> object:
        return await self.redis.eval(script, 2, versions_key(self.model), shadow_key(self.model), *arguments)


def _arguments(trial: Trial | None) -> tuple[str, str, str, str]:
    if trial is None:
        return "", "", "", ""
    return trial.version, repr(trial.canary), str(int(trial.shadow)), trial.id


def _trial(version: str | None, canary: str | None, shadow: str | None, trial_id: str | None) -> Trial | None:
    try:
        share = float(canary or 0)
    except ValueError:
        return None
    if version is None or not 0 <= share < 1:
        return None
    return Trial(version, share, shadow == "1", trial_id or "")


def _name(value: bytes | None) -> str | None:
    """Return the name of a version or a trial; whatever cannot be one counts as none at all."""
    name = _text(value)
    return name if name is not None and is_name(name) else None


def _text(value: bytes | None) -> str | None:
    try:
        return value.decode() if value else None
    except UnicodeDecodeError:
        return None
