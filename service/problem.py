"""Errors as RFC 9457 problem JSON."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.errors import RequestError

_log = structlog.get_logger(__name__)


def problem(
    status: int, title: str, detail: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a problem document; `field` is the path of the value that is wrong."""
    content: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if field is not None:
        content["field"] = field
    return Response(orjson.dumps(content), status, headers, media_type="application/problem+json")


def register(app: FastAPI) -> None:
    """Make every error of the app a problem document."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, _unexpected)


async def _request_error(_request: Request, error: Exception) -> Response:
    error = cast("RequestError", error)
    return problem(error.status, error.title, error.detail, error.field, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    title = HTTPStatus(error.status_code).phrase
    return problem(error.status_code, title, f"{title}: {request.method} {request.url.path}", headers=error.headers)


async def _validation_error(_request: Request, error: Exception) -> Response:
    first = cast("RequestValidationError", error).errors()[0]
    return problem(422, "Invalid value", first["msg"], str(first["loc"][-1]))


async def _disconnected(_request: Request, _error: Exception) -> Response:
    return problem(400, "Incomplete", "the connection closed before the body was whole")


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("request failed", method=request.method, path=request.url.path, error=repr(error))
    return problem(500, "Internal error", "an unexpected error, which has been logged")
