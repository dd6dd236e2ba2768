"""Connections to Redis: opened with time-outs, checked at start, their errors told apart from ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.errors import RedisAbsentError, SettingsError, UnavailableError

REDIS_ERRORS = (RedisError, OSError)
"""What a command raises when Redis is away, slow or unwilling; time-outs of asyncio are OSErrors."""


def connect(url: str, timeout_s: float, num_connections: int = 1000) -> Redis:
    """Return a client that connects at its first command.

    No command is ever repeated by the client itself: an append that is sent twice is an append done twice.

    Parameters
    ----------
    url
        `redis://`, `rediss://` (TLS) or `unix://`.
    timeout_s
        How long one reply may take.
    num_connections
        The most connections at a time.

    Raises
    ------
    SettingsError
        The URL is not one of Redis.
    """
    try:
        return Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(timeout_s, 2),
            retry=Retry(NoBackoff(), 0),
            max_connections=num_connections,
        )
    except ValueError as error:
        raise SettingsError(f"setting redis_url: {error}") from None


async def check(redis: Redis, url: str) -> None:
    """Raise RedisAbsentError unless Redis answers."""
    try:
        await redis.get("qin")
    except REDIS_ERRORS as error:
        raise RedisAbsentError(f"Redis at {without_secrets(url)} does not answer: {error}") from error


def without_secrets(url: str) -> str:
    """Return the URL without user name, password and options, fit for logs."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def or_unavailable(what: str) -> Iterator[None]:
    """Turn errors of Redis into UnavailableError: `what` could not be done."""
    try:
        yield
    except REDIS_ERRORS as error:
        raise UnavailableError(f"{what}: Redis does not answer ({type(error).__name__})") from error
