"""One keep-alive HTTP connection that never blocks: bytes out, a status in."""

import contextlib
import errno
import os
import selectors
import socket
import ssl
from enum import Enum
from typing import Any

import httptools

from loadtest.target import Target

_RECEIVE_BYTES = 65_536
_NOT_DEGRADED = b'"degraded":[]'
_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


class State(Enum):
    """What a connection is about."""

    CONNECTING = 1
    SHAKING_HANDS = 2
    IDLE = 3
    BUSY = 4
    CLOSED = 5


class LostError(Exception):
    """The connection cannot be used any more."""


class MalformedError(LostError):
    """What came is not HTTP."""


class Connection:
    """A connection to a target, registered with a selector; the object is the registration's data.

    Parameters
    ----------
    target
        Where to.
    selector
        Tells when `ready` must be called.
    context
        For TLS, else None.

    Attributes
    ----------
    request
        Whatever its owner waits for; this class does not look at it.
    answered
        Whether any byte has come since the last `send`.
    """

    def __init__(self, target: Target, selector: selectors.BaseSelector, context: ssl.SSLContext | None) -> None:
        self.state, self.answered = State.CONNECTING, False
        self.request: Any = None
        self._target, self._selector, self._context = target, selector, context
        self._unsent: bytes | memoryview = b""
        self._body: list[bytes] = []
        self._complete = self._keep = False
        self._parser = httptools.HttpResponseParser(self)
        self._socket = socket.socket(target.family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        status = self._socket.connect_ex(target.address)
        self._selector.register(self._socket, selectors.EVENT_WRITE, self)
        self._failed = None if status in _IN_PROGRESS else OSError(status, os.strerror(status))

    def send(self, message: bytes, request: Any) -> None:
        """Begin to send a message; the connection must be idle. Raises LostError."""
        assert self.state is State.IDLE
        self.state, self.request, self.answered, self._complete = State.BUSY, request, False, False
        self._body.clear()
        self._unsent = message
        self._flush()

    def ready(self) -> tuple[int, bool] | None:
        """Go on where the selector says so.

        Returns
        -------
        tuple or None
            Status of an answer that is now complete, and whether it says that it lacks something; None if there is
            none yet. The connection is then idle again, or closed if the service does not keep it.

        Raises
        ------
        LostError
            The connection failed or was closed.
        """
        if self.state is State.CONNECTING:
            self._connected()
        elif self.state is State.SHAKING_HANDS:
            self._shake_hands()
        elif self._unsent:
            self._flush()
            if not self._unsent:
                self._receive()  # a service that answers early, with 413 say, reads no further
        else:
            self._receive()
        return self._answer() if self._complete else None

    def close(self) -> None:
        """Close at once."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(self._socket)
            self._socket.close()

    def on_body(self, data: bytes) -> None:
        """Keep a part of an answer's body (called by the parser)."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Note that an answer is whole, and what only now can be asked (called by the parser)."""
        self._complete, self._keep = True, self._parser.should_keep_alive()

    def _connected(self) -> None:
        status = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if self._failed is not None or status:
            raise LostError(f"no connection: {self._failed or os.strerror(status)}")
        if self._context is None:
            self._idle()
            return
        self.state = State.SHAKING_HANDS
        self._selector.unregister(self._socket)
        self._socket = self._context.wrap_socket(
            self._socket, server_hostname=self._target.name, do_handshake_on_connect=False
        )
        self._selector.register(self._socket, selectors.EVENT_WRITE, self)
        self._shake_hands()

    def _shake_hands(self) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._watch(selectors.EVENT_WRITE)
        except OSError as error:
            raise LostError(f"no TLS: {error}") from error
        else:
            self._idle()

    def _idle(self) -> None:
        self.state = State.IDLE
        self._watch(selectors.EVENT_READ)

    def _watch(self, events: int) -> None:
        if self._selector.get_key(self._socket).events != events:
            self._selector.modify(self._socket, events, self)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except OSError as error:
            raise LostError(str(error)) from error
        if sent == len(self._unsent):
            self._unsent = b""
            self._watch(selectors.EVENT_READ)
        else:
            self._unsent = memoryview(self._unsent)[sent:]
            self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)

    def _receive(self) -> None:
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                raise LostError(str(error)) from error
            if not data:
                raise LostError("the service closed the connection")
            self.answered = True
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as error:
                raise MalformedError(str(error)) from error
            # What TLS has already decrypted is not announced by the selector.
            if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
                return

    def _answer(self) -> tuple[int, bool]:
        status, self._complete = self._parser.get_status_code(), False
        degraded = status == 200 and not any(_NOT_DEGRADED in part for part in self._body)
        if degraded and len(self._body) > 1:
            degraded = _NOT_DEGRADED not in b"".join(self._body)
        if self._unsent or not self._keep:
            self.close()
        else:
            self._idle()
        return status, degraded
