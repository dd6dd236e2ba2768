"""The routes on which every microsecond counts, reached without the framework's own way to a route."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from service import problem
from service.errors import RequestError

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class HotRoute:
    """A route as it is counted: `path` is its template."""

    path: str
    endpoint: Endpoint
    parameters: Mapping[str, str]


class HotRoutes:
    """ASGI middleware that calls the endpoints of some paths at once, innermost of all.

    The application has the same endpoints as routes of its own: for its description, for other methods than POST, and
    for paths that are spelt otherwise.

    Parameters
    ----------
    routes
        By the exact path of a request.
    """

    def __init__(self, app: ASGIApp, routes: Mapping[str, HotRoute]) -> None:
        self._app, self._routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a hot request, and pass on any other."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"], scope["path_params"] = route, route.parameters
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except RequestError as error:
            response = problem.of_error(request, error)
        except ClientDisconnect:
            response = problem.of_disconnect(request)
        await response(scope, receive, send)
