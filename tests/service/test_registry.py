import gc
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from contract.bundle import GOLDEN, MANIFEST, RANKER
from contract.client import ClientError
from contract.codec import versions_key
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from service import allocator
from service.errors import NoVersionError
from service.version import write_rows
from tests.fakes import make_bundle
from tests.service.catalogue import NUM_ITEMS, Expected, make_item, make_records, record_of
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running, wait_until
from tests.service.trials import falsify_golden

KEY = versions_key("qin")


def serving(service: Running) -> str:
    """The version that really answers."""
    return service.client.rank(1, [9]).version


def truncate(bundle: Path) -> None:
    """Cut the ranker's graph off."""
    content = (bundle / RANKER).read_bytes()
    (bundle / RANKER).write_bytes(content[: len(content) // 2])


def test_without_a_key_the_newest_version_becomes_active(store: Store, redis_url, plain):
    """The first replica makes the newest version the active one."""
    with running(make_settings(store.folder, redis_url)) as service:
        assert serving(service) == store.new.name
        assert plain.hget(KEY, "active").decode() == store.new.name


def test_the_active_version_serves_even_if_a_newer_one_is_there(store: Store, redis_url, plain):
    """A replica starts with the version of the key."""
    plain.hset(KEY, "active", store.old.name)
    with running(make_settings(store.folder, redis_url)) as service:
        assert serving(service) == store.old.name


def test_a_replica_that_lacks_the_active_version_serves_the_newest_and_says_so(store: Store, redis_url, plain):
    """The key stays as it is, and /v1/models tells what is wrong."""
    plain.hset(KEY, "active", "20990101T000000000Z-ffffffff")
    with running(make_settings(store.folder, redis_url)) as service:
        model = service.client.models().models[0]
        assert model.serving == serving(service) == store.new.name
        assert model.active == "20990101T000000000Z-ffffffff"
        assert "no version 20990101T000000000Z-ffffffff" in model.problem


def test_a_version_that_arrives_later_is_followed(own_store: Store, redis_url, plain, monkeypatch):
    """A replica that lacked the active version swaps to it once the store has it."""
    monkeypatch.setattr("service.pursuit._TRY_AGAIN_S", 0.1)
    away = own_store.folder / "elsewhere"
    own_store.old.rename(away)
    plain.hset(KEY, "active", own_store.old.name)
    with running(make_settings(own_store.folder, redis_url, follow_interval_s=0.05)) as service:
        assert serving(service) == own_store.new.name
        away.rename(own_store.old)
        wait_until(lambda: serving(service) == own_store.old.name)
        wait_until(lambda: service.client.models().models[0].problem is None)


def test_at_start_a_damaged_version_is_passed_over_for_one_that_can_serve(own_store: Store, redis_url):
    """The newest version being damaged keeps nobody from starting, but is told until another one is promoted."""
    truncate(own_store.new)
    with running(make_settings(own_store.folder, redis_url, follow_interval_s=0.01)) as service:
        assert serving(service) == own_store.old.name
        for _ in range(10):
            assert "not the file that was published" in service.client.models().models[0].problem
            time.sleep(0.03)
        assert service.client.promote(own_store.old.name).models[0].problem is None


def test_a_problem_of_following_is_over_once_the_active_version_serves(store: Store, redis_url, plain):
    """What kept a replica from following is forgotten when it serves what is active."""
    with running(make_settings(store.folder, redis_url, follow_interval_s=0.01)) as service:
        plain.hset(KEY, "active", "absent")
        wait_until(lambda: "no version absent" in (service.client.models().models[0].problem or ""))
        plain.hset(KEY, "active", store.new.name)
        wait_until(lambda: service.client.models().models[0].problem is None)


def test_an_active_version_that_is_no_name_counts_as_none(store: Store, redis_url, plain):
    """Bytes that are no text break nothing: the newest version serves, and a promotion repairs the key."""
    plain.hset(KEY, mapping={"active": b"\xff\xfe", "previous": b"\xff"})
    with running(make_settings(store.folder, redis_url, follow_interval_s=0.01)) as service:
        model = service.client.models().models[0]
        assert (model.serving, model.active, model.previous) == (store.new.name, None, None)
        assert service.http.post("/v1/models/qin/rollback").status_code == 409
        assert service.client.promote(store.old.name).models[0].active == store.old.name


def test_a_store_without_versions_is_refused_at_start(tmp_path: Path, redis_url):
    """There is nothing to serve, and the message says where it was looked for."""
    with pytest.raises(NoVersionError, match="holds no version"), running(make_settings(tmp_path, redis_url)):
        pass


def test_at_start_a_model_that_does_not_fit_the_stored_items_is_refused(tmp_path: Path, stocked_url):
    """A model of another embedding width cannot serve the catalogue."""
    make_bundle(tmp_path, embedding_width=16)
    settings = make_settings(tmp_path, stocked_url)
    with pytest.raises(NoVersionError, match="embedding width is 16, the stored items' 8"), running(settings):
        pass


def test_promote_swaps_here_and_everywhere(store: Store, stocked_url):
    """The replica that was asked serves the version at its answer, the others within seconds."""
    settings = make_settings(store.folder, stocked_url, follow_interval_s=0.05)
    with running(settings) as service, running(settings) as other:
        model = service.client.promote(store.old.name).models[0]
        assert (model.serving, model.active, model.previous) == (store.old.name, store.old.name, store.new.name)
        assert serving(service) == store.old.name
        wait_until(lambda: serving(other) == store.old.name)
        expected = Expected(store.old)
        for replica in (service, other):
            np.testing.assert_array_equal(np.float32(replica.client.rank(1, [9, 2]).scores), expected.scores([9, 2]))


def test_rollback_returns_to_the_version_before(service: Running, store: Store):
    """Rolling back serves what was active before, and rolling back again returns."""
    service.client.promote(store.old.name)
    assert service.client.rollback().models[0].serving == store.new.name
    assert serving(service) == store.new.name
    assert service.client.rollback().models[0].serving == store.old.name


def test_rollback_without_a_version_before_is_refused(service: Running, store: Store):
    """Nothing was active before the first version."""
    with pytest.raises(ClientError, match="no version was active before") as caught:
        service.client.rollback()
    assert caught.value.status == 409
    assert serving(service) == store.new.name


def test_promoting_what_serves_changes_nothing(service: Running, store: Store):
    """It is no error and no swap: the version before stays the version before."""
    service.client.promote(store.old.name)
    model = service.client.promote(store.old.name).models[0]
    assert (model.serving, model.previous) == (store.old.name, store.new.name)


@pytest.mark.parametrize("name", ["nothing", "..", "../other", "a/b", ".staging-1", "", "x" * 129])
def test_promoting_what_is_not_there_is_refused(service: Running, store: Store, plain, name):
    """Unknown versions are 404, and no name leads out of the store's folder."""
    response = service.http.post("/v1/models/qin/promote", json={"version": name})
    assert response.status_code in (404, 422)
    assert serving(service) == store.new.name
    assert plain.hget(KEY, "active").decode() == store.new.name


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "not the file that was published"),
        (falsify_golden, "scores is off by 0.25"),
        (lambda bundle: (bundle / GOLDEN).unlink(), "cannot be read"),
        (lambda bundle: (bundle / MANIFEST).write_text("{}"), "is not valid"),
    ],
)
def test_a_damaged_bundle_is_not_promoted(own_store: Store, stocked_url, plain, damage, reason):
    """Whatever is wrong with a bundle, the old version goes on serving and the answer says why."""
    damage(own_store.old)
    with running(make_settings(own_store.folder, stocked_url)) as service:
        with pytest.raises(ClientError, match=reason) as caught:
            service.client.promote(own_store.old.name)
        assert caught.value.status == 422
        assert serving(service) == own_store.new.name
        assert plain.hget(KEY, "active").decode() == own_store.new.name
        assert "qin_swap_failures_total 1.0" in service.http.get("/metrics").text


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"embedding_width": 16}, "its embedding width is 16, the stored items' 8"),
        ({"history_length": 4}, "its history length is 4, the serving version's 8"),
    ],
)
def test_a_bundle_of_another_schema_is_not_promoted(own_store: Store, stocked_url, schema, reason):
    """A model that needs other items or histories than there are is 409."""
    with running(make_settings(own_store.folder, stocked_url)) as service:
        other = make_bundle(own_store.folder, seed=3, **schema)
        with pytest.raises(ClientError, match=reason) as caught:
            service.client.promote(other.name)
        assert caught.value.status == 409
        assert serving(service) == own_store.new.name


