"""A version on trial for a share of the users: who gets it, how the share changes, how it ends."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from contract.client import ClientError
from contract.codec import versions_key
from scoring.scorer import Scorer
from service.lineup import Lineup, Trial
from tests.fakes import make_bundle
from tests.service.catalogue import Expected
from tests.service.conftest import Store
from tests.service.many import Load, under_load
from tests.service.running import Running, make_settings, running, wait_until
from tests.service.trials import USERS, answered_by, model_of

KEY = versions_key("qin")


def share_of(service: Running, version: str) -> set[int]:
    """The users whom a version answers."""
    return {user for user, name in answered_by(service.http).items() if name == version}


def expected_share(version: str, canary: float) -> set[int]:
    """The users whom it should answer, by the definition of the share alone."""

    class Named:
        name = version

    lineup = Lineup(Named(), Trial(version, canary, False, ""), candidate := Named())
    return {user for user in USERS if lineup.choose(user) is candidate}


def test_a_share_of_the_users_gets_the_version_and_keeps_it(service: Running, store: Store) -> None:
    """Each user is answered by one version, time and again, with its scores and under its name."""
    model = service.client.promote(store.old.name, canary=0.2).models[0]
    assert model.trial is not None
    assert (model.serving, model.active, model.previous) == (store.new.name, store.new.name, None)
    assert (model.trial.version, model.trial.canary, model.trial.shadow) == (store.old.name, 0.2, False)
    first = answered_by(service.http)
    assert first == answered_by(service.http)
    assert {user for user, name in first.items() if name == store.old.name} == expected_share(store.old.name, 0.2)
    expected = {bundle.name: Expected(bundle).scores([3, 9, 2]) for bundle in (store.old, store.new)}
    for user in range(20):
        ranking = service.client.rank(user, [3, 9, 2])
        assert ranking.version == first[user]
        np.testing.assert_allclose(ranking.scores, expected[ranking.version], rtol=0, atol=1e-6)


def test_a_growing_share_keeps_its_users(service: Running, store: Store) -> None:
    """The trial goes on with another share: whoever had the version still has it."""
    shares = []
    for canary in (0.05, 0.3, 0.8):
        service.client.promote(store.old.name, canary=canary)
        shares.append(share_of(service, store.old.name))
    assert shares[0] < shares[1] < shares[2]
    service.client.promote(store.old.name, canary=0.05)
    assert share_of(service, store.old.name) == shares[0]


def test_promoting_the_version_on_trial_loads_nothing_and_ends_the_trial(
    service: Running, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All users get it, and the version before is the previous one."""
    service.client.promote(store.old.name, canary=0.1)
    monkeypatch.setattr(Scorer, "verify", lambda _: pytest.fail("a version was loaded again"))
    model = service.client.promote(store.old.name).models[0]
    assert (model.serving, model.active, model.previous) == (store.old.name, store.old.name, store.new.name)
    assert model.trial is None
    assert share_of(service, store.old.name) == {*USERS}


def test_a_rollback_ends_the_trial_first(service: Running, store: Store) -> None:
    """Only a second rollback goes back to the version before."""
    service.client.promote(store.old.name)
    service.client.promote(store.new.name, canary=0.5)
    model = service.client.rollback().models[0]
    assert (model.active, model.previous, model.trial) == (store.old.name, store.new.name, None)
    assert share_of(service, store.old.name) == {*USERS}
    assert service.client.rollback().models[0].active == store.new.name


def test_a_version_that_was_tried_is_freed(service: Running, store: Store) -> None:
    """When the trial is over nothing follows the items for it any more."""
    before = len(service.replica.mirror._listeners)
    service.client.promote(store.old.name, canary=0.5)
    assert len(service.replica.mirror._listeners) == before + 1
    service.client.rollback()
    assert len(service.replica.mirror._listeners) == before


def test_items_that_change_are_known_to_both_versions(service: Running, store: Store) -> None:
    """What is deleted is unknown to whoever asks."""
    service.client.promote(store.old.name, canary=0.5)
    service.client.delete_item(3)
    tried = expected_share(store.old.name, 0.5)
    users = [min(tried), min({*USERS} - tried)]
    wait_until(lambda: all(service.client.rank(user, [3]).unknown_items == [0] for user in users))


def test_one_trial_at_a_time(own_store: Store, stocked_url: str) -> None:
    """A second one is refused, as is one of what is active; both say why, and nothing changes."""
    old, new, third = own_store.old.name, own_store.new.name, make_bundle(own_store.folder, seed=3).name
    with running(make_settings(own_store.folder, stocked_url)) as service:
        service.client.promote(new)
        service.client.promote(old, canary=0.5)
        for version, reason in ((third, f"{old} is on trial"), (new, "is active already")):
            for options in ({"canary": 0.1}, {"shadow": True}):
                with pytest.raises(ClientError, match=reason) as caught:
                    service.client.promote(version, **options)
                assert caught.value.status == 409
        assert share_of(service, old) == expected_share(old, 0.5)
        assert service.client.promote(third).models[0].trial is None
        assert share_of(service, third) == {*USERS}


