"""What `/docs` says of routes that decode their bodies themselves: schemas from the wire types, and examples."""

from typing import Any

import msgspec
from fastapi import FastAPI

from contract import wire

_TEMPLATE = "#/components/schemas/{name}"

Extra = dict[str, Any]

_RANK = {"user_id": 42, "candidates": [7, 9, 11]}
_RANKING = {"model": "qin", "version": "v1", "scores": [0.31, 0.02, 0.5], "unknown_items": [], "degraded": []}
_ITEM = {"item_id": 7, "tags": [3, 11], "embedding": [0.25, -1.5], "likes_level": 5, "views_level": 6}


def _reference(*types: type) -> Extra:
    references = [{"$ref": _TEMPLATE.format(name=type_.__name__)} for type_ in types]
    return references[0] if len(references) == 1 else {"anyOf": references}


def _body(*types: type, media_type: str = "application/json", **examples: Any) -> Extra:
    named = {name: {"value": value} for name, value in examples.items()}
    return {
        "requestBody": {"required": True, "content": {media_type: {"schema": _reference(*types), "examples": named}}}
    }


def _answer(*types: type, **examples: Any) -> Extra:
    named = {name: {"value": value} for name, value in examples.items()}
    content = {"application/json": {"schema": _reference(*types), "examples": named}}
    return {"responses": {"200": {"description": "OK", "content": content}}}


rank = _body(
    wire.RankRequest,
    wire.RankManyRequest,
    one_user=_RANK,
    best_two={**_RANK, "top_k": 2},
    own_history={**_RANK, "history": [3, 5], "likes_level": [5, 0, 2]},
    several_users={"requests": [_RANK, {"user_id": 43, "candidates": [7]}]},
) | _answer(
    wire.Ranking,
    wire.Rankings,
    one_user=_RANKING,
    best_two={**_RANKING, "items": [11, 7], "scores": [0.5, 0.31]},
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
promotion = _body(wire.Promotion, version={"version": "v1"}) | answers_models


def describe(app: FastAPI) -> None:
    """Make the app's OpenAPI document know the wire types, and problems as the shape of every error."""
    generate = app.openapi
    _, schemas = msgspec.json.schema_components(
        [
            wire.RankRequest, wire.RankManyRequest, wire.Ranking, wire.Rankings, wire.ItemIds, wire.Item,
            wire.BulkResult, wire.Promotion, wire.Models, wire.Problem,
        ],
        ref_template=_TEMPLATE,
    )  # fmt: skip

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
            problem = {"application/problem+json": {"schema": _reference(wire.Problem)}}
            for path, methods in document["paths"].items():
                for operation in methods.values() if path.startswith("/v1") else ():
                    operation["responses"].pop("422", None)
                    operation["responses"]["default"] = {"description": "Any error", "content": problem}
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