def test_a_bundle_under_another_name_is_not_promoted(own_store: Store, stocked_url):
    """A folder that was renamed would answer with a version that nobody can find."""
    own_store.old.rename(own_store.old.with_name("renamed"))
    with running(make_settings(own_store.folder, stocked_url)) as service:
        with pytest.raises(ClientError, match="says to be"):
            service.client.promote("renamed")
        assert serving(service) == own_store.new.name


def test_one_swap_at_a_time(service: Running, store: Store, monkeypatch):
    """A promotion while another one loads is refused at once; the other one succeeds."""
    loading, go_on, verify = threading.Event(), threading.Event(), Scorer.verify

    def slowly(scorer: Scorer) -> None:
        loading.set()
        go_on.wait(5)
        verify(scorer)

    def promote() -> int:
        body = {"version": store.old.name}
        return httpx.post(f"{service.url}/v1/models/qin/promote", json=body, timeout=30).status_code

    monkeypatch.setattr(Scorer, "verify", slowly)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(promote)
        assert loading.wait(10)
        second = promote()
        go_on.set()
        assert (first.result(), second) == (200, 409)
    assert serving(service) == store.old.name
    assert promote() == 200


def test_a_promotion_is_not_refused_because_the_active_version_is_looked_up(store: Store, redis_url, plain):
    """A replica that looks the active version up all the time still takes every promotion."""
    with running(make_settings(store.folder, redis_url, follow_interval_s=0.0001)) as service:
        for version in [store.old.name, store.new.name] * 8:
            assert service.client.promote(version).models[0].serving == version


