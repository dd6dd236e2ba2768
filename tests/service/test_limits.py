"""Limits as callers meet them: overload, deadlines, slow bodies, long lists, keys for reading."""

import asyncio
import select
import socket
import time
from collections import Counter

import httpx
import pytest

from contract.client import Client, ClientError
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running, wait_until

RANK = {"user_id": 1, "candidates": [9, 2, 70]}


def shed(service: Running, reason: str) -> float:
    """How many requests the service says that it shed for a reason."""
    lines = service.http.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(f'qin_shed_total{{reason="{reason}"'))


def test_more_than_the_queue_holds_is_turned_away_early(store: Store, stocked_url):
    """Of many requests at once each is ranked or gets 503 with Retry-After; afterwards all is well at once."""

    async def at_once(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            body = {"user_id": 1, "candidates": list(range(100))}
            return await asyncio.gather(*(client.post("/v1/rank", json=body) for _ in range(100)))

    with running(make_settings(store.folder, stocked_url, max_queued_candidates=150)) as service:
        answers = asyncio.run(at_once(service.url))
        statuses = Counter(answer.status_code for answer in answers)
        assert statuses.keys() == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
                assert answer.headers["content-type"] == "application/problem+json"
                assert "candidates are being ranked" in answer.json()["detail"]
        assert shed(service, "candidates") == statuses[503]
        assert len(service.client.rank(1, list(range(100))).scores) == 100


def test_a_deadline_that_is_past_is_a_504(service: Running):
    """An answer that could only come too late is not made, alone or among several; a later deadline is met."""
    for body in ({**RANK, "deadline_ms": 1e-6}, {"requests": [RANK, {**RANK, "deadline_ms": 1e-6}]}):
        answer = service.http.post("/v1/rank", json=body)
        assert (answer.status_code, answer.json()["title"]) == (504, "Deadline passed")
    assert shed(service, "expired") == 2
    assert service.http.post("/v1/rank", json={**RANK, "deadline_ms": 60_000}).status_code == 200
    for wrong in (0, -1, "soon"):
        answer = service.http.post("/v1/rank", json={**RANK, "deadline_ms": wrong})
        assert (answer.status_code, answer.json()["field"]) == (422, "deadline_ms")


def test_the_service_may_set_a_deadline_for_all(store: Store, stocked_url):
    """A deadline in the settings holds for requests that name none, and is not put off by one that names a later."""
    with running(make_settings(store.folder, stocked_url, deadline_ms=1e-6)) as service:
        assert service.http.post("/v1/rank", json=RANK).status_code == 504
        assert service.http.post("/v1/rank", json={**RANK, "deadline_ms": 60_000}).status_code == 504


@pytest.mark.parametrize("head", ["POST /v1/rank", "PUT /v1/items/3", "POST /v1/items", "POST /v2/models/qin/infer"])
def test_a_body_that_does_not_come_is_given_up(store: Store, stocked_url, head):
    """Whoever announces a body and sends half of it is told 408 in time, and the connection is closed."""
    with running(make_settings(store.folder, stocked_url, body_timeout_s=0.2)) as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(f'{head} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{"user'.encode())
            answer = b""
            while piece := connection.recv(2**16):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer.lower()
        assert service.http.post("/v1/rank", json=RANK).status_code == 200


def test_a_body_that_comes_slowly_is_read(store: Store, stocked_url):
    """Pieces of items in bulk may each take their time, the whole of it longer than the limit."""
    item = '{"item_id": %d, "embedding": [1, 2, 3, 4, 5, 6, 7, 8]}\n'

    def pieces():
        for number in range(8):
            time.sleep(0.1)
            yield (item % (1000 + number)).encode()

    with running(make_settings(store.folder, stocked_url, body_timeout_s=0.6)) as service:
        answer = service.http.post("/v1/items", content=pieces())
        assert (answer.status_code, answer.json()["written"]) == (200, 8)


def test_long_lists_are_refused(store: Store, stocked_url):
    """A history in a request, one to store, and events: each has a limit, told with its field."""
    with running(make_settings(store.folder, stocked_url, max_item_ids=5)) as service:
        for method, path, body, field in (
            ("POST", "/v1/rank", {**RANK, "history": [1] * 6}, "history"),
            ("POST", "/v1/rank", {"requests": [RANK, {**RANK, "history": [1] * 6}]}, "requests[1].history"),
            ("POST", "/v1/users/1/events", {"item_ids": [1] * 6}, "item_ids"),
            ("PUT", "/v1/users/1/history", {"item_ids": [1] * 6}, "item_ids"),
        ):
            answer = service.http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["field"]) == (413, field)
            assert "at most 5" in answer.json()["detail"]
        assert service.http.post("/v1/rank", json={**RANK, "history": [1] * 5}).status_code == 200


