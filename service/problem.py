"""Errors as RFC 9457 problem JSON; under `/v2` as the Open Inference Protocol has them."""

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
from service.request_ids import HEADER, current_request_id

_log = structlog.get_logger(__name__)


def problem(
    status: int, title: str, detail: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a problem document; `field` is the path of the value that is wrong."""
    content: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if field is not None:
        content["field"] = field
    if request_id := current_request_id():
        content["request_id"] = request_id
    return Response(orjson.dumps(content), status, headers, media_type="application/problem+json")


def refusal(
    request: Request,
    status: int,
    title: str,
    detail: str,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error in the form of the protocol that was spoken: to that under `/v2` any bad input is 400."""
    if not request.url.path.startswith("/v2"):
        return problem(status, title, detail, field, headers)
    content = {"error": detail if field is None else f"{field}: {detail}"}
    return Response(orjson.dumps(content), 400 if status == 422 else status, headers, media_type="application/json")


def register(app: FastAPI) -> None:
    """Make every error of the app a problem document."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, _unexpected)


def of_error(request: Request, error: RequestError) -> Response:
    """Return what a request that cannot be answered is told."""
    return refusal(request, error.status, error.title, error.detail, error.field, error.headers)


def of_disconnect(request: Request) -> Response:
    """Return what nobody will read: the caller is gone."""
    return refusal(request, 400, "Incomplete", "the connection closed before the body was whole")


async def _request_error(request: Request, error: Exception) -> Response:
    return of_error(request, cast("RequestError", error))


async def _http_error(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    title = HTTPStatus(error.status_code).phrase
    detail = f"{title}: {request.method} {request.url.path}"
    return refusal(request, error.status_code, title, detail, headers=error.headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    first = cast("RequestValidationError", error).errors()[0]
    return refusal(request, 422, "Invalid value", first["msg"], str(first["loc"][-1]))


async def _disconnected(request: Request, _error: Exception) -> Response:
    return of_disconnect(request)


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("request failed", method=request.method, path=request.url.path, error=repr(error))
    # This answer does not pass the middleware that names all others.
    named = {HEADER: current_request_id()}
    return refusal(request, 500, "Internal error", "an unexpected error, which has been logged", headers=named)