def test_a_swap_under_requests_fails_none_and_every_answer_names_its_version(service: Running, store: Store):
    """During ten swaps each request succeeds with the scores of the version that it names."""
    expected = {store.old.name: Expected(store.old), store.new.name: Expected(store.new)}
    service.client.put_history(1, [3, 5, 8])
    candidates = list(range(NUM_ITEMS))
    wanted = {name: scorer.scores(candidates, [3, 5, 8]) for name, scorer in expected.items()}
    assert np.abs(wanted[store.old.name] - wanted[store.new.name]).max() > 1e-2
    stop, answers = threading.Event(), []

    def rank() -> None:
        with httpx.Client(base_url=service.url, timeout=30) as http:
            while not stop.is_set():
                answers.append(http.post("/v1/rank", json={"user_id": 1, "candidates": candidates}))

    threads = [threading.Thread(target=rank) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        service.client.promote(store.old.name)
        service.client.promote(store.new.name)
    stop.set()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["version"] for answer in answers} == set(wanted)
    for answer in answers:
        content = answer.json()
        assert content["degraded"] == []
        assert content["unknown_items"] == []
        np.testing.assert_allclose(content["scores"], wanted[content["version"]], rtol=0, atol=1e-6)


def test_items_that_change_during_a_swap_are_right_after_it(service: Running, store: Store):
    """What is put, changed and deleted while versions swap is what the swapped-in version ranks."""
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for version in (store.old, store.new):
                httpx.post(f"{service.url}/v1/models/qin/promote", json={"version": version.name}, timeout=30)

    swapper = threading.Thread(target=swap)
    swapper.start()
    for i in range(40):
        service.client.put_item(i, make_item(i))
        service.client.put_item(500 + i, make_item(500 + i))
        service.client.delete_item(80 + i)
    stop.set()
    swapper.join()
    changed = [*range(40), *range(500, 540)]
    ids = [*changed, *range(40, 80)]
    records = np.concatenate([*(record_of(make_item(i)) for i in changed), make_records()[40:80]])
    asked = [*ids, *range(80, 120)]
    wait_until(lambda: service.client.rank(1, asked).unknown_items == list(range(120, 160)))
    for version in (store.old, store.new):
        service.client.promote(version.name)
        ranking = service.client.rank(1, asked)
        assert ranking.unknown_items == list(range(120, 160))
        expected = Expected(version, ids, records).scores(asked)
        np.testing.assert_allclose(ranking.scores, expected, rtol=0, atol=1e-6)


