"""The primary that Sentinels name: asked for with every new connection, so that a failover is followed unaided."""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from service.address import Address
from service.timed import Pool, TimedRedis, connection_class, connection_options, first_of

_ASKING_S = 1.0
_CONNECTIONS_TO_SENTINEL = 4


class Sentinels(Sentinel):
    """Sentinels that are asked all at once: one that hangs costs nothing."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        super().__init__([])  # type: ignore[no-untyped-call]
        asking_s = min(timeout_s / 2, _ASKING_S)
        options = connection_options(asking_s, _CONNECTIONS_TO_SENTINEL) | address.sentinel_options
        self.sentinels = [
            TimedRedis.over(
                Pool(connection_class=connection_class(address.tls), host=host, port=port, **options), asking_s
            )
            for host, port in address.hosts
        ]
        self._asking: asyncio.Task[tuple[str, int]] | None = None

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return host and port of the primary; who asks meanwhile gets the same answer.

        Raises
        ------
        MasterNotFoundError
            No Sentinel that answers knows one.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(service_name))
            self._asking.add_done_callback(lambda asking: asking.cancelled() or asking.exception())
        return await asyncio.shield(self._asking)

    async def aclose(self) -> None:
        """Close the connections to the Sentinels."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await super().aclose()

    async def _ask(self, service_name: str) -> tuple[str, int]:
        async def ask(sentinel: Redis) -> tuple[str, int] | None:
            command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service_name)
            answer = await sentinel.execute_command(*command)  # type: ignore[no-untyped-call]
            return (answer[0].decode(), int(answer[1])) if answer else None

        found = await first_of([ask(sentinel) for sentinel in self.sentinels])
        if found is None:
            raise MasterNotFoundError(f"no Sentinel answers with a primary called {service_name!r}")
        return found


class PrimaryPool(Pool, SentinelConnectionPool):
    """Connections to whichever server is the primary; idle ones to another are closed when that is noticed."""

    async def aclose(self) -> None:
        """Close these and the connections to the Sentinels."""
        await super().aclose()
        await self.sentinel_manager.aclose()


class _Primary(SentinelManagedConnection):
    """A connection that makes sure of the role: a Sentinel may be the last to hear of a failover."""

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        await self.send_command("HELLO", 2, check_health=False)
        answer: Any = await self.read_response()
        if b"master" not in answer:
            raise RedisConnectionError(f"{self.host}:{self.port} is not the primary that a Sentinel says it is")


class _EncryptedPrimary(_Primary, SentinelManagedSSLConnection):
    pass


def connect(address: Address, timeout_s: float, num_connections: int) -> TimedRedis:
    """Return a client of the primary."""
    pool = PrimaryPool(
        service_name=address.service,
        sentinel_manager=Sentinels(address, timeout_s),
        connection_class=_EncryptedPrimary if address.tls else _Primary,
        **connection_options(timeout_s, num_connections),
        **address.options,
    )
    return TimedRedis.over(pool, timeout_s)
