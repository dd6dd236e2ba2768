"""Servers that do what a test needs: answer, answer late, stop for a while, close, talk nonsense."""

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

BODY = b'{"scores":[0.5],"degraded":[]}'


def answer(body: bytes = BODY, status: str = "200 OK", headers: str = "") -> bytes:
    """Return an HTTP response."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


@dataclass
class Scripted:
    """A server on a port of its own.

    Attributes
    ----------
    bodies
        Of all requests, in the order in which they came.
    heads
        Their request lines and headers.
    """

    port: int
    loop: asyncio.AbstractEventLoop
    bodies: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    num_connections: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def stop_for(self, seconds: float) -> None:
        """Do nothing at all for a while: neither read nor answer."""
        self.loop.call_soon_threadsafe(time.sleep, seconds)


Script = Callable[[int, asyncio.StreamWriter], Awaitable[None]]
"""Takes the number of a request, from 0, and where the answer goes."""


async def at_once(_number: int, writer: asyncio.StreamWriter) -> None:
    """Answer without delay."""
    writer.write(answer())


def after(seconds: float) -> Script:
    """Answer each request so long after it came."""

    async def script(_number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        writer.write(answer())

    return script


@contextlib.contextmanager
def scripted(script: Script = at_once, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """Run a server in a thread for as long as the block runs."""
    started: Future[tuple[Scripted, asyncio.Event]] = Future()

    async def serve() -> None:
        tasks: set[asyncio.Task[None]] = set()
        writers: list[asyncio.StreamWriter] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server.num_connections += 1
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while not writer.is_closing():
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    server.bodies.append(await reader.readexactly(length))
                    server.heads.append(head)
                    await script(len(server.bodies) - 1, writer)
            writer.close()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            tasks.add(asyncio.create_task(talk(reader, writer)))

        listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context, backlog=1000)
        server = Scripted(listening.sockets[0].getsockname()[1], asyncio.get_running_loop())
        ending = asyncio.Event()
        started.set_result((server, ending))
        await ending.wait()
        listening.close()
        await asyncio.sleep(0.05)  # whoever was let in just now is there by then
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)  # connections are closed by then

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    server, ending = started.result(30)
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(ending.set)
        thread.join(30)