def test_items_that_change_while_a_version_is_filled_are_caught_up(service: Running, store: Store, monkeypatch):
    """What is put, changed and deleted after the catalogue was copied is known to the version once it serves."""
    copied, go_on = threading.Event(), threading.Event()

    def slowly(rows: ItemRows, item_ids: list[int], values: list[bytes]) -> None:
        if len(item_ids) == NUM_ITEMS:
            copied.set()
            go_on.wait(10)
        write_rows(rows, item_ids, values)

    monkeypatch.setattr("service.version.write_rows", slowly)
    with ThreadPoolExecutor(1) as pool:
        promotion = pool.submit(service.client.promote, store.old.name)
        assert copied.wait(10)
        service.client.put_item(7, make_item(7))
        service.client.put_item(500, make_item(500))
        service.client.delete_item(8)
        wait_until(lambda: service.client.rank(1, [7, 500, 8]).unknown_items == [2])
        go_on.set()
        promotion.result()
    ranking = service.client.rank(1, [7, 500, 8])
    assert (ranking.version, ranking.unknown_items) == (store.old.name, [2])
    expected = Expected(store.old, [7, 500], np.concatenate([record_of(make_item(i)) for i in (7, 500)]))
    np.testing.assert_allclose(ranking.scores, expected.scores([7, 500, 8]), rtol=0, atol=1e-6)


def test_the_old_version_is_freed(service: Running, store: Store):
    """After a swap nothing holds the old version's scorer, rows and tables: no collector has to come by for them."""
    old = service.replica.registry.serving
    watched = [weakref.ref(thing) for thing in (old.scorer, old.rows, old)]
    del old
    gc.disable()
    try:
        service.client.promote(store.old.name)
        wait_until(lambda: not any(reference() for reference in watched), timeout_s=5)
    finally:
        gc.enable()


def test_memory_goes_back_once_the_old_version_is_freed(service: Running, store: Store, monkeypatch):
    """Not while a request that is still in flight holds it."""
    held = service.replica.registry.serving
    old, freed = weakref.ref(held), []
    monkeypatch.setattr(allocator, "give_back", lambda: freed.append(old() is None))
    service.client.promote(store.old.name)
    time.sleep(5 * allocator._SOON_S)
    assert True not in freed
    del held
    wait_until(lambda: True in freed, timeout_s=5)


def test_the_item_encoder_is_opened_at_a_low_priority(service: Running, store: Store, monkeypatch):
    """Its session starts no threads, unlike the ranker's, whose threads have the priority of who opens it."""
    priorities, open_encoder = [], Scorer.open_encoder

    def opened(scorer: Scorer) -> None:
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        open_encoder(scorer)

    monkeypatch.setattr(Scorer, "open_encoder", opened)
    service.client.promote(store.old.name)
    assert priorities == [min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)]


def test_a_failed_swap_is_freed_too(own_store: Store, stocked_url):
    """A version that failed its check leaves no listener behind."""
    falsify_golden(own_store.old)
    with running(make_settings(own_store.folder, stocked_url)) as service:
        before = len(service.replica.mirror._listeners)
        with pytest.raises(ClientError):
            service.client.promote(own_store.old.name)
        assert len(service.replica.mirror._listeners) == before == 1


def test_requests_do_not_wait_for_a_version_that_loads(service: Running, store: Store, monkeypatch):
    """While a version takes its time to load, ranks and probes are answered as ever."""
    verify, answered = Scorer.verify, threading.Event()

    def wait_and_verify(scorer: Scorer) -> None:
        assert answered.wait(60)
        verify(scorer)

    monkeypatch.setattr(Scorer, "verify", wait_and_verify)
    with ThreadPoolExecutor(1) as pool:
        promotion = pool.submit(service.client.promote, store.old.name)
        try:
            wait_until(lambda: service.replica.registry.loading)
            for _ in range(10):
                assert service.client.rank(1, [9]).version == store.new.name
                assert service.http.get("/v2/health/ready").status_code == 200
            assert not promotion.done()
        finally:
            answered.set()
        promotion.result(60)
    assert service.client.rank(1, [9]).version == store.old.name


def test_models_lists_what_the_store_holds(service: Running, store: Store):
    """Versions come oldest first, with what is known of their quality."""
    model = service.client.model("qin")
    with pytest.raises(ClientError, match="no model 'other'"):
        service.client.model("other")
    assert [version.version for version in model.versions] == [store.old.name, store.new.name]
    assert (model.name, model.provider, model.problem) == ("qin", "CPUExecutionProvider", None)
    assert (model.versions[0].auc, model.versions[0].log_loss) == (0.5, 0.7)
