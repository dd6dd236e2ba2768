"""`qin serve`: one process, uvicorn on uvloop, from start to an orderly end."""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import uvicorn
import uvloop

from scoring.device import BODY
from service import allocator, logs
from service.app import create_app
from service.board import Board, Seat
from service.connection import without_secrets
from service.cores import num_physical_cores
from service.door import Door
from service.errors import StartError
from service.http_connection import HttpConnection
from service.replica import Replica, open_replica
from service.settings import Settings, read_settings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LULL_S = 0.2
_LONGEST_LULL_S = 2.0
SWITCH_S = 0.001
"""The longest that a request waits for the interpreter while another thread encodes items; Python's own is 5 ms."""


def serve(**overrides: object) -> int:
    """Serve until SIGTERM or SIGINT; returns the process's exit status.

    Parameters
    ----------
    overrides
        Settings of `service.settings.Settings` from the command line; None counts as not given.
    """
    try:
        settings = _with_threads(read_settings(**overrides))
        logs.configure()
        allocator.settle()
        sys.setswitchinterval(SWITCH_S)
        if settings.workers > 1:
            from service.supervisor import supervise  # which in turn needs this module

            return supervise(settings)
        uvloop.run(_serve(settings))
    except StartError as error:
        sys.stderr.write(f"qin serve: {error}\n")
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    with bind(settings.host, settings.port) as listener:
        await run(open_replica(settings), listener, say)


async def run(
    opening: contextlib.AbstractAsyncContextManager[Replica],
    listener: socket.socket,
    ready: Callable[[str], object],
    seat: Seat | None = None,
) -> None:
    """Open a replica and serve with it until SIGTERM or SIGINT, which may come while it still opens.

    Parameters
    ----------
    opening
        The replica.
    listener
        A bound socket.
    ready
        Called with a line that says what is served, as soon as it is.
    seat
        Where the listener is shared, who else accepts connections.

    Raises
    ------
    StartError
        It cannot start, or the device that scores failed later: whoever looks after the process has to start it anew.
    """
    this = asyncio.current_task()
    assert this is not None
    server: Server | None = None

    def stop(number: int) -> None:
        # Whatever was under way when the signal came, this may run only after it has ended.
        if server is not None:
            server.stop(number)
        elif not this.cancelling():
            this.cancel()

    with on_signals(stop):
        async with contextlib.AsyncExitStack() as stack:
            try:
                replica = await stack.enter_async_context(opening)
            except asyncio.CancelledError:
                return
            if not this.cancelling():
                # What lives as long as the service is looked at no more: a look took tens of milliseconds.
                gc.collect()
                gc.freeze()
                server = Server(replica, ready, seat)
                await server.serve([listener])
            if replica.failure is not None:
                raise StartError(f"nothing can be ranked any more: {replica.failure}")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Server(uvicorn.Server):
    """Uvicorn around a replica: says when it is ready, and stops without a failed request.

    A connection that is closed while a request is on its way to it fails that request. So once the end is near,
    every answer tells its client that it is the last on its connection; the door is closed when nobody has come for
    a moment, and the connections that are left when nothing has been said on them for a moment.
    """

    def __init__(self, replica: Replica, ready: Callable[[str], object] = say, seat: Seat | None = None) -> None:
        settings = replica.settings
        super().__init__(
            uvicorn.Config(
                create_app(replica),
                loop="none",
                http=HttpConnection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
            )
        )
        self._replica, self._ready = replica, ready
        self._seat = seat or Board().seat(0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and say so."""
        assert sockets is not None
        await self.lifespan.startup()
        self._seat.num_connections = 0
        doors: list[Any] = [Door(listener, self.config.backlog, self._protocol, self._seat) for listener in sockets]
        self.servers = doors
        self.started = True
        self._ready(_ready_line(self._replica, sockets[0]))

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def on_tick(self, counter: int) -> bool:
        """Note how many connections are left, ten times a second, and end once nothing can be ranked any more."""
        self._seat.num_connections = len(self.server_state.connections)
        if self._replica.failure is not None:
            self._replica.stopping = self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door, then the connections, then wait for what is in flight."""
        close = (b"connection", b"close")
        self.config.encoded_headers.append(close)
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        await self._lull()
        for door in self.servers:
            door.close()
        # Nothing is awaited in between: who comes to a closed door while it still listens would be cut off.
        for listener in sockets or []:
            listener.close()
        self._seat.leave()
        for door in self.servers:
            await door.wait_closed()
        await self._lull()
        await super().shutdown(sockets)

    async def _lull(self) -> None:
        """Wait until nothing has been answered for a moment and nobody has come to ask, if that is soon enough."""
        loop, state = asyncio.get_running_loop(), self.server_state
        connections: Collection[Any] = state.connections
        stop, answered, since = loop.time() + _LONGEST_LULL_S, state.total_requests, loop.time()
        while loop.time() < stop and connections:
            await asyncio.sleep(_LULL_S / 10)
            if state.total_requests != answered or any(connection.cycle is None for connection in connections):
                answered, since = state.total_requests, loop.time()
            if loop.time() - since > _LULL_S:
                return

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run`, which is there before the server is; uvicorn's own raises them again afterwards."""
        yield

    def stop(self, number: int) -> None:
        """Stop in order at a signal."""
        self._replica.stopping = True
        self.handle_exit(number, None)


@contextlib.contextmanager
def on_signals(stop: Callable[[int], object]) -> Iterator[None]:
    """Call `stop` at SIGTERM and SIGINT; after the block they do nothing, so that they cannot cut the end short."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.add_signal_handler(number, _nothing)


def _nothing() -> None:
    """Ignore a signal."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address and does not listen yet; raises StartError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise StartError(f"cannot listen on {host}:{port}: not a name of a host") from error
    return listener


def _ready_line(replica: Replica, listener: socket.socket) -> str:
    settings, version = replica.settings, replica.registry.serving
    host, port = listener.getsockname()[:2]
    where = "embedded Valkey in " + str(settings.data_dir)
    if settings.redis_url is not None:
        where = "Redis at " + without_secrets(settings.redis_url.get_secret_value())
    key = "needs the admin key" if replica.gate.key else "needs no key" if settings.on_loopback else "is refused"
    return (
        f"ready on http://{f'[{host}]' if ':' in host else host}:{port}: {settings.model} {version.name} "
        f"on {version.scorer.provider}, {len(version.rows)} items from {where}; writing {key}; "
        f"{settings.num_threads or 'all'} threads a ranking; {runs_by(version.scorer.kernels)}"
    )


def _with_threads(settings: Settings) -> Settings:
    """Return settings that say how many threads one ranking has."""
    if settings.num_threads:
        return settings
    return settings.model_copy(update={"num_threads": max(1, num_physical_cores() // settings.workers)})


def runs_by(kernels: Mapping[str, str]) -> str:
    """Return which kernels run, such as `fused kernels: avx2`."""
    if len(set(kernels.values())) > 1:
        return "fused kernels: " + ", ".join(f"{op} by {name}" for op, name in kernels.items())
    (name,) = set(kernels.values()) or {BODY}
    return "no fused kernels" if name == BODY else f"fused kernels: {name}"
