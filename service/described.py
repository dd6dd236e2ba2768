"""Pieces of an OpenAPI document: bodies, answers and errors of routes that decode and encode themselves."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

TEMPLATE = "#/components/schemas/{name}"

Extra = dict[str, Any]


def reference(*types: type) -> Extra:
    """Return the schema of one of these types, by reference."""
    references = [{"$ref": TEMPLATE.format(name=type_.__name__)} for type_ in types]
    return references[0] if len(references) == 1 else {"anyOf": references}


def body(*types: type, media_type: str = "application/json", required: bool = True, **examples: Any) -> Extra:
    """Describe the body of a request."""
    return {"requestBody": {"required": required, "content": {media_type: content(reference(*types), **examples)}}}


def answer(*types: type, **examples: Any) -> Extra:
    """Describe what status 200 comes with."""
    return answer_of(reference(*types), **examples)


def answer_of(schema: Extra, **examples: Any) -> Extra:
    """Describe by its schema what status 200 comes with."""
    return {"responses": {"200": {"description": "OK", "content": {"application/json": content(schema, **examples)}}}}


def content(schema: Extra, **examples: Any) -> Extra:
    """Describe one media type of a body."""
    return {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}


def parameter(name: str, where: str, schema: Extra, description: str, example: Any = None) -> Extra:
    """Describe a parameter in a path or a header."""
    described = {"name": name, "in": where, "required": where == "path", "schema": schema, "description": description}
    return described if example is None else {**described, "example": example}


def errors(statuses: Iterable[int], error: type, media_type: str) -> Extra:
    """Describe what comes with each of these statuses."""
    return {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {media_type: {"schema": reference(error)}},
        }
        for status in sorted(statuses)
    }
