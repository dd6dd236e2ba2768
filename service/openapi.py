"""What `/docs` says of routes that decode their bodies themselves: schemas from the wire types, and examples."""

from typing import Any

import msgspec
from fastapi import FastAPI

from contract import inference, wire
from service import v2_openapi
from service.described import TEMPLATE, errors
from service.described import answer as _answer
from service.described import body as _body
from service.statuses import errors_of

_RANK = {"user_id": 42, "candidates": [7, 9, 11]}
_RANKING = {"model": "qin", "version": "v1", "scores": [0.31, 0.02, 0.5], "unknown_items": [], "degraded": []}
_ITEM = {"item_id": 7, "tags": [3, 11], "embedding": [0.25, -1.5], "likes_level": 5, "views_level": 6}


rank = _body(
    wire.RankRequest,
    wire.RankManyRequest,
    one_user=_RANK,
    best_two={**_RANK, "top_k": 2},
    own_history={**_RANK, "history": [3, 5], "likes_level": [5, 0, 2]},
    explained_in_time={**_RANK, "explain": True, "deadline_ms": 50},
    several_users={"requests": [_RANK, {"user_id": 43, "candidates": [7]}]},
) | _answer(
    wire.Ranking,
    wire.Rankings,
    one_user=_RANKING,
    best_two={**_RANKING, "items": [11, 7], "scores": [0.5, 0.31]},
    explained={**_RANKING, "explanation": [[[5, 0.8], [3, 0.1]], [], [[3, 1.5]]]},
    several_users={"responses": [_RANKING]},
)
item_ids = _body(wire.ItemIds, two_items={"item_ids": [7, 9]})
answers_item_ids = _answer(wire.ItemIds, two_items={"item_ids": [7, 9]})
item = _body(wire.Item, item=_ITEM)
answers_item = _answer(wire.Item, item=_ITEM)
item_lines = _body(wire.Item, media_type="application/x-ndjson") | _answer(
    wire.BulkResult, one_wrong={"written": 2, "failed": 1, "errors": [{"line": 3, "detail": "an id is needed"}]}
)
answers_models = _answer(wire.Models)
answers_trial = _answer(wire.TrialReport)
promotion = (
    _body(
        wire.Promotion,
        version={"version": "v1"},
        some_users={"version": "v1", "canary": 0.05},
        compared={"version": "v1", "shadow": True},
    )
    | answers_models
)


def describe(app: FastAPI) -> None:
    """Make the app's OpenAPI document know the wire types, and every error with the shape that it has."""
    generate = app.openapi
    _, schemas = msgspec.json.schema_components(
        [
            wire.RankRequest, wire.RankManyRequest, wire.Ranking, wire.Rankings, wire.ItemIds, wire.Item,
            wire.BulkResult, wire.Promotion, wire.Models, wire.TrialReport, wire.Problem, *v2_openapi.TYPES,
        ],
        ref_template=TEMPLATE,
    )  # fmt: skip

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            document["components"]["schemas"] = schemas
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    _describe_errors(path, method, operation)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_errors(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    statuses = errors_of(path, method, operation) - {int(status) for status in responses}
    if path.startswith("/v1/"):
        responses |= errors(statuses, wire.Problem, "application/problem+json")
    else:
        responses |= errors(statuses, inference.InferError, "application/json")
