"""Which version of a model is active: a key in Redis that every replica follows."""

from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

from contract.codec import versions_key

_ACTIVATE = """
local active = redis.call('HGET', KEYS[1], 'active') or ARGV[2]
if active ~= ARGV[1] then redis.call('HSET', KEYS[1], 'active', ARGV[1], 'previous', active) end
"""


@dataclass(frozen=True, slots=True)
class ActiveVersion:
    """Reads and writes the key. Errors of Redis pass through."""

    redis: Redis
    model: str

    async def read(self) -> tuple[str | None, str | None]:
        """Return the active version and the one before it, None where there is none or it is no name."""
        values = await self.redis.hmget(versions_key(self.model), ["active", "previous"])
        active, previous = (cast("bytes | None", value) for value in values)
        return _decoded(active), _decoded(previous)

    async def propose(self, version: str) -> None:
        """Make a version active if none is."""
        await self.redis.hsetnx(versions_key(self.model), "active", version)

    async def write(self, version: str, before: str) -> None:
        """Make a version active; the one that was, or else `before`, becomes the previous one."""
        await self.redis.eval(_ACTIVATE, 1, versions_key(self.model), version, before)


def _decoded(version: bytes | None) -> str | None:
    """Return a version's name; whatever cannot be one counts as no name at all."""
    try:
        return version.decode() if version else None
    except UnicodeDecodeError:
        return None
