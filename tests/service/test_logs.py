import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from service.slow import SlowRequests
from service.stages import STAGES
from tests.service.answers import make_served
from tests.service.conftest import Store
from tests.service.running import await_ready, serving_process, wait_until

RANK = {"user_id": 42, "candidates": [1, 2, 5000]}


def lines_of(log: Path, event: str) -> list[dict[str, Any]]:
    """The lines of one event; every line of a log is JSON."""
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line["event"] == event]


def test_a_slow_request_is_logged_with_where_its_time_went(store: Store, stocked_url, tmp_path: Path):
    """Stages, user, number of candidates, version and the request's name."""
    log = tmp_path / "log"
    with serving_process(log, store=store.folder, redis_url=stocked_url, slow_ms=0.001) as process:
        url = await_ready(process)
        httpx.post(f"{url}/v1/rank", json=RANK, headers={"X-Request-Id": "r7"}, timeout=30).raise_for_status()
        wait_until(lambda: lines_of(log, "slow request"))
    (line,) = lines_of(log, "slow request")
    assert (line["request_id"], line["user_id"], line["num_candidates"]) == ("r7", 42, 3)
    assert (line["versions"], line["level"]) == ([store.new.name], "warning")
    stages = {stage: line[f"{stage}_ms"] for stage in STAGES}
    assert all(duration >= 0 for duration in stages.values())
    assert 0 < sum(stages.values()) <= line["duration_ms"] + 0.01
    assert not lines_of(log, "answered")


def test_a_line_for_every_answer_is_a_matter_of_settings(store: Store, stocked_url, tmp_path: Path):
    """With the request's name, status and time, and without what its query or its headers hold."""
    log = tmp_path / "log"
    with serving_process(log, store=store.folder, redis_url=stocked_url, access_log=True) as process:
        url = await_ready(process)
        named = {"X-Request-Id": "r8", "Authorization": "Bearer hidden-1"}
        response = httpx.get(f"{url}/v1/users/7/history?token=hidden-2", headers=named, timeout=30)
        httpx.get(f"{url}/nowhere", headers={"X-Request-Id": "r9"}, timeout=30)
        wait_until(lambda: len(lines_of(log, "answered")) == 2)
    first, second = lines_of(log, "answered")
    assert (first["request_id"], first["method"], first["path"]) == ("r8", "GET", "/v1/users/7/history")
    assert (first["status"], first["num_bytes"]) == (200, len(response.content))
    assert first["duration_ms"] > 0
    assert (second["request_id"], second["status"]) == ("r9", 404)
    assert "hidden" not in log.read_text()
    assert not lines_of(log, "slow request")


def test_a_service_that_is_slow_does_not_spend_its_time_saying_so(monkeypatch: pytest.MonkeyPatch):
    """Ten lines a second, the next of which says how many were passed over."""
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    slow = SlowRequests(100)
    with capture_logs() as logged:
        fast, served = make_served(3), make_served(3, 4)
        fast.call.arrived_s = now_s - 0.05
        served.call.arrived_s = now_s - 0.25
        for _ in range(30):
            slow.note(served)
            slow.note(fast)
        assert len(logged) == 10
        now_s += 1.0
        slow.note(served)
        slow.note(served)
    assert [line["num_not_logged"] for line in logged[-3:]] == [0, 20, 0]
    assert (logged[0]["duration_ms"], logged[-1]["num_users"], logged[-1]["num_candidates"]) == (250, 2, 7)
