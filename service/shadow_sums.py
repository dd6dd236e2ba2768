"""What all processes saw of a trial in the shadow: each keeps its own sums in Redis, whoever asks adds them up."""

import asyncio
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis

from contract.codec import shadow_key, versions_key
from contract.wire import ShadowReport
from service.comparison import Comparison
from service.identity import Identity
from service.shadow import Shadow
from service.timed import REDIS_ERRORS

_EVERY_S = 1.0
_READ_AT_ONCE = 100

_WRITE = """
if redis.call('HGET', KEYS[1], 'trial_id') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
"""

_log = structlog.get_logger(__name__)
_decode = msgspec.msgpack.Decoder(Comparison).decode


class ShadowSums:
    """Writes and reads them. They go with their trial: who writes them after its end writes nothing."""

    def __init__(self, redis: Redis, model: str) -> None:
        self._redis, self._model = redis, model

    async def keep_writing(self, shadow: Shadow) -> None:
        """Write what this process sees, every second, until cancelled. A total that is written twice counts once."""
        name, before = Identity().name, None
        while True:
            await asyncio.sleep(_EVERY_S)
            sums = shadow.sums()
            if sums is None or sums == before:
                continue
            trial, content = sums
            try:
                await self._redis.eval(
                    _WRITE, 2, versions_key(self._model), shadow_key(self._model), trial.id, name, content
                )
                before = sums
            except REDIS_ERRORS as error:
                _log.debug("sums of the shadow are not written", error=repr(error))

    async def report(self) -> ShadowReport:
        """Return what was seen everywhere; errors of Redis pass through."""
        parts: list[Comparison] = []
        cursor = 0
        fields: Any
        while True:
            cursor, fields = await self._redis.hscan(shadow_key(self._model), cursor, count=_READ_AT_ONCE)
            parts += [part for value in fields.values() if (part := _part(value))]
            if not cursor:
                return Comparison.sum(parts).report()


def _part(value: bytes) -> Comparison | None:
    """Unpack sums; None where they are none, or those of another release."""
    try:
        part = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return part if len(part.serving_counts) == len(part.trial_counts) == len(Comparison().serving_counts) else None
