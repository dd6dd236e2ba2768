"""A client of one Redis server whose every command ends within a time and is sent once."""

import asyncio
import ssl
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.errors import SettingsError

T = TypeVar("T")

REDIS_ERRORS = (RedisError, OSError)
"""What a command raises when Redis is away, slow or unwilling; time-outs of asyncio are OSErrors."""


class TimedRedis(Redis):
    """A client whose every command ends within a time, by TimeoutError at the latest.

    Redis-py's own `socket_timeout` is not used: it waits with `asyncio.wait_for`, which before Python 3.12 can
    swallow a cancellation, and with it the end of a task or of a shorter time limit. A connection whose answer was
    not waited for is closed by redis-py: what comes late is never read as the answer to something else.
    """

    timeout_s: float

    @classmethod
    def over(cls, pool: "Pool", timeout_s: float) -> "TimedRedis":
        """Return a client that owns a pool."""
        redis = cls.from_pool(pool)
        assert isinstance(redis, TimedRedis)
        redis.timeout_s = timeout_s
        return redis

    def place_of(self, key: str) -> str:  # noqa: ARG002
        """Return the name of what holds a key: keys of one place are there, or away, together."""
        return ""

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


class Pool(ConnectionPool):
    """Connections, so many at most: who finds all in use waits for one.

    Whoever is cut off while a connection is being made loses only the wait: it is finished and kept. Otherwise a
    rank, which waits for milliseconds, could never open one whose handshakes take longer, nor could the next.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._slots = asyncio.Semaphore(self.max_connections)
        self._connecting: set[asyncio.Task[None]] = set()
        self._first: SSLConnection | None = None

    async def get_connection(self, *_names: Any, **_options: Any) -> AbstractConnection:
        """Return a connection that is ready."""
        await self._slots.acquire()
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        if connection.is_connected and not await _is_stale(connection):
            return connection
        connecting = asyncio.create_task(self._connect(connection))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connected)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(lambda _: self._give_back(connection))
            raise
        except BaseException:
            self._give_back(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back."""
        self._give_back(connection)

    def make_connection(self) -> AbstractConnection:
        """Make a connection; all share what was read of certificates."""
        connection: AbstractConnection = super().make_connection()  # type: ignore[no-untyped-call]
        if isinstance(connection, SSLConnection):
            self._first = self._first or connection
            connection.ssl_context = self._first.ssl_context
        return connection

    def read_certificates(self) -> None:
        """Read the certificates now rather than with the first connection.

        Raises
        ------
        SettingsError
            They cannot be read.
        """
        connection = self.make_connection()
        if isinstance(connection, SSLConnection):
            try:
                connection.ssl_context.get()
            except (OSError, ssl.SSLError, RedisError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
                raise SettingsError(f"setting redis_url: its certificates or keys cannot be read: {reason}") from None

    async def aclose(self) -> None:
        """Close every connection, even one that is being made."""
        for task in (connecting := list(self._connecting)):
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        await super().aclose()

    async def _connect(self, connection: AbstractConnection) -> None:
        # The limit of redis-py's own covers the first handshake only, not those of TLS, user and database.
        async with asyncio.timeout(connection.socket_connect_timeout):
            await connection.disconnect(nowait=True)
            await connection.connect()  # type: ignore[no-untyped-call]

    def _connected(self, connecting: "asyncio.Task[None]") -> None:
        self._connecting.discard(connecting)
        if not connecting.cancelled():
            # Looked at by nobody else where whoever wanted the connection does not wait any more.
            connecting.exception()

    def _give_back(self, connection: AbstractConnection) -> None:
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)
        self._slots.release()


def connection_options(timeout_s: float, num_connections: int) -> dict[str, Any]:
    """Return the options of every connection: nothing is repeated, nothing said that costs a round trip."""
    return {
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": num_connections,
        "driver_info": None,
    }


def connection_class(tls: bool) -> type[Connection]:
    """Return redis-py's class of connections over TCP."""
    return SSLConnection if tls else Connection


async def first_of(asked: Sequence[Coroutine[Any, Any, T]]) -> T | None:
    """Return the first answer that is not None, None if there is no such; whoever has not answered is cut off.

    Where all fail, the first error of Redis is raised.
    """
    tasks, errors = [asyncio.create_task(coroutine) for coroutine in asked], []
    try:
        for answer in asyncio.as_completed(tasks):
            try:
                if (found := await answer) is not None:
                    return found
            except REDIS_ERRORS as error:
                errors.append(error)
        if len(errors) == len(tasks):
            raise errors[0]
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _is_stale(connection: AbstractConnection) -> bool:
    """Whether the server has closed an idle connection, or says something that nobody asked for."""
    try:
        return bool(await connection.can_read())
    except REDIS_ERRORS:
        return True
