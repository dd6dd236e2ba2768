"""Promotions, trials and rollbacks at the same moment in several replicas: each does what was asked, or says so."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from contract.client import ClientError
from contract.codec import versions_key
from scoring.scorer import Scorer
from service.active import ActiveVersion
from service.gate import PromotionGate
from tests.fakes import make_bundle
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running, wait_until
from tests.service.trials import answered_by, model_of

KEY = versions_key("qin")


@pytest.fixture
def third(own_store: Store) -> str:
    return make_bundle(own_store.folder, seed=3).name


@pytest.fixture
def replicas(own_store: Store, third: str, stocked_url: str) -> Iterator[tuple[Running, Running]]:
    """Two that serve the old version, before which the new one was active, and do not look what became active."""
    settings = make_settings(own_store.folder, stocked_url, follow_interval_s=60)
    with running(settings) as one, running(settings) as other:
        for replica in (other, one):
            replica.client.promote(own_store.new.name)
            replica.client.promote(own_store.old.name)
        yield one, other


def test_a_rollback_never_undoes_what_was_promoted_meanwhile(
    replicas: tuple[Running, Running], own_store: Store, third: str, plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one replica loads the version before, another one promotes: the rollback is refused."""
    one, other = replicas
    loading, go_on, verify = threading.Event(), threading.Event(), Scorer.verify

    def slowly(scorer: Scorer) -> None:
        if scorer.bundle.version == own_store.new.name:
            loading.set()
            go_on.wait(30)
        verify(scorer)

    monkeypatch.setattr(Scorer, "verify", slowly)
    with ThreadPoolExecutor(1) as pool:
        rolling = pool.submit(one.http.post, "/v1/models/qin/rollback")
        assert loading.wait(30)
        other.client.promote(third)
        go_on.set()
        assert rolling.result().status_code == 409
    assert plain.hget(KEY, "active").decode() == third
    assert plain.hget(KEY, "previous").decode() == own_store.old.name


def test_a_rollback_waits_for_no_promotion(
    replicas: tuple[Running, Running], own_store: Store, third: str, plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked while the gate judges a version, a rollback does not go back to what was before both."""
    one, _ = replicas
    judging, go_on, judge = threading.Event(), threading.Event(), PromotionGate.judge

    async def slowly(*arguments: object) -> object:
        judging.set()
        await asyncio.to_thread(go_on.wait, 30)
        return await judge(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PromotionGate, "judge", slowly)
    with ThreadPoolExecutor(2) as pool:
        promoting = pool.submit(one.client.promote, third)
        assert judging.wait(30)
        rolling = pool.submit(one.http.post, "/v1/models/qin/rollback")
        wait_until(lambda: one.http.get("/v2/health/ready").status_code == 200)
        go_on.set()
        promoting.result()
        assert rolling.result().status_code == 409
    assert plain.hget(KEY, "active").decode() == third
    assert {*answered_by(one.http).values()} == {third}


def test_the_end_of_a_trial_that_was_promoted_meanwhile_is_refused(
    replicas: tuple[Running, Running], own_store: Store, plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wants a version gone is not told that it is, while it answers everybody."""
    one, other = replicas
    one.client.promote(own_store.new.name, canary=0.5)
    end = ActiveVersion.end

    async def too_late(*arguments: object) -> bool:
        await asyncio.to_thread(other.client.promote, own_store.new.name)
        return await end(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ActiveVersion, "end", too_late)
    with pytest.raises(ClientError, match="is over already") as refused:
        one.client.rollback()
    assert refused.value.status == 409
    assert plain.hget(KEY, "active").decode() == own_store.new.name


def test_a_replica_that_starts_amid_a_trial_takes_part_from_its_first_answer(
    replicas: tuple[Running, Running], own_store: Store, stocked_url: str
) -> None:
    """Users whom the version on trial answers are not answered otherwise for as long as one needs to follow."""
    one, _ = replicas
    one.client.promote(own_store.new.name, canary=0.5)
    with running(make_settings(own_store.folder, stocked_url, follow_interval_s=60)) as late:
        assert answered_by(late.http) == answered_by(one.http)
        assert model_of(late).problem is None
