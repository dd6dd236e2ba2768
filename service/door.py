"""Where connections come in, and which of several workers takes each: the one that has the fewest."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable

import structlog

from service.board import Seat

_GIVE_WAY_S = 0.002
_OUT_OF_DESCRIPTORS_S = 0.5
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = structlog.get_logger(__name__)

Protocol = Callable[[], asyncio.Protocol]


class Door:
    """Accepts connections at a listening socket, which other processes may share.

    The kernel wakes all of them and is not fair, and a connection may live for hours: so whoever has more than
    another one leaves the newcomer to that one for a moment, and takes it only if it is still there then.

    Parameters
    ----------
    listener
        A bound socket; it listens from now on.
    backlog
        How many connections may wait to be accepted.
    protocol
        Makes the protocol of one connection.
    seat
        Tells how many connections each process has.
    """

    def __init__(self, listener: socket.socket, backlog: int, protocol: Protocol, seat: Seat) -> None:
        self._listener, self._protocol, self._seat = listener, protocol, seat
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[object]] = set()
        self._is_open, self._has_waited = True, False
        listener.setblocking(False)
        listener.listen(backlog)
        self._loop.add_reader(listener, self._look)

    def close(self) -> None:
        """Take in whoever waits at the door, then shut it; the socket stays open."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._listener)
            while self._accept():
                pass

    async def wait_closed(self) -> None:
        """Return once all who were taken in have a protocol."""
        if self._coming:
            await asyncio.wait(self._coming)

    def _look(self) -> None:
        if self._has_waited or not self._seat.has_more_than_another:
            self._has_waited = False
            self._accept()
        else:
            self._pause(_GIVE_WAY_S)

    def _pause(self, pause_s: float) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(pause_s, self._look_again)

    def _look_again(self) -> None:
        if self._is_open:
            self._has_waited = True
            self._loop.add_reader(self._listener, self._look)

    def _accept(self) -> bool:
        """Take in one connection; returns whether there was one."""
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS and self._is_open:
                _log.error("connections cannot be accepted", reason=error.strerror)
                self._pause(_OUT_OF_DESCRIPTORS_S)
            return False
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._seat.num_connections += 1
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)
        return True
