"""A version in the shadow: what is compared, and that nobody waits for it."""

import threading

import numpy as np
import pytest

from contract.client import ClientError
from contract.codec import shadow_key
from contract.wire import ShadowReport
from service.background import BackgroundScorer
from tests.service.catalogue import NUM_ITEMS, Expected
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running, wait_until
from tests.service.trials import metrics_of, rank_many, trial_of

CANDIDATES = [*range(0, NUM_ITEMS, 2), 7, 7, 10**12]


def seen_of(service: Running) -> ShadowReport:
    shadow = trial_of(service).shadow
    assert shadow is not None
    return shadow


def await_seen(service: Running, num_requests: int) -> ShadowReport:
    """The report, once so many requests were compared or dropped."""
    wait_until(lambda: (seen := seen_of(service)).requests + seen.dropped + seen.failed >= num_requests, 30)
    return seen_of(service)


def test_the_report_is_what_both_versions_give(service: Running, store: Store) -> None:
    """It is computed from what users were answered with, and what they would have been; duplicates and all."""
    histories = {user: [3 + user, 9, 4] for user in range(12)}
    for user, history in histories.items():
        service.client.put_history(user, history)
    service.client.promote(store.old.name, shadow=True)
    answers = rank_many(service.http, len(histories), CANDIDATES)
    seen = await_seen(service, len(histories))
    assert {answer["version"] for answer in answers} == {store.new.name}
    by_old = Expected(store.old)
    pairs = [
        (np.array(answer["scores"]), by_old.scores(CANDIDATES, history).astype(np.float64))
        for answer, history in zip(answers, histories.values(), strict=True)
    ]
    x, y = (np.concatenate(scores) for scores in zip(*pairs, strict=True))
    assert (seen.requests, seen.candidates, seen.dropped, seen.failed) == (12, 12 * len(CANDIDATES), 0, 0)
    assert seen.mean_difference == pytest.approx(np.abs(x - y).mean(), rel=1e-4)
    assert seen.max_difference == pytest.approx(np.abs(x - y).max(), rel=1e-4)
    assert seen.correlation == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-4)
    assert seen.same_top_1 == pytest.approx(np.mean([a.argmax() == b.argmax() for a, b in pairs]))
    shared = [len({*np.argsort(-a, kind="stable")[:10]} & {*np.argsort(-b, kind="stable")[:10]}) for a, b in pairs]
    assert seen.top_10_overlap == pytest.approx(np.mean(shared) / 10, abs=0.02)
    for summary, scores in ((seen.serving, x), (seen.trial, y)):
        assert summary.mean == pytest.approx(scores.mean(), rel=1e-4)
        assert summary.quantiles["p50"] == pytest.approx(np.median(scores), rel=0.15)
    assert seen.num_timed == 1
    assert seen.serving_ms is not None
    assert seen.trial_ms is not None
    assert min(seen.serving_ms, seen.trial_ms) > 0


def test_levels_of_the_request_count_for_both(service: Running, store: Store) -> None:
    """What a request says in place of what is stored is what the version in the shadow is told too."""
    levels = [i % 10 for i in range(len(CANDIDATES))]
    service.client.promote(store.old.name, shadow=True)
    answer = service.client.rank(1, CANDIDATES, history=[5], likes_level=levels, views_level=levels)
    seen = await_seen(service, 1)
    difference = np.abs(Expected(store.old).scores(CANDIDATES, [5], levels, levels) - np.array(answer.scores))
    assert seen.max_difference == pytest.approx(difference.max(), rel=1e-4)


def test_the_report_adds_up_over_replicas(store: Store, stocked_url: str) -> None:
    """Any of them tells what all have seen, one that has stopped included."""
    settings = make_settings(store.folder, stocked_url, follow_interval_s=0.05)
    with running(settings) as service:
        with running(settings) as other:
            service.client.promote(store.old.name, shadow=True)
            wait_until(lambda: other.replica.registry.lineup.is_shadowed)
            rank_many(service.http, 3, CANDIDATES)
            rank_many(other.http, 4, CANDIDATES)
            assert await_seen(other, 7).requests == 7
        assert await_seen(service, 7).requests == 7
        assert 'qin_shadow_requests_total{event="compared"} 3.0' in service.http.get("/metrics").text


