"""Request bodies: read piece by piece within a limit, decoded with the path of whatever is wrong."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from fastapi import Request

from service.errors import BodyTimeoutError, InvalidError, MalformedError, OverloadedError, TooLargeError
from service.settings import Settings

T = TypeVar("T")

_NOT_A_NUMBER = re.compile(rb"[:\[,]\s*-?(NaN|Infinity|nan|inf)\b")


_SMALL = 2**16
"""Up to here a body is always taken: the server's own buffer is as large."""


@dataclass(slots=True)
class Arriving:
    """How many bytes of bodies this process holds that are not whole yet.

    Parameters
    ----------
    most_bytes
        Of others, past which no large body is taken.
    """

    most_bytes: int
    num_bytes: int = 0


async def read_body(request: Request, settings: Settings) -> bytes:
    """Return the whole body.

    Raises
    ------
    TooLargeError
        It is longer than the settings allow; it is not kept in memory then.
    BodyTimeoutError
        It does not arrive in time.
    OverloadedError
        It is large, and too many others are arriving.
    """
    limit = settings.max_body_bytes
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise TooLargeError(f"the body is longer than {limit} bytes")
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _read_body(request, limit, request.app.state.arriving)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {settings.body_timeout_s:g} s") from None


async def _read_body(request: Request, limit: int, arriving: Arriving) -> bytes:
    pieces: list[bytes] = []
    length = 0
    try:
        async for piece in request.stream():
            pieces.append(piece)
            length += len(piece)
            arriving.num_bytes += len(piece)
            if length > limit:
                raise TooLargeError(f"the body is longer than {limit} bytes")
            if length > _SMALL and arriving.num_bytes - length > arriving.most_bytes:
                raise OverloadedError("too many large bodies are arriving; try again later")
    finally:
        arriving.num_bytes -= length
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the decoded body.

    Raises
    ------
    MalformedError
        It is not JSON.
    InvalidError
        It is JSON, but not what is expected; `field` says where.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        complaint, _, path = str(error).partition(" - at `$")
        raise InvalidError(complaint, path.rstrip("`").lstrip(".") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _NOT_A_NUMBER.search(body):
            raise InvalidError("NaN and infinity are not numbers of JSON") from None
        raise MalformedError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a body; `text` is None where the line is over the limit."""

    number: int
    text: bytes | None


async def read_lines(request: Request, settings: Settings) -> AsyncIterator[Line]:
    """Yield the lines of a body of any length, keeping no more than one piece and one line in memory.

    Raises
    ------
    BodyTimeoutError
        The next piece does not arrive in time.
    """
    number, pending, too_long, limit = 1, bytearray(), False, settings.max_body_bytes
    async for piece in _pieces(request, settings.body_timeout_s):
        *ended, rest = piece.split(b"\n")
        for part in ended:
            whole = None if too_long or len(pending) + len(part) > limit else bytes(pending) + part
            yield Line(number, whole)
            number, too_long = number + 1, False
            pending.clear()
        pending += rest
        if len(pending) > limit:
            too_long = True
            pending.clear()
    if pending or too_long:
        yield Line(number, None if too_long else bytes(pending))


async def _pieces(request: Request, timeout_s: float) -> AsyncIterator[bytes]:
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                piece = await anext(stream, None)
        except TimeoutError:
            raise BodyTimeoutError(f"nothing of the body arrived for {timeout_s:g} s") from None
        if piece is None:
            return
        yield piece
