import logging
from pathlib import Path

import pytest

from contract.client import Client, ClientError
from service.auth import AccessGate
from service.errors import ForbiddenError, SettingsError
from service.settings import read_admin_key, read_settings
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running

WRITES = [
    ("POST", "/v1/users/1/events"),
    ("PUT", "/v1/users/1/history"),
    ("DELETE", "/v1/users/1/history"),
    ("PUT", "/v1/items/1"),
    ("POST", "/v1/items"),
    ("DELETE", "/v1/items/1"),
    ("POST", "/v1/items/accept-loss"),
    ("GET", "/v1/models"),
    ("POST", "/v1/models/qin/promote"),
    ("POST", "/v1/models/qin/rollback"),
]
READS = ["/v1/users/1/history", "/v2/health/live", "/v2/health/ready", "/metrics", "/openapi.json"]


@pytest.fixture
def locked(store: Store, stocked_url):
    """A service with an admin key."""
    with running(make_settings(store.folder, stocked_url, admin_key="sésame")) as started:
        yield started


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_writing_needs_the_key(locked, method, path, plain):
    """Without a key 401, with a wrong one 403, and nothing is written; the key decides before the body is read."""
    missing = locked.http.request(method, path, content=b"{")
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    for wrong in ("Bearer other", "Bearer s\xe9same", "bearer x"):
        response = locked.http.request(method, path, headers={"Authorization": wrong.encode("latin-1")})
        assert response.status_code == 403
        assert response.headers["content-type"] == "application/problem+json"
    for malformed in ("other", "Basic c8Opc2FtZQ==", "Bearer", "Bearer,x"):
        assert locked.http.request(method, path, headers={"Authorization": malformed}).status_code == 401


def test_the_key_opens(locked, store: Store):
    """With the key everything can be written; reading and ranking never need it."""
    locked.client.append_events(1, [3])
    locked.client.promote(store.old.name)
    with Client(locked.url) as stranger:
        assert stranger.history(1) == [3]
        assert stranger.rank(1, [9]).version == store.old.name
        with pytest.raises(ClientError, match="Authorization: Bearer"):
            stranger.append_events(1, [3])
    for path in READS:
        assert locked.http.get(path).status_code == 200


@pytest.mark.parametrize("key", ["voil\u00e0", "\u00c5\u0085\u00e0", "a b"])
def test_a_key_may_end_with_any_letter(key):
    """Those whose last byte in UTF-8 is a blank in Latin-1, as headers are read, are keys like others."""
    gate = AccessGate(key.encode(), on_loopback=False)
    for padding in ("", " ", "\t "):
        gate.check({"authorization": f"Bearer {padding}{key}{padding}".encode().decode("latin-1")})
    with pytest.raises(ForbiddenError):
        gate.check({"authorization": "Bearer " + key.encode().decode("latin-1")[:-1]})


def test_the_key_is_never_shown(locked, caplog):
    """Neither settings nor the gate show the key when they are printed or logged."""
    with caplog.at_level(logging.DEBUG):
        locked.client.append_events(1, [3])
    for thing in (locked.replica.settings, locked.replica.gate, locked.replica):
        assert "sésame" not in repr(thing)
    assert "sésame" not in caplog.text


def test_without_a_key_only_this_machine_may_write(store: Store, stocked_url):
    """No key is needed on loopback; bound elsewhere writing is refused until a key is set."""
    with running(make_settings(store.folder, stocked_url, host="0.0.0.0")) as service:
        for method, path in WRITES:
            response = service.http.request(method, path)
            assert response.status_code == 403
            assert "QIN_ADMIN_KEY" in response.json()["detail"]
        assert len(service.client.rank(1, [9]).scores) == 1
    with running(make_settings(store.folder, stocked_url, host="127.0.0.1")) as service:
        service.client.append_events(1, [3])


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_page_of_another_origin_may_not_write(service: Running, method, path):
    """Without a key, a browser that names another origin than the service's is refused before its body is read."""
    own = service.url.removeprefix("http://")
    for origin in ("https://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "null", "", f"x{own}", own):
        response = service.http.request(method, path, headers={"Origin": origin}, content=b"{")
        assert response.status_code == 403, origin
        assert response.headers["content-type"] == "application/problem+json"
        assert "another origin" in response.json()["detail"]
    own_page = service.http.request(method, path, headers={"Origin": service.url}, content=b"{")
    assert own_page.status_code != 403


def test_a_key_opens_from_any_origin(locked):
    """Whoever sends the key may write, and reading needs no origin."""
    headers = {"Origin": "https://ours.example", "Authorization": "Bearer sésame".encode()}
    assert locked.http.post("/v1/users/1/events", json={"item_ids": [1]}, headers=headers).status_code == 204
    origin = {"Origin": "https://evil.example"}
    assert locked.http.post("/v1/rank", json={"user_id": 1, "candidates": [1]}, headers=origin).status_code == 200


@pytest.mark.parametrize(
    ("host", "on_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_the_rest(tmp_path: Path, host, on_loopback):
    """Only addresses that cannot be reached from elsewhere count as this machine."""
    assert read_settings(store=tmp_path, host=host).on_loopback is on_loopback


def test_the_key_may_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch):
    """Either is read without its line end; both at once, or an empty one, are refused."""
    file = tmp_path / "key"
    file.write_text("secret\n")
    assert read_admin_key(read_settings(store=tmp_path)) is None
    monkeypatch.setenv("QIN_ADMIN_KEY_FILE", str(file))
    assert read_admin_key(read_settings(store=tmp_path)) == b"secret"
    monkeypatch.setenv("QIN_ADMIN_KEY", "other")
    with pytest.raises(SettingsError, match="not both"):
        read_admin_key(read_settings(store=tmp_path))
    monkeypatch.delenv("QIN_ADMIN_KEY_FILE")
    assert read_admin_key(read_settings(store=tmp_path)) == b"other"
    monkeypatch.setenv("QIN_ADMIN_KEY", "other\n")
    assert read_admin_key(read_settings(store=tmp_path)) == b"other"
    monkeypatch.setenv("QIN_ADMIN_KEY", "")
    with pytest.raises(SettingsError, match="empty"):
        read_admin_key(read_settings(store=tmp_path))
    monkeypatch.delenv("QIN_ADMIN_KEY")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_admin_key(read_settings(store=tmp_path, admin_key_file=tmp_path / "nothing"))