def test_several_users_of_one_request_are_compared_each(service: Running, store: Store) -> None:
    """A request of several users counts as as many."""
    service.client.promote(store.old.name, shadow=True)
    body = {"requests": [{"user_id": user, "candidates": [1, 2, 3][: user + 1]} for user in range(3)]}
    assert service.http.post("/v1/rank", json=body).status_code == 200
    seen = await_seen(service, 3)
    assert (seen.requests, seen.candidates) == (3, 6)


def test_nothing_is_seen_of_other_trials(service: Running, store: Store, plain) -> None:
    """The report begins anew with each trial, is gone with it, and asks for one."""
    with pytest.raises(ClientError, match="no version of qin is on trial") as caught:
        trial_of(service)
    assert caught.value.status == 404
    service.client.promote(store.old.name, shadow=True)
    rank_many(service.http, 2, CANDIDATES)
    assert await_seen(service, 2).requests == 2
    service.client.promote(store.old.name, canary=0.5)
    assert trial_of(service).shadow is None
    service.client.promote(store.old.name, shadow=True)
    assert seen_of(service).requests == 0
    rank_many(service.http, 1, CANDIDATES)
    assert await_seen(service, 1).requests == 1
    service.client.rollback()
    assert not plain.exists(shadow_key("qin"))
    rank_many(service.http, 1, CANDIDATES)


def test_a_version_asked_for_by_name_is_not_compared_with_itself(service: Running, store: Store) -> None:
    """Only what the serving version answered is compared."""
    service.client.promote(store.old.name, shadow=True)
    v2 = {
        "inputs": [
            {"name": "USER_ID", "shape": [1, 1], "datatype": "INT64", "data": [1]},
            {"name": "CANDIDATES", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]},
        ]
    }
    response = service.http.post(f"/v2/models/qin/versions/{store.old.name}/infer", json=v2)
    assert response.status_code == 200, response.text
    rank_many(service.http, 1, CANDIDATES)
    assert await_seen(service, 1).candidates == len(CANDIDATES)


def test_what_is_too_much_is_dropped_counted_and_never_waited_for(
    service: Running, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the shadow's thread held up all requests are answered; those past its bound are dropped."""
    monkeypatch.setattr("service.shadow._TIME_EVERY", 10**9)
    go_on, score = threading.Event(), BackgroundScorer.score

    def slowly(scorer: BackgroundScorer, *inputs: object) -> object:
        go_on.wait(60)
        return score(scorer, *inputs)

    monkeypatch.setattr(BackgroundScorer, "score", slowly)
    service.client.promote(store.old.name, shadow=True)
    assert len(rank_many(service.http, 80, [1, 2])) == 80
    wait_until(lambda: seen_of(service).dropped == 80 - 64)
    go_on.set()
    seen = await_seen(service, 80)
    assert (seen.requests, seen.dropped, seen.failed) == (64, 16, 0)
    assert metrics_of(service.http)['qin_shadow_requests_total{event="dropped"}'] == 16


def test_what_cannot_be_scored_is_counted(service: Running, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the shadow is logged and counted; answers know nothing of it."""

    def failing(*_: object) -> object:
        raise RuntimeError

    monkeypatch.setattr(BackgroundScorer, "score", failing)
    service.client.promote(store.old.name, shadow=True)
    rank_many(service.http, 3, CANDIDATES)
    assert await_seen(service, 3).failed == 3


def test_metrics_tell_of_a_trial(service: Running, store: Store) -> None:
    """The version, what kind of trial it is and the share, for as long as it lasts."""
    for options, kind, share in (({"shadow": True}, "shadow", 0), ({"canary": 0.25}, "canary", 0.25)):
        service.client.promote(store.old.name, **options)
        wanted = f'qin_trial{{kind="{kind}",model="qin",version="{store.old.name}"}}'
        assert metrics_of(service.http)[wanted] == share
    service.client.rollback()
    assert not [name for name in metrics_of(service.http) if name.startswith("qin_trial{")]
