"""Users' histories in Redis: packed, appended to and trimmed by a script, read with one command."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from contract.codec import history_key, pack_history, retry_key
from service.errors import InvalidError
from service.timed import TimedRedis

_RETRY_S = 86_400

_APPEND = """
if KEYS[2] and not redis.call('SET', KEYS[2], ARGV[3], 'NX', 'EX', ARGV[4]) then
  return redis.pcall('GET', KEYS[2]) == ARGV[3] and 0 or -1
end
local history = redis.pcall('GET', KEYS[1])
if type(history) ~= 'string' or #history % 8 ~= 0 then history = '' end
redis.call('SET', KEYS[1], string.sub(history .. ARGV[1], -tonumber(ARGV[2])))
return 1
"""
"""Append ids and keep the last; a marker makes a repeated append do nothing, or -1 if it appends something else.

Marker and history are written in one step and lie in one slot: wherever one got to, there is the other. A key that
holds no history, of whatever type, is written over.
"""

UNREADABLE = b"?"
"""Stands for a stored value that is no history."""


@dataclass(frozen=True, slots=True)
class Histories:
    """Reads and writes histories. Errors of Redis pass through.

    Parameters
    ----------
    redis
        The client.
    length
        How many of a user's last items are kept.
    """

    redis: Redis
    length: int

    def place_of(self, user_id: int) -> str:
        """Return the name of what holds a user's history: see `TimedRedis.place_of`."""
        return self.redis.place_of(history_key(user_id)) if isinstance(self.redis, TimedRedis) else ""

    async def read(self, user_ids: Sequence[int]) -> list[bytes]:
        """Return each user's packed history: empty where there is none, `UNREADABLE` where a key holds no string."""
        if len(user_ids) == 1:
            return [await self._read(user_ids[0])]
        pipeline = self.redis.pipeline()
        for user_id in user_ids:
            pipeline.get(history_key(user_id))
        return [_readable(value) for value in await pipeline.execute(raise_on_error=False)]

    async def _read(self, user_id: int) -> bytes:
        try:
            return cast("bytes | None", await self.redis.get(history_key(user_id))) or b""
        except ResponseError as error:
            return _readable(error)

    async def append(self, user_id: int, item_ids: Sequence[int], idempotency_key: str | None = None) -> None:
        """Append items, oldest first; with an idempotency key a repetition within a day does nothing.

        Raises
        ------
        InvalidError
            The idempotency key was used with other items.
        """
        if not item_ids:
            return
        keys, packed = [history_key(user_id)], pack_history(item_ids[-self.length :])
        arguments: list[bytes | int] = [packed, 8 * self.length]
        if idempotency_key is not None:
            keys.append(retry_key(user_id, idempotency_key))
            arguments += [hashlib.sha256(pack_history(item_ids)).digest(), _RETRY_S]
        outcome = await self.redis.eval(_APPEND, len(keys), *keys, *arguments)
        if outcome == -1:
            raise InvalidError("the key was used with other items", "Idempotency-Key")

    async def replace(self, user_id: int, item_ids: Sequence[int]) -> None:
        """Store a whole history, oldest first; the last `length` items are kept."""
        await self.redis.set(history_key(user_id), pack_history(item_ids[-self.length :]))

    async def delete(self, user_id: int) -> None:
        """Forget a user's history."""
        await self.redis.delete(history_key(user_id))

    async def replace_many(self, histories: Sequence[tuple[int, bytes]]) -> None:
        """Store many packed histories in one round trip."""
        pipeline = self.redis.pipeline()
        for user_id, packed in histories:
            pipeline.set(history_key(user_id), packed[-8 * self.length :])
        await pipeline.execute()


def _readable(value: bytes | Exception | None) -> bytes:
    """Return a stored value; of errors only the one that it is of another type is about that value alone."""
    if not isinstance(value, Exception):
        return value or b""
    if isinstance(value, ResponseError) and str(value).startswith("WRONGTYPE"):
        return UNREADABLE
    raise value
