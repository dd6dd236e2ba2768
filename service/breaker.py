"""A circuit breaker: what keeps failing is not waited for, until a probe in the background finds it well again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.exceptions import ClusterDownError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from service.timed import REDIS_ERRORS

_FAILURES = 5
_FIRST_PROBE_S = 0.05
_LONGEST_PAUSE_S = 1.0

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class OpenError(RedisConnectionError):
    """Redis did not answer lately and was not asked; one of `REDIS_ERRORS`."""


class Breaker:
    """Guards reads of Redis.

    After some failures in a row it is open: calls fail at once, and the last call that failed is repeated alone, in
    the background, at growing intervals; when that succeeds in time the breaker is closed. Errors with which Redis
    says that it is well, such as a value of the wrong type, are no failures.

    Parameters
    ----------
    what
        What is read, for the log.
    timeout_s
        How long a call may take.
    """

    def __init__(self, what: str, timeout_s: float) -> None:
        self._what, self._timeout_s = what, timeout_s
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls fail at once."""
        return self._probing is not None

    async def call(self, read: Callable[[], Awaitable[T]]) -> T:
        """Return what a read gives. It may be repeated later, to see whether Redis is well.

        Raises
        ------
        OpenError
            The breaker is open.
        RedisError, OSError
            The read failed, or took too long.
        """
        if self._probing is not None:
            raise OpenError(f"{self._what}: Redis did not answer lately")
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await read()
        except REDIS_ERRORS as error:
            self._note(error, read)
            raise
        self._failures = 0
        return answer

    async def aclose(self) -> None:
        """End the probes."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])

    def _note(self, error: Exception, read: Callable[[], Awaitable[object]]) -> None:
        if _is_well(error):
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= _FAILURES and self._probing is None:
            _log.warning("Redis does not answer and is not waited for", reads=self._what, error=repr(error))
            self._probing = asyncio.create_task(self._probe(read))

    async def _probe(self, read: Callable[[], Awaitable[object]]) -> None:
        pause_s = _FIRST_PROBE_S
        try:
            while not await self._succeeds(read, pause_s):
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            _log.info("Redis answers again", reads=self._what)
        finally:
            self._failures, self._probing = 0, None

    async def _succeeds(self, read: Callable[[], Awaitable[object]], pause_s: float) -> bool:
        await asyncio.sleep(pause_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                await read()
        except REDIS_ERRORS as error:
            return _is_well(error)
        return True


def _is_well(error: Exception) -> bool:
    """Whether an error is an answer of a Redis that works."""
    return isinstance(error, ResponseError) and not isinstance(error, ClusterDownError)
