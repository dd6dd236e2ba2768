"""A name for every request, by which logs of several services can be brought together.

`X-Request-Id` if the caller sent one that is fit to be logged, else the trace id of a W3C `traceparent`, else made
anew. It stands in the answer's `X-Request-Id`, in problems, in every line that is logged on behalf of the request,
and in the request log.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import os
import re
from contextvars import ContextVar

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
MOST_CHARACTERS = 128

_REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_HEADER = HEADER.encode()
_FIT = re.compile(rb"[!-~]{1,%d}" % MOST_CHARACTERS)
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


def current_request_id() -> str:
    """Return the id of the request on whose behalf this runs; empty where there is none."""
    return _REQUEST_ID.get()


def add_request_id(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Add the id to a line that is logged (a processor of structlog)."""
    if request_id := _REQUEST_ID.get():
        event.setdefault("request_id", request_id)
    return event


class RequestIds:
    """ASGI middleware that names requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name a request, and its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = request_id_of(scope["headers"])
        scope["request_id"] = name.decode()
        # A server runs each request in a task of its own, so this ends with it.
        _REQUEST_ID.set(scope["request_id"])

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_HEADER, name)]
            await send(message)

        await self._app(scope, receive, naming)


def request_id_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the name of a request with these headers, whose names are in lower case."""
    trace_id = b""
    for header, value in headers:
        if header == _HEADER and _FIT.fullmatch(value):
            return value
        if header == b"traceparent" and (traceparent := _TRACEPARENT.fullmatch(value)):
            trace_id = traceparent[1]
    return trace_id or os.urandom(16).hex().encode()
