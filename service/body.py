"""Request bodies: read piece by piece within a limit, decoded with the path of whatever is wrong."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from fastapi import Request

from service.errors import InvalidError, MalformedError, TooLargeError

T = TypeVar("T")

_NOT_A_NUMBER = re.compile(rb"[:\[,]\s*-?(NaN|Infinity|nan|inf)\b")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the whole body.

    Raises
    ------
    TooLargeError
        It is longer than `limit` bytes; it is not kept in memory then.
    """
    announced = request.headers.get("content-length", "0")
    body = bytearray()
    if not announced.isdecimal() or int(announced) <= limit:
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                break
        else:
            return bytes(body)
    raise TooLargeError(f"the body is longer than {limit} bytes")


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


async def read_lines(request: Request, limit: int) -> AsyncIterator[Line]:
    """Yield the lines of a body of any length, keeping no more than one piece and one line in memory."""
    number, pending, too_long = 1, bytearray(), False
    async for piece in request.stream():
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
