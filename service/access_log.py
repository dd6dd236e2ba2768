"""A line for every answer, where that is wanted: `access_log`."""

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = structlog.get_logger(__name__)


class AccessLog:
    """ASGI middleware; it tells neither queries nor headers, which may hold what is nobody's business."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, then log how it was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, num_bytes = time.perf_counter(), 500, 0

        async def noting(message: Message) -> None:
            nonlocal status, num_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            _log.info(
                "answered",
                method=scope["method"],
                path=scope["path"],
                status=status,
                num_bytes=num_bytes,
                duration_ms=round((time.perf_counter() - started) * 1000, 3),
                client=(scope.get("client") or ("",))[0],
            )
