"""Connections to Redis: opened with time-outs, checked at start, their errors told apart from ours."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.errors import RedisAbsentError, SettingsError, UnavailableError

REDIS_ERRORS = (RedisError, OSError)
"""What a command raises when Redis is away, slow or unwilling; time-outs of asyncio are OSErrors."""


class TimedRedis(Redis):
    """A client whose every command ends within a time, by TimeoutError at the latest.

    Redis-py's own `socket_timeout` is not used: it waits with `asyncio.wait_for`, which before Python 3.12 can
    swallow a cancellation, and with it the end of a task or of a shorter time limit.
    """

    timeout_s: float

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command."""
        async with asyncio.timeout(self.timeout_s):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> "TimedPipeline":
        """Return a pipeline, by default not a transaction."""
        pipeline = TimedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.timeout_s = self.timeout_s
        return pipeline


class TimedPipeline(Pipeline):
    """Commands that travel together and end within a time."""

    timeout_s: float

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the commands."""
        async with asyncio.timeout(self.timeout_s):
            return await super().execute(raise_on_error)


def connect(url: str, timeout_s: float, num_connections: int = 1000) -> TimedRedis:
    """Return a client that connects at its first command.

    No command is ever repeated by the client itself: an append that is sent twice is an append done twice.

    Parameters
    ----------
    url
        `redis://`, `rediss://` (TLS) or `unix://`.
    timeout_s
        How long one command may take, connecting included.
    num_connections
        The most connections at a time.

    Raises
    ------
    SettingsError
        The URL is not one of Redis.
    """
    try:
        redis = TimedRedis.from_url(
            url,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=num_connections,
        )
    except ValueError:
        # Not with the error's own words: they quote the URL, and with it parts of the password.
        raise SettingsError(
            "setting redis_url: not a URL of Redis, such as redis://host:6379/0, rediss://... or unix:///path"
        ) from None
    assert isinstance(redis, TimedRedis)
    redis.timeout_s = timeout_s
    return redis


async def check(redis: Redis, url: str) -> None:
    """Raise RedisAbsentError unless Redis answers."""
    try:
        await redis.get("qin")
    except REDIS_ERRORS as error:
        raise RedisAbsentError(
            f"Redis at {without_secrets(url)} does not answer: {error or type(error).__name__}"
        ) from error


def without_secrets(url: str) -> str:
    """Return the URL without user name, password and options, fit for logs.

    Of one with a stray `@`, whose password may reach anywhere, only the scheme is left.
    """
    parts = urlsplit(url)
    if "@" in parts.path + parts.query + parts.fragment:
        return f"{parts.scheme}://..."
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def or_unavailable(what: str) -> Iterator[None]:
    """Turn errors of Redis into UnavailableError: `what` could not be done."""
    try:
        yield
    except REDIS_ERRORS as error:
        raise UnavailableError(f"{what}: Redis does not answer ({type(error).__name__})") from error
