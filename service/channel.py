"""A line between two processes of one machine: messages both ways, descriptors of open files beside them."""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from service.errors import InternalError, RequestError, UnavailableError
from service.messages import Failed, Message

_LONGEST = 2**16
_MOST_DESCRIPTORS = 64

_log = structlog.get_logger(__name__)

Handle = Callable[[Message, list[int]], Awaitable[Message | None]]
"""Takes a message with the descriptors that came along, which it must close; returns the answer, if one is due."""


class ClosedError(Exception):
    """The other side is gone."""


class _Packet(msgspec.Struct, frozen=True, array_like=True):
    """A message on its way: a positive number wants an answer, the answer bears the same number, negative."""

    number: int
    message: Message


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packet).decode


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new line."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


class Channel:
    """One end of a line, in a running event loop.

    Messages are handled in the order in which they were sent, up to the first wait of each handler.

    Parameters
    ----------
    line
        An end of `pair`; closed with the channel.
    handle
        Called for everything that is no answer.
    """

    def __init__(self, line: socket.socket, handle: Handle) -> None:
        self._line, self._handle = line, handle
        self._loop = asyncio.get_running_loop()
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._number = 0
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._handling: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._loop.add_reader(line, self._read)

    async def ask(self, message: Message, descriptors: Sequence[int] = ()) -> Message:
        """Send a message and return its answer.

        Descriptors must stay open until then.

        Raises
        ------
        RequestError
            The other side cannot do it, or what is to be said is too long.
        ClosedError
            The other side is gone, perhaps after it did it.
        """
        self._number += 1
        number = self._number
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._asked[number] = answer
        try:
            self._send(number, message, descriptors)
            answered = await answer
        finally:
            del self._asked[number]
        if isinstance(answered, Failed):
            raise answered.as_error()
        return answered

    def tell(self, message: Message) -> None:
        """Send a message that wants no answer; it is lost if the other side is gone."""
        with contextlib.suppress(ClosedError):
            self._send(0, message)

    async def wait_closed(self) -> None:
        """Return once the other side is gone or this one was closed."""
        await self._closed.wait()

    @property
    def is_closed(self) -> bool:
        """Whether the other side is gone or this one was closed."""
        return self._closed.is_set()

    def close(self) -> None:
        """Hang up: whoever waits for an answer gets ClosedError."""
        if self.is_closed:
            return
        self._closed.set()
        self._loop.remove_reader(self._line)
        self._loop.remove_writer(self._line)
        self._line.close()
        while self._waiting:
            close_all(self._waiting.popleft()[1])
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ClosedError())

    def _send(self, number: int, message: Message, descriptors: Sequence[int] = ()) -> None:
        if self.is_closed:
            raise ClosedError
        content = _encode(_Packet(number, message))
        if len(content) > _LONGEST:
            raise InternalError("what was to be said is too long")
        if self._waiting or not self._sent(content, descriptors):
            # Copies: whoever asked may give up, and close them, before there is room for the message.
            self._waiting.append((content, [os.dup(descriptor) for descriptor in descriptors]))

    def _sent(self, content: bytes, descriptors: Sequence[int]) -> bool:
        """Send, or see to it that `_write` is called when there is room."""
        try:
            socket.send_fds(self._line, [content], descriptors)
        except BlockingIOError:
            self._loop.add_writer(self._line, self._write)
            return False
        except OSError:
            self.close()
        return True

    def _write(self) -> None:
        while self._waiting and not self.is_closed:
            if not self._sent(*self._waiting[0]):
                return
            if self._waiting:
                close_all(self._waiting.popleft()[1])
        if not self.is_closed:
            self._loop.remove_writer(self._line)

    def _read(self) -> None:
        try:
            content, descriptors, *_ = socket.recv_fds(
                self._line, _LONGEST, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            content = b""
        if not content:
            self.close()
            return
        packet = _decode(content)
        if packet.number < 0:
            answer = self._asked.get(-packet.number)
            if answer is not None and not answer.done():
                answer.set_result(packet.message)
            return
        task = self._loop.create_task(self._answer(packet, descriptors))
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    async def _answer(self, packet: _Packet, descriptors: list[int]) -> None:
        try:
            answer = await self._handle(packet.message, descriptors)
        except RequestError as error:
            answer = Failed.of(error)
        except ClosedError:
            answer = Failed.of(UnavailableError("the process that does this is gone; try again"))
        except Exception:
            # What it is stands in the log: it may quote what is nobody's business.
            _log.exception("a message could not be handled", message=type(packet.message).__name__)
            answer = Failed.of(InternalError("it failed; the log says why"))
        if packet.number and answer is not None:
            with contextlib.suppress(ClosedError):
                try:
                    self._send(-packet.number, answer)
                except InternalError as error:
                    _log.error("an answer is too long", message=type(packet.message).__name__)
                    self._send(-packet.number, Failed.of(error))


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that came with a message and are not wanted."""
    for descriptor in descriptors:
        os.close(descriptor)
