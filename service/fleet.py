"""What every replica of a model says of itself: a hash in Redis, a field a replica, forgotten when it grows old."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
import structlog
from redis.asyncio import Redis

from contract.codec import clock_key, replicas_key
from contract.wire import ReplicaInfo
from service.identity import Identity
from service.registry import Registry
from service.timed import REDIS_ERRORS

_LOOK_S = 0.1
_SAY_AGAIN_S = 2.0
_FORGET_MS = 15_000

# The time by Redis' clock: a stream numbers its entries by it and, unlike TIME, is allowed already.
_NOW = "local now_ms = string.match(redis.call('XADD', KEYS[2], 'MAXLEN', 1, '*', 't', ''), '^%d+')"

_WRITE = f"""
{_NOW}
redis.call('HSET', KEYS[1], ARGV[1], now_ms .. ' ' .. ARGV[2])
"""

_READ = f"""
{_NOW}
local cursor, found = '0', {{}}
repeat
  local page = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', 100)
  cursor = page[1]
  for i = 1, #page[2], 2 do
    local said_ms, said = string.match(page[2][i + 1], '^(%d+) (.*)$')
    local age_ms = said_ms and math.max(0, tonumber(now_ms) - tonumber(said_ms))
    if age_ms and age_ms < tonumber(ARGV[1]) then
      found[#found + 1] = string.format('%d', age_ms)
      found[#found + 1] = said
    else
      redis.call('HDEL', KEYS[1], page[2][i])
    end
  end
until cursor == '0'
return found
"""

_log = structlog.get_logger(__name__)


class Fleet:
    """Reads what all say, and says what this replica does. Ages are by Redis' clock, which all share."""

    def __init__(self, redis: Redis, model: str) -> None:
        self._redis, self._keys = redis, (replicas_key(model), clock_key(model))

    async def read(self) -> list[ReplicaInfo]:
        """Return what each replica last said, by name; errors of Redis pass through."""
        answer: list[bytes] = await self._redis.eval(_READ, 2, *self._keys, str(_FORGET_MS))
        replicas: dict[str, ReplicaInfo] = {}
        for age_ms, said in zip(answer[::2], answer[1::2], strict=True):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                replica = msgspec.json.decode(said, type=ReplicaInfo)
                replicas[replica.id] = msgspec.structs.replace(replica, age_s=int(age_ms) / 1000)
        return [replicas[name] for name in sorted(replicas)]

    async def keep_reporting(self, look: Callable[[], ReplicaInfo]) -> None:
        """Say what `look` gives, as soon as it changes and every two seconds, until cancelled; then take it back."""
        said, said_s = None, 0.0
        report = look()
        try:
            while True:
                if report != said or time.monotonic() - said_s > _SAY_AGAIN_S:
                    try:
                        await self._redis.eval(_WRITE, 2, *self._keys, report.id, msgspec.json.encode(report))
                        said, said_s = report, time.monotonic()
                    except REDIS_ERRORS as error:
                        _log.debug("this replica could not report", error=repr(error))
                await asyncio.sleep(_LOOK_S)
                report = look()
        finally:
            with contextlib.suppress(*REDIS_ERRORS):
                await self._redis.hdel(self._keys[0], report.id)


def report_of(identity: Identity, registry: Registry) -> ReplicaInfo:
    """Return what a replica says of itself."""
    lineup, problem = registry.lineup, registry.problem
    return ReplicaInfo(
        id=identity.name,
        started=identity.started.isoformat(timespec="seconds"),
        version=lineup.serving.name,
        trial=lineup.trial.version if lineup.trial else None,
        state="loading" if registry.loading else "failed" if problem else "serving",
        problem=problem,
    )