@pytest.mark.parametrize("canary", [0, 1, -0.5, 1.5, "0.5", True])
def test_a_share_is_more_than_nobody_and_less_than_all(service: Running, store: Store, canary: object) -> None:
    """Anything else is 422 and names the field."""
    body = {"version": store.old.name, "canary": canary}
    response = service.http.post("/v1/models/qin/promote", json=body)
    assert response.status_code == 422
    assert "canary" in response.text


def test_a_version_in_the_shadow_answers_nobody(service: Running, store: Store) -> None:
    """Canary and shadow together are refused."""
    body = {"version": store.old.name, "canary": 0.5, "shadow": True}
    response = service.http.post("/v1/models/qin/promote", json=body)
    assert (response.status_code, response.json()["field"]) == (422, "canary")
    service.client.promote(store.old.name, shadow=True)
    assert share_of(service, store.old.name) == set()


def test_every_replica_follows_a_trial(store: Store, stocked_url: str) -> None:
    """Begun, grown and ended through one replica, it is the same in others, and in one that starts meanwhile."""
    settings = make_settings(store.folder, stocked_url, follow_interval_s=0.05)
    with running(settings) as service, running(settings) as other:
        service.client.promote(store.old.name, canary=0.1)
        wait_until(lambda: share_of(other, store.old.name) == expected_share(store.old.name, 0.1))
        other.client.promote(store.old.name, canary=0.4)
        wait_until(lambda: share_of(service, store.old.name) == expected_share(store.old.name, 0.4))
        with running(settings) as late:
            wait_until(lambda: share_of(late, store.old.name) == expected_share(store.old.name, 0.4))
            late.client.promote(store.old.name)
            for replica in (service, other):
                wait_until(lambda replica=replica: share_of(replica, store.old.name) == {*USERS})
        service.client.promote(store.new.name, canary=0.5)
        wait_until(lambda: share_of(other, store.new.name) == expected_share(store.new.name, 0.5))
        other.client.rollback()
        wait_until(lambda: share_of(service, store.new.name) == set())


def test_a_trial_outlives_the_loss_of_its_key(own_store: Store, stocked_url: str, plain) -> None:
    """Redis forgets what was told: the replicas tell it again, trial and previous version included."""
    third = make_bundle(own_store.folder, seed=4)
    with running(make_settings(own_store.folder, stocked_url, follow_interval_s=0.05)) as service:
        service.client.promote(own_store.new.name)
        service.client.promote(own_store.old.name)
        service.client.promote(third.name, canary=0.3)
        told = plain.hgetall(KEY)
        plain.delete(KEY)
        wait_until(lambda: plain.hgetall(KEY) == told)
        assert share_of(service, third.name) == expected_share(third.name, 0.3)


@pytest.mark.parametrize(
    "told",
    [
        {"trial": b"\xff", "trial_canary": "0.5"},
        {"trial": "x/../y", "trial_canary": "0.5"},
        {"trial_canary": "much"},
        {"trial_canary": "7"},
        {"trial_canary": "nan"},
        {"trial_canary": ""},
    ],
)
def test_a_trial_that_is_none_breaks_nothing(store: Store, stocked_url: str, plain, told: dict[str, object]) -> None:
    """Whatever stands in the hash, the active version goes on serving."""
    settings = make_settings(store.folder, stocked_url, follow_interval_s=0.02)
    with running(settings) as service:
        plain.hset(KEY, mapping={"trial": store.old.name, "trial_shadow": "0", "trial_id": "1", **told})
        time.sleep(0.1)
        assert share_of(service, store.new.name) == {*USERS}
        assert model_of(service).active == store.new.name
        assert service.client.promote(store.old.name).models[0].serving == store.old.name


def test_no_request_fails_while_trials_come_and_go(service: Running, store: Store) -> None:
    """Steady requests are answered by either version, as the share says, and by nothing else."""
    tried = expected_share(store.old.name, 0.5)
    users = [min(tried), min({*USERS} - tried)]
    loads = [Load(service.url, body={"user_id": user, "candidates": [1, 2, 3]}) for user in users]
    with under_load(*loads):
        for _ in range(3):
            service.client.promote(store.old.name, canary=0.5)
            service.client.promote(store.old.name)
            service.client.promote(store.new.name, shadow=True)
            service.client.rollback()
            service.client.promote(store.new.name)
    assert not [error for load in loads for error in load.errors]
    answers = [answer for load in loads for answer in load.answers]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["version"] for answer in answers} == {store.old.name, store.new.name}


def test_ranks_do_not_wait_for_a_version_that_is_put_on_trial(
    service: Running, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it loads all users are answered by the one that serves, and the replica says that it loads."""
    loading, go_on, verify = threading.Event(), threading.Event(), Scorer.verify

    def slowly(scorer: Scorer) -> None:
        loading.set()
        go_on.wait(30)
        verify(scorer)

    monkeypatch.setattr(Scorer, "verify", slowly)
    with ThreadPoolExecutor(1) as pool:
        promotion = pool.submit(service.client.promote, store.old.name, canary=0.9)
        assert loading.wait(30)
        assert share_of(service, store.new.name) == {*USERS}
        wait_until(lambda: [replica.state for replica in model_of(service).replicas] == ["loading"])
        go_on.set()
        promotion.result()
    assert share_of(service, store.old.name) == expected_share(store.old.name, 0.9)
    wait_until(lambda: [replica.state for replica in model_of(service).replicas] == ["serving"])
