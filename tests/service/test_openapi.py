"""The OpenAPI document, and a service that keeps to it whatever it is sent."""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.conftest import Store
from tests.service.running import Running, await_ready, serving_process
from tests.service.tensors import users_and_candidates

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
PATIENT = {"history_timeout_ms": 5000, "max_item_lag_ms": 60_000, "redis_timeout_s": 5, "max_queue_ms": 60_000}
LATER = (503, 504)
"""Statuses from 500 on that a request can bring about: a deadline that is past, a queue that is full."""


@dataclass(frozen=True)
class Api:
    """A service in a process of its own, its document, and the version that it serves."""

    url: str
    document: dict[str, Any]
    version: str

    def schema(self) -> schemathesis.BaseSchema:
        """The document as it is now, to make requests by."""
        schema = schemathesis.openapi.from_dict(self.document)
        schema.config.update(base_url=self.url)
        return schema


@pytest.fixture
def api(store: Store, redis_url, tmp_path) -> Iterator[Api]:
    """A service in which, in the end, nothing may have gone wrong."""
    with serving_process(tmp_path / "log", store=store.folder, redis_url=redis_url, **PATIENT) as process:
        url = await_ready(process)
        yield Api(url, httpx.get(f"{url}/openapi.json").json(), store.new.name)
    assert "request failed" not in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()


@schemathesis.serializer("application/x-ndjson")
def _one_line(_context, value) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def _fit(case: schemathesis.Case, version: str) -> None:
    """Make what was made up name what is there: chance alone would find neither a model nor an embedding's width."""
    named = case.path_parameters
    if "model" in named:
        named["model"] = "qin"
    if "version" in named:
        named["version"] = version
    if isinstance(case.body, dict) and "embedding" in case.body:
        case.body["embedding"] = [0.25] * 8
    if isinstance(case.body, dict) and "inputs" in case.body:
        case.body["inputs"] = users_and_candidates()
        case.headers = {}


def _try(api: Api, path: str, max_examples: int) -> set[int]:
    """Send to each route at a path requests of the right shape and of a wrong one; return the statuses that came."""
    settings = hypothesis.settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    statuses = set()

    def keeps_to_the_document(case: schemathesis.Case, fits: bool) -> None:
        if fits:
            _fit(case, api.version)
        response = case.call(timeout=30)
        statuses.add(response.status_code)
        assert response.status_code < 500 or response.status_code in LATER, response.text
        case.validate_response(response, checks=CHECKS)

    for operation in (result.ok() for result in api.schema().get_all_operations()):
        if operation.path == path:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                made_up = {
                    "case": operation.as_strategy(generation_mode=mode),
                    "fits": hypothesis.strategies.booleans(),
                }
                # Where a route takes nothing, nothing can be wrong.
                nothing = hypothesis.errors.Unsatisfiable if mode is GenerationMode.NEGATIVE else ()
                with contextlib.suppress(nothing):
                    settings(hypothesis.given(**made_up)(keeps_to_the_document))()
    return statuses


def test_every_route_keeps_to_the_document(api: Api):
    """Whatever is sent, of the right shape or not, the answer is one that the document describes."""
    succeeded = {path for path in api.document["paths"] if min(_try(api, path, 40)) < 300}
    assert set(api.document["paths"]) - succeeded <= {
        "/v1/models/{model}/promote",
        "/v1/models/{model}/rollback",
        "/v1/models/{model}/trial",
        "/v2/repository/models/{model}/unload",
    }


@pytest.mark.slow
def test_every_route_keeps_to_the_document_for_long(api: Api):
    """The same with very many requests."""
    for path in api.document["paths"]:
        assert _try(api, path, 1000)


def test_an_answer_that_is_not_in_the_document_is_found(api: Api):
    """What the document does not say of a status, or says otherwise of a body, does not pass."""
    history = api.document["paths"]["/v1/users/{user_id}/history"]["get"]["responses"]
    unusual = history.pop("422")
    with pytest.raises(FailureGroup):
        _try(api, "/v1/users/{user_id}/history", 25)
    history["422"] = unusual
    history["200"]["content"]["application/json"]["schema"] = {"type": "object", "required": ["nothing"]}
    with pytest.raises(FailureGroup):
        _try(api, "/v1/users/{user_id}/history", 25)


def test_the_document_describes_every_route(service: Running):
    """Bodies have schemas and examples, errors their protocol's shape, and every reference leads somewhere."""
    text = service.http.get("/openapi.json").text
    document = json.loads(text)
    schemas = document["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', text)) <= schemas.keys()
    assert set(schemas["RankRequest"]["required"]) == {"user_id", "candidates"}
    for path in ("/v1/rank", "/v2/models/{model}/infer"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert "several_users" in content["application/json"]["examples"]
    without_body = ("rollback", "accept-loss")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert (method in ("post", "put")) <= ("requestBody" in operation or path.endswith(without_body))
            _check_errors(path, operation["responses"])


def _check_errors(path: str, responses: dict[str, Any]) -> None:
    shape = ("application/problem+json", "Problem") if path.startswith("/v1/") else ("application/json", "InferError")
    for status, described in responses.items():
        if int(status) >= 400 and not path.endswith("/ready"):
            assert described["content"][shape[0]]["schema"]["$ref"].endswith(shape[1])


@pytest.mark.parametrize("path", ["/v1/rank", "/v2/models/{model}/infer"])
def test_the_examples_are_accepted(service: Running, path):
    """What /docs shows can be sent as it is."""
    document = service.http.get("/openapi.json").json()
    examples = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        response = service.http.post(path.replace("{model}", "qin"), json=example["value"])
        assert response.status_code == 200, response.text


def test_docs_need_no_other_server(service: Running):
    """Pages and all that they load come from the service itself."""
    for page in ("/docs", "/redoc"):
        html = service.http.get(page).text
        loaded = re.findall(r'(?:src|href)="([^"]+)"', html)
        assert len(loaded) >= 2
        for path in loaded:
            assert path.startswith("/")
            assert service.http.get(path).status_code == 200
