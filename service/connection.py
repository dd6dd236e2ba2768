"""Connections to Redis by URL, and their errors told apart from ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import UnixDomainSocketConnection

from service import sentinel
from service.address import parse, without_secrets
from service.cluster import ClusterRedis
from service.errors import UnavailableError
from service.start_check import check
from service.timed import REDIS_ERRORS, Pool, TimedRedis, connection_class, connection_options

__all__ = ["REDIS_ERRORS", "check", "connect", "or_unavailable", "without_secrets"]


def connect(url: str, timeout_s: float, num_connections: int = 100) -> TimedRedis:
    """Return a client that connects at its first command.

    No command is ever repeated by the client itself: an append that is sent twice is an append done twice.

    Parameters
    ----------
    url
        `redis://`, `rediss://` (TLS), `unix://`, or with `+sentinel` or `+cluster`: see `service.address`.
    timeout_s
        How long one command may take, connecting included.
    num_connections
        The most connections at a time, to each node of a Cluster; a command that finds all in use waits.

    Raises
    ------
    SettingsError
        The URL is not one of Redis, or names certificates that cannot be read.
    """
    address = parse(url)
    if address.topology == "cluster":
        redis: TimedRedis = ClusterRedis(address, timeout_s, num_connections)
    elif address.topology == "sentinel":
        redis = sentinel.connect(address, timeout_s, num_connections)
    else:
        options = connection_options(timeout_s, num_connections) | address.options
        if address.path:
            pool = Pool(connection_class=UnixDomainSocketConnection, path=address.path, **options)
        else:
            host, port = address.hosts[0]
            pool = Pool(connection_class=connection_class(address.tls), host=host, port=port, **options)
        redis = TimedRedis.over(pool, timeout_s)
    if isinstance(redis.connection_pool, Pool):
        redis.connection_pool.read_certificates()
    return redis


@contextmanager
def or_unavailable(what: str) -> Iterator[None]:
    """Turn errors of Redis into UnavailableError: `what` could not be done."""
    try:
        yield
    except REDIS_ERRORS as error:
        raise UnavailableError(f"{what}: Redis does not answer ({type(error).__name__})") from error