READS = [
    ("POST", "/v1/rank"),
    ("GET", "/v1/users/1/history"),
    ("GET", "/v1/items/3"),
    ("POST", "/v2/models/qin/infer"),
]


def test_reading_needs_a_key_where_one_is_set(store: Store, stocked_url, caplog):
    """The read key opens what reads and nothing that writes; the admin key opens both; probes need none."""
    with running(make_settings(store.folder, stocked_url, read_key="letmeread", admin_key="letmewrite")) as service:

        def status(method: str, path: str, key: str | None) -> int:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return service.http.request(method, path, headers=headers, content=b"{}").status_code

        for method, path in READS:
            assert status(method, path, None) == 401
            assert status(method, path, "wrong") == 403
            assert status(method, path, "letmeread") not in (401, 403)
            assert status(method, path, "letmewrite") not in (401, 403)
        assert status("DELETE", "/v1/items/3", "letmeread") == 403
        for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
            assert status("GET", path, None) == 200
        with Client(service.url, "letmeread") as reader:
            assert len(reader.rank(1, [9, 2]).scores) == 2
            with pytest.raises(ClientError, match="admin key is wrong"):
                reader.delete_item(3)
        assert "letme" not in repr(service.replica.gate) + repr(service.replica.settings) + caplog.text


def test_the_queue_is_empty_after_whatever_happened(service: Running):
    """Answered, refused or expired: nothing stays in the queue, which the metrics show."""
    for body in (RANK, {**RANK, "deadline_ms": 1e-6}, {**RANK, "likes_level": [99, 0, 0]}, {"user_id": 1}):
        service.http.post("/v1/rank", json=body)
    wait_until(lambda: service.replica.admission.num_candidates == 0)
    assert service.replica.admission.expected_wait_s < 1
    assert "qin_queued_candidates 0.0" in service.http.get("/metrics").text


@pytest.mark.parametrize("path", ["/v1/rank", "/v2/models/qin/infer"])
def test_where_all_wait_too_long_a_body_is_not_even_decoded(service: Running, path):
    """It is refused whatever it says, for decoding takes time that others wait for."""
    service.replica.admission._lag.seconds = 1e6
    answer = service.http.post(path, content=b"{")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("path", ["/v1/rank", "/v2/models/qin/infer"])
def test_a_caller_that_leaves_amid_its_body_is_no_failure(service: Running, path):
    """Nothing of it stays, and it does not count as an error of the service."""
    address = httpx.URL(service.url)
    with socket.create_connection((address.host, address.port), timeout=30) as caller:
        caller.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{" % path.encode())

    def statuses() -> dict[str, float]:
        samples = [one for metric in service.replica.metrics.requests.collect() for one in metric.samples]
        return {one.labels["status"]: one.value for one in samples if one.name.endswith("_total")}

    wait_until(statuses)
    assert statuses() == {"400": 1}


def test_bodies_that_arrive_are_bounded_together(store: Store, stocked_url):
    """Of two large bodies under way one is turned away, the other taken; a small one always is."""
    body = b" " * 200_000 + b'{"user_id": 1, "candidates": [9]}'
    head = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with running(make_settings(store.folder, stocked_url, max_arriving_bytes=100_000, body_timeout_s=60)) as service:
        address = httpx.URL(service.url)
        with (
            socket.create_connection((address.host, address.port), timeout=30) as one,
            socket.create_connection((address.host, address.port), timeout=30) as other,
        ):
            for connection in (one, other):
                connection.sendall(head + body[:140_000])
            (refused,), _, _ = select.select([one, other], [], [], 30)
            told = refused.recv(4096)
            assert told.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in told
            assert service.http.post("/v1/rank", json=RANK).status_code == 200
            taken = other if refused is one else one
            taken.sendall(body[140_000:])
            assert taken.recv(4096).startswith(b"HTTP/1.1 200")
        assert service.http.post("/v1/rank", content=body).status_code == 200


def test_requests_that_are_scored_together_are_not_taken_for_a_long_queue(store: Store, stocked_url, monkeypatch):
    """What is learnt of a request's cost is its part of a run, not the whole run."""
    with running(make_settings(store.folder, stocked_url, batch_candidates=4096)) as service:
        learnt: list[tuple[int, float]] = []
        monkeypatch.setattr(service.replica.admission.costs, "learn", lambda *of: learnt.append(of))
        runs, score = [], service.replica.registry.serving.scorer.score

        def slow(*inputs):
            time.sleep(0.2)
            runs.append(len(inputs[1]))
            return score(*inputs)

        monkeypatch.setattr(service.replica.registry.serving.scorer, "score", slow)

        async def at_once() -> None:
            async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
                await asyncio.gather(*(client.post("/v1/rank", json=RANK) for _ in range(20)))

        asyncio.run(at_once())
        assert max(runs) > 1
        assert len(learnt) == 20
        assert min(seconds for _, seconds in learnt) < 0.15
