import asyncio
import re

import httpx
import pytest
from fastapi import FastAPI

from service import problem
from service.request_ids import RequestIds, request_id_of
from tests.service.running import Running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
MADE = re.compile(r"[0-9a-f]{32}")


def test_a_request_keeps_the_name_that_its_caller_gave_it(service: Running):
    """In answers and in problems, under both protocols, and where there is no such route."""
    named = {"X-Request-Id": "checkout/7:a"}
    body = {"user_id": 1, "candidates": [1, 2]}
    responses = [
        service.http.post("/v1/rank", json=body, headers=named),
        service.http.post("/v1/rank", content=b"{", headers=named),
        service.http.get("/v2/models/none", headers=named),
        service.http.get("/nowhere", headers=named),
    ]
    assert [response.headers.get_list("x-request-id") for response in responses] == [["checkout/7:a"]] * 4
    assert [response.json().get("request_id") for response in responses] == [
        None,
        "checkout/7:a",
        None,
        "checkout/7:a",
    ]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": TRACEPARENT}, TRACE),
        ({"traceparent": TRACEPARENT, "x-request-id": "a"}, "a"),
        ({"x-request-id": "a", "traceparent": TRACEPARENT}, "a"),
        ({"traceparent": TRACEPARENT, "x-request-id": "a b"}, TRACE),
        ({"traceparent": TRACEPARENT.replace("00-", "cc-", 1) + "-later"}, TRACE),
        ({"x-request-id": "x" * 128}, "x" * 128),
    ],
)
def test_a_request_is_named_by_what_its_caller_sent(headers, expected):
    """The header of its own comes first, then the trace, of this or a later version of its format."""
    assert request_id_of([(name.encode(), value.encode()) for name, value in headers.items()]) == expected.encode()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-request-id": ""},
        {"x-request-id": "x" * 129},
        {"x-request-id": "two words"},
        {"x-request-id": 'a\n{"event": "forged"}'},
        {"x-request-id": "caf\xe9"},
        {"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
        {"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"},
        {"traceparent": TRACEPARENT.upper()},
        {"traceparent": TRACE},
    ],
)
def test_what_is_not_fit_to_be_logged_names_nothing(headers):
    """A name is made anew then, another one each time."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    made = {request_id_of(raw).decode() for _ in range(10)}
    assert len(made) == 10
    assert all(MADE.fullmatch(name) for name in made)


def test_an_unexpected_error_is_named_too():
    """Its answer says by which name it stands in the log, and nothing else about it."""
    app = FastAPI()
    problem.register(app)
    app.add_middleware(RequestIds)

    @app.get("/")
    async def fail() -> None:
        raise RuntimeError("a secret")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/", headers={"X-Request-Id": "r7"})

    response = asyncio.run(ask())
    assert (response.status_code, response.headers["x-request-id"]) == (500, "r7")
    assert response.json()["request_id"] == "r7"
    assert "secret" not in response.text
