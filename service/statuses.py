"""Which errors a route can answer with, so that the OpenAPI document says all of them."""

from collections.abc import Mapping
from typing import Any

_REDIS_AWAY = (503,)
_OPEN = ("/metrics", "/v2/health/live", "/v2/health/ready")
"""Whom neither the admin key nor the read key guards."""
_OF_ROUTES: dict[tuple[str, str], tuple[int, ...]] = {
    ("POST", "/v1/rank"): (409, 503, 504),
    ("POST", "/v1/users/{user_id}/events"): _REDIS_AWAY,
    ("GET", "/v1/users/{user_id}/history"): _REDIS_AWAY,
    ("PUT", "/v1/users/{user_id}/history"): _REDIS_AWAY,
    ("DELETE", "/v1/users/{user_id}/history"): _REDIS_AWAY,
    ("GET", "/v1/items/{item_id}"): (404, 503),
    ("PUT", "/v1/items/{item_id}"): _REDIS_AWAY,
    ("DELETE", "/v1/items/{item_id}"): _REDIS_AWAY,
    ("POST", "/v1/items"): _REDIS_AWAY,
    ("POST", "/v1/items/accept-loss"): _REDIS_AWAY,
    ("POST", "/v1/models/{model}/promote"): (409, 503),
    ("POST", "/v1/models/{model}/rollback"): (409, 503),
    ("GET", "/v1/models/{model}/trial"): (503,),
    ("POST", "/v2/models/{model}/infer"): (415, 503, 504),
    ("POST", "/v2/models/{model}/versions/{version}/infer"): (415, 503, 504),
    ("POST", "/v2/repository/models/{model}/load"): (404, 409, 503),
    ("POST", "/v2/repository/models/{model}/unload"): (404, 409),
}


def errors_of(path: str, method: str, operation: Mapping[str, Any]) -> set[int]:
    """Return the statuses from 400 on that a route can answer with, by what the document says of it."""
    statuses = set(_OF_ROUTES.get((method.upper(), path), ()))
    if path not in _OPEN:
        statuses |= {401, 403}
    if "requestBody" in operation:
        statuses |= {400, 408, 413, 503}
    if "{model}" in path:
        statuses.add(404)
    if path.startswith("/v1/") and ("requestBody" in operation or "_id}" in path):
        statuses.add(422)
    return statuses
