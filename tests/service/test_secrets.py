"""What nobody may read in a log, an answer or a metric."""

import contextlib
from pathlib import Path

import httpx
import pytest

from tests.service.catalogue import NUM_ITEMS, make_records, store_items
from tests.service.conftest import Store
from tests.service.node import Node
from tests.service.running import await_ready, serving_process

REDIS, ADMIN, READ, OTLP = "redis-5ecret", "admin-5ecret", "read-5ecret", "otlp-5ecret"
GIVEN = "5ecret"
"""In all of the service's secrets."""
SENT = "wr0ng"
"""In the keys that callers send."""
LOOPBACK_NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def locked(tmp_path: Path):
    """A Redis that wants a password, with the catalogue."""
    node = Node(tmp_path / "redis", f"requirepass {REDIS}", "save ''")
    node.start()
    try:
        store_items(url_of(node), range(NUM_ITEMS), make_records())
        yield node
    finally:
        node.kill()


def url_of(node: Node, password: str = REDIS) -> str:
    return node.url.replace("://", f"://:{password}@")


def ask_everything(url: str) -> list[httpx.Response]:
    """Requests that succeed, are refused, and are wrong in many ways."""
    responses = []
    with httpx.Client(base_url=url, timeout=30) as client:
        for key in (ADMIN, READ, f"{SENT}-key", None):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            for method, path, body in (
                ("POST", "/v1/rank", b'{"user_id": 1, "candidates": [1, 2]}'),
                ("POST", "/v1/rank", b'{"user_id": "x"}'),
                ("POST", "/v1/rank", b"{"),
                ("POST", "/v1/users/1/events", b'{"item_ids": [1]}'),
                ("PUT", "/v1/items/1", b'{"embedding": [1]}'),
                ("POST", "/v1/models/qin/promote", b'{"version": "none"}'),
                ("POST", "/v1/models/qin/rollback", b""),
                ("GET", "/v1/models", b""),
                ("POST", "/v2/models/qin/infer", b"{}"),
                ("GET", f"/v1/users/1/history?key={SENT}-query", b""),
                ("GET", "/metrics", b""),
                ("GET", "/openapi.json", b""),
            ):
                with contextlib.suppress(httpx.HTTPError):
                    responses.append(client.request(method, path, content=body, headers=headers))
    return responses


@pytest.mark.parametrize("workers", [1, 2])
def test_no_secret_is_ever_told(store: Store, locked: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers):
    """Neither keys nor passwords stand in logs, answers or metrics, whatever goes wrong: Redis, requests, traces."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", LOOPBACK_NOWHERE)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer {OTLP}")
    log = tmp_path / "log"
    settings = {
        "store": store.folder,
        "redis_url": url_of(locked),
        "admin_key": ADMIN,
        "read_key": READ,
        "workers": workers,
        "redis_timeout_s": 0.5,
        "access_log": True,
        "slow_ms": 0.001,
        "request_log_dir": locked.folder / "server.conf",  # a file where a folder should be
        "request_log_rate": 1,
        "request_log_file_s": 0.1,
    }
    with serving_process(log, **settings) as process:
        url = await_ready(process)
        responses = ask_everything(url)
        assert {response.status_code for response in responses} >= {200, 204, 400, 401, 403, 422}
        locked.kill()
        responses += ask_everything(url)
        assert 503 in {response.status_code for response in responses}
        process.terminate()
        said, _ = process.communicate(timeout=60)
    told = said + log.read_text() + "".join(f"{response.headers!r}{response.text}" for response in responses)
    assert "slow request" in told
    assert GIVEN not in told
    assert SENT not in told


@pytest.mark.parametrize("workers", [1, 2])
def test_no_secret_is_told_by_a_start_that_fails(store: Store, locked: Node, tmp_path: Path, workers):
    """With a wrong password, with no Redis or no store at all, the one line that says why does not quote the URL."""
    away = "127.0.0.1:1"
    for url, models in (
        (url_of(locked, f"other-{GIVEN}"), store.folder),
        (f"redis://:{REDIS}@{away}", store.folder),
        (url_of(locked), f"ftp://qin:store-{GIVEN}@{away}/models"),
    ):
        log = tmp_path / "log"
        settings = {"redis_url": url, "admin_key": ADMIN, "workers": workers, "cache_dir": tmp_path / "cache"}
        with serving_process(log, store=models, **settings) as process:
            said, _ = process.communicate(timeout=60)
            assert process.returncode == 1
        assert "qin serve: " in log.read_text()
        assert GIVEN not in said + log.read_text()
