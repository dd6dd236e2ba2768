"""A few recent requests, kept in Redis, by which a new version is compared with the one that serves."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray
from redis.asyncio import Redis

from contract.codec import recent_key
from service.observers import Served
from service.timed import REDIS_ERRORS

_EVERY_S = 1.0
_MOST_CANDIDATES = 256
_LEVEL = np.dtype(np.int8)
_ID = np.dtype("<i8")

Choose = Callable[[Sequence[int]], Sequence[int]]
"""Given how many candidates each request has, newest first, returns the positions of those that are wanted."""

_log = structlog.get_logger(__name__)


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """A request on its way to Redis and back: a user, little-endian int64 ids, levels as bytes."""

    user_id: int
    candidates: bytes
    history: bytes
    levels: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


@dataclass(frozen=True, slots=True, eq=False)
class RecentRequest:
    """What one user was ranked with."""

    user_id: int
    candidates: NDArray[np.int64]  # (N,)
    history: NDArray[np.int64]  # (k,)
    levels: NDArray[np.int64]  # (N, 2)


class RecentRequests:
    """Writes about one request a second and process, and reads what all processes wrote.

    Parameters
    ----------
    redis, model
        Where they are kept.
    most
        How many are kept; 0: none is written.
    """

    def __init__(self, redis: Redis, model: str, most: int) -> None:
        self._redis, self._key, self._most = redis, recent_key(model), most
        self._next_s = time.monotonic()
        self._writing: asyncio.Task[None] | None = None

    def note(self, served: Served) -> None:
        """Keep a request if it is time for another one; takes a microsecond otherwise."""
        now_s = time.monotonic()
        if now_s < self._next_s or not self._most or not served.rankings:
            return
        self._next_s = now_s + _EVERY_S
        if self._writing is None or self._writing.done():
            ranking = served.rankings[0]
            query = ranking.query
            request = RecentRequest(query.user_id, query.candidates, ranking.history, ranking.levels)
            self._writing = asyncio.create_task(self._write(request), name="recent requests")

    async def read(self, choose: Choose | None = None) -> list[RecentRequest]:
        """Return what is kept, or what is chosen of it, newest first; errors of Redis pass through."""
        if not self._most:
            return []
        entries: Any = await self._redis.xrevrange(self._key, count=self._most)
        values = [fields.get(b"r", b"") for _, fields in entries]
        return await asyncio.to_thread(_chosen, values, choose or _all)

    async def aclose(self) -> None:
        """End what is being written."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])

    async def _write(self, request: RecentRequest) -> None:
        try:
            await self._redis.xadd(self._key, {"r": _stored(request)}, maxlen=self._most, approximate=False)
        except REDIS_ERRORS as error:
            _log.debug("a recent request is not kept", error=repr(error))


def thinned(request: RecentRequest, most: int) -> RecentRequest:
    """Return a request with at most so many of its candidates, evenly chosen."""
    step = -(-len(request.candidates) // most)
    return replace(request, candidates=request.candidates[::step], levels=request.levels[::step])


def _all(lengths: Sequence[int]) -> Sequence[int]:
    return range(len(lengths))


def _chosen(values: Sequence[bytes], choose: Choose) -> list[RecentRequest]:
    """Unpack those that are chosen: arrays cost more than to see how long each is."""
    stored = [each for value in values if (each := _decoded(value))]
    chosen = choose([len(each.candidates) // _ID.itemsize for each in stored])
    return [_restored(stored[position]) for position in chosen]


def _decoded(value: bytes) -> _Stored | None:
    """Return a request; None where it is none that can be scored, so that what another release wrote stops nobody."""
    try:
        stored = _decode(value)
    except msgspec.DecodeError:
        return None
    num_candidates, rest = divmod(len(stored.candidates), _ID.itemsize)
    fits = 0 < num_candidates <= _MOST_CANDIDATES and not rest and not len(stored.history) % _ID.itemsize
    # Levels are bytes below 128.
    return stored if fits and len(stored.levels) == 2 * num_candidates and stored.levels.isascii() else None


def _stored(request: RecentRequest) -> bytes:
    """Pack a request; of one with very many candidates some are left out."""
    kept = thinned(request, _MOST_CANDIDATES)
    stored = _Stored(
        kept.user_id,
        kept.candidates.astype(_ID).tobytes(),
        kept.history.astype(_ID).tobytes(),
        kept.levels.astype(_LEVEL).tobytes(),
    )
    return _encode(stored)


def _restored(stored: _Stored) -> RecentRequest:
    candidates, history = (np.frombuffer(ids, _ID).astype(np.int64) for ids in (stored.candidates, stored.history))
    levels = np.frombuffer(stored.levels, _LEVEL).astype(np.int64).reshape(len(candidates), 2)
    return RecentRequest(stored.user_id, candidates, history, levels)
