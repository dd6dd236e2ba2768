import re

import pytest

from contract.wire import Item, RankRequest
from service.stages import STAGES
from tests.service.catalogue import make_item
from tests.service.running import Running, make_settings, running, wait_until


def value(service: Running, name: str) -> float:
    """The value of one metric, labels included in its name."""
    return float(re.search(rf"^{re.escape(name)} (\S+)$", service.http.get("/metrics").text, re.MULTILINE)[1])


def test_requests_are_counted_by_route_not_by_id(service: Running):
    """Ids do not become labels, and unknown paths share one."""
    for user in range(3):
        service.client.append_events(user, [1])
    service.http.get("/v1/items/4711")
    service.http.get("/nothing/1")
    service.http.get("/nothing/2")
    assert value(service, 'qin_requests_total{method="POST",route="/v1/users/{user_id}/events",status="204"}') == 3
    assert value(service, 'qin_requests_total{method="GET",route="/v1/items/{item_id}",status="404"}') == 1
    assert value(service, 'qin_requests_total{method="any",route="none",status="404"}') == 2


def test_ranks_are_counted_and_timed(service: Running, store):
    """Candidates, unknown ones, latencies, items and the serving version can be read off."""
    service.client.rank(1, [1, 2, 5000])
    service.client.rank(1, [1])
    assert value(service, "qin_candidates_total") == 4
    assert value(service, "qin_unknown_candidates_total") == 1
    assert value(service, "qin_rank_seconds_count") == 2
    assert value(service, "qin_items") == 120
    label = f'{{model="qin",provider="CPUExecutionProvider",version="{store.new.name}"}}'
    assert value(service, f"qin_serving{label}") == 1
    service.client.promote(store.old.name)
    serving = [line for line in service.http.get("/metrics").text.splitlines() if line.startswith("qin_serving{")]
    assert [store.old.name in line for line in serving] == [True]
    assert value(service, "qin_swap_seconds_count") == 1


def test_probes_tell_life_and_readiness(service: Running):
    """Alive and ready while serving; alive and not ready once stopping."""
    assert service.http.get("/v2/health/live").json() == {"live": True}
    assert service.http.get("/v2/health/ready").json() == {"ready": True}
    service.replica.stopping = True
    response = service.http.get("/v2/health/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False})
    assert service.http.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/metrics"])
def test_probes_may_ask_for_the_head_only(service: Running, path):
    """HEAD is answered like GET, without a body."""
    response = service.http.head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_readiness_is_told_to_head_as_well(service: Running):
    """A load balancer that probes with HEAD sees a replica that is about to stop."""
    service.replica.stopping = True
    assert service.http.head("/v2/health/ready").status_code == 503


def test_tags_that_the_model_drops_are_counted(service: Running, store):
    """Tags outside the serving version's vocabulary show how far it lags behind the catalogue."""
    assert value(service, "qin_unknown_tags") == 0
    service.client.put_item(700, Item([0.5] * 8, tags=[1, 50, 60]))
    wait_until(lambda: value(service, "qin_unknown_tags") == 2)
    service.client.promote(store.old.name)
    assert value(service, "qin_unknown_tags") == 2


def test_the_active_version_is_told_beside_the_one_that_serves(service: Running, store):
    """Both are the same once a promotion is done, and no other version is called active."""
    for name in (store.new.name, store.old.name):
        service.client.promote(name)
        wait_until(lambda name=name: f'qin_active{{version="{name}"}} 1.0' in service.http.get("/metrics").text)
        assert value(service, f'qin_serving{{model="qin",provider="CPUExecutionProvider",version="{name}"}}') == 1
    assert service.http.get("/metrics").text.count("\nqin_active{") == 1


def test_stages_scores_and_writes_are_told(service: Running, store):
    """Each stage of each rank, each score under its version, each written event and item."""
    service.client.rank(1, [1, 2, 3])
    service.client.rank_many([RankRequest(1, [4]), RankRequest(2, [5, 6])])
    service.client.append_events(1, [7, 8])
    service.client.put_item(3, make_item(3))
    service.client.delete_item(4)
    for stage in STAGES:
        assert value(service, f'qin_rank_stage_seconds_count{{stage="{stage}"}}') == 2
    assert value(service, f'qin_score_count{{version="{store.new.name}"}}') == 6
    assert value(service, f'qin_score_bucket{{le="1.0",version="{store.new.name}"}}') == 6
    assert value(service, 'qin_request_candidates_bucket{le="1.0"}') == 0
    assert value(service, 'qin_request_candidates_bucket{le="5.0"}') == 2
    assert value(service, "qin_queued_candidates") == 0
    assert value(service, 'qin_writes_total{what="events"}') == 2
    assert value(service, 'qin_writes_total{what="items"}') == 2


def test_what_is_shed_is_told_by_reason(store, stocked_url):
    """A deadline that cannot be met is counted as such."""
    with running(make_settings(store.folder, stocked_url)) as service:
        body = {"user_id": 1, "candidates": [1, 2], "deadline_ms": 0.001}
        assert service.http.post("/v1/rank", json=body).status_code == 504
        assert value(service, 'qin_shed_total{reason="expired"}') == 1
        assert value(service, 'qin_shed_total{reason="wait"}') == 0
