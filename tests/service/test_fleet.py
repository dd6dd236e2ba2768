"""What replicas say of themselves, and one that cannot do what the others do."""

import shutil
from pathlib import Path

import pytest

from contract.client import ClientError
from contract.codec import versions_key
from contract.wire import ReplicaInfo
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running, wait_until
from tests.service.trials import USERS, answered_by, falsify_golden, metrics_of, model_of, trial_of


def replica_that(service: Running, version: str) -> ReplicaInfo | None:
    """The replica that serves a version, if one says so."""
    found = [replica for replica in model_of(service).replicas if replica.version == version]
    return found[0] if found else None


def test_every_replica_is_listed_by_any(store: Store, stocked_url: str) -> None:
    """With what it serves and tries, from its start to its end."""
    settings = make_settings(store.folder, stocked_url, follow_interval_s=0.05)
    with running(settings) as service:
        with running(settings) as other:
            wait_until(lambda: len(model_of(service).replicas) == 2)
            service.client.promote(store.old.name, canary=0.5)
            wait_until(lambda: {replica.trial for replica in model_of(other).replicas} == {store.old.name})
            wait_until(lambda: [replica.state for replica in trial_of(other).replicas] == ["serving"] * 2)
            for replica in model_of(other).replicas:
                assert (replica.version, replica.problem) == (store.new.name, None)
                assert 0 <= replica.age_s < 15
            assert len({replica.id for replica in model_of(other).replicas}) == 2
        wait_until(lambda: len(model_of(service).replicas) == 1)


@pytest.fixture
def damaged(store: Store, tmp_path: Path) -> Path:
    """A store whose copy of the old version does not compute what it should."""
    folder = tmp_path / "damaged"
    shutil.copytree(store.folder, folder)
    falsify_golden(folder / "qin" / store.old.name)
    return folder


def test_a_replica_with_a_damaged_copy_keeps_what_it_has_and_says_so(
    store: Store, damaged: Path, stocked_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on; the report and a metric of the one tell what is wrong, until it can follow again."""
    monkeypatch.setattr("service.pursuit._TRY_AGAIN_S", 0.1)
    with (
        running(make_settings(store.folder, stocked_url, follow_interval_s=0.05)) as sound,
        running(make_settings(damaged, stocked_url, follow_interval_s=0.05)) as hurt,
    ):
        sound.client.promote(store.old.name)
        wait_until(lambda: (replica := replica_that(sound, store.new.name)) and replica.state == "failed")
        replica = replica_that(sound, store.new.name)
        assert replica is not None
        assert "scores is off by 0.25" in str(replica.problem)
        assert {*answered_by(hurt.http).values()} == {store.new.name}
        assert {*answered_by(sound.http).values()} == {store.old.name}
        assert "scores is off" in str(model_of(hurt).problem)
        assert model_of(sound).problem is None
        assert [metrics_of(each.http)["qin_version_problem"] for each in (sound, hurt)] == [0, 1]
        assert metrics_of(hurt.http)["qin_swap_failures_total"] >= 1

        def refusal() -> str:
            with pytest.raises(ClientError) as caught:
                hurt.client.promote(store.old.name)
            return str(caught.value)

        # While it tries again by itself it says that it does.
        wait_until(lambda: "scores is off" in refusal())
        assert model_of(sound).active == store.old.name
        shutil.rmtree(damaged / "qin" / store.old.name)
        shutil.copytree(store.old, damaged / "qin" / store.old.name)
        wait_until(lambda: {*answered_by(hurt.http).values()} == {store.old.name})
        wait_until(lambda: metrics_of(hurt.http)["qin_version_problem"] == 0)
        wait_until(lambda: [replica.state for replica in model_of(sound).replicas] == ["serving"] * 2)


def test_a_replica_that_cannot_take_part_in_a_trial_answers_all_with_what_serves(
    store: Store, damaged: Path, stocked_url: str
) -> None:
    """It says so, and the trial goes on elsewhere."""
    with (
        running(make_settings(store.folder, stocked_url, follow_interval_s=0.05)) as sound,
        running(make_settings(damaged, stocked_url, follow_interval_s=0.05)) as hurt,
    ):
        sound.client.promote(store.old.name, canary=0.5)
        wait_until(lambda: "failed" in [replica.state for replica in trial_of(sound).replicas])
        (failed,) = [replica for replica in trial_of(sound).replicas if replica.state == "failed"]
        assert (failed.version, failed.trial) == (store.new.name, None)
        assert {*answered_by(hurt.http).values()} == {store.new.name}
        assert {*answered_by(sound.http).values()} == {store.new.name, store.old.name}
        sound.client.rollback()
        wait_until(lambda: [replica.state for replica in model_of(sound).replicas] == ["serving"] * 2)


def test_the_catalogue_of_replicas_may_be_lost(store: Store, stocked_url: str, plain) -> None:
    """Redis emptied: who is there reports again, serves on, and can be promoted."""
    with running(make_settings(store.folder, stocked_url, follow_interval_s=0.05)) as service:
        wait_until(lambda: len(model_of(service).replicas) == 1)
        plain.flushall()
        wait_until(lambda: len(model_of(service).replicas) == 1)
        wait_until(lambda: plain.hget(versions_key("qin"), "active") == store.new.name.encode())
        assert answered_by(service.http, USERS[:1]) == {0: store.new.name}
        assert service.client.promote(store.old.name).models[0].active == store.old.name
