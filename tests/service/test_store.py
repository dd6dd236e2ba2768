"""A service whose models lie at a URL."""

import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from contract.bundle import read_manifest, stage
from contract.client import ClientError
from contract.codec import versions_key
from contract.store import open_store
from service.errors import NoVersionError
from service.settings import Settings
from tests.contract.stores import location
from tests.service.conftest import Store
from tests.service.many import many
from tests.service.running import Running, make_settings, running, wait_until

LATER = "20990101T000000000Z-00000000"


def publish(url: str, cache: Path, bundle: Path, version: str | None = None) -> str:
    """Publish a bundle to a URL, as it is or under another version."""
    manifest = read_manifest(bundle)
    manifest = manifest.model_copy(update={"version": version or manifest.version})
    store = open_store(url, cache, 60)
    staged = store.staging_folder("qin")
    stage(staged, manifest, {name: (bundle / name).read_bytes() for name in manifest.files})
    store.publish(staged, manifest.version)
    return manifest.version


class Hanging:
    """Lets a store in memory hang until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hangs, self.let_go = False, threading.Event()
        for name in ("find", "info", "cat_file"):
            monkeypatch.setattr(MemoryFileSystem, name, self._slowed(getattr(MemoryFileSystem, name)))

    def _slowed(self, original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.hangs:
                self.let_go.wait(120)
            return original(*arguments, **options)

        return call


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    store = Hanging(monkeypatch)
    yield store
    store.let_go.set()


@pytest.fixture
def url(store: Store, tmp_path: Path) -> Iterator[str]:
    """A store in memory that holds the older version."""
    with location("memory", tmp_path) as url:
        publish(url, tmp_path / "exporter", store.old)
        yield url


def settings_of(url: str, redis_url: str, cache: Path, **others: Any) -> Settings:
    return make_settings(url, redis_url, cache_dir=cache, **others)  # type: ignore[arg-type]


def serving(service: Running) -> str:
    return service.client.rank(1, [9]).version


def test_what_is_published_to_a_url_is_listed_and_promoted(
    url: str, store: Store, stocked_url: str, tmp_path: Path
) -> None:
    """A running service sees a new version at once, and loads it from a copy of its own."""
    with running(settings_of(url, stocked_url, tmp_path / "cache")) as service:
        assert serving(service) == store.old.name
        publish(url, tmp_path / "exporter", store.new)
        assert [version.version for version in service.client.model().versions] == [store.old.name, store.new.name]
        service.client.promote(store.new.name, force=True)
        assert serving(service) == store.new.name
        assert sorted(path.name for path in (tmp_path / "cache").glob("bundles/*/qin/2*")) == [
            store.old.name,
            store.new.name,
        ]


def test_a_store_that_hangs_stops_neither_ranks_nor_following(
    url: str, store: Store, stocked_url: str, plain, hanging: Hanging, tmp_path: Path
) -> None:
    """What is cached can still become active, what is not is refused with the reason, and ranks go on throughout."""
    with running(settings_of(url, stocked_url, tmp_path / "cache", store_timeout_s=0.5)) as service:
        publish(url, tmp_path / "exporter", store.new)
        service.client.promote(store.new.name, force=True)
        publish(url, tmp_path / "exporter", store.new, LATER)
        hanging.hangs = True
        with pytest.raises(ClientError, match=r"did not answer within 0\.5 s") as refused:
            service.client.promote(LATER, force=True)
        assert refused.value.status == 503
        assert serving(service) == store.new.name
        plain.hset(versions_key("qin"), "active", store.old.name)
        wait_until(lambda: serving(service) == store.old.name, timeout_s=60)
        listed = service.client.model()
        assert [version.version for version in listed.versions] == [store.old.name, store.new.name]


def test_a_service_starts_on_its_copy_while_the_store_is_away(
    url: str, store: Store, stocked_url: str, hanging: Hanging, tmp_path: Path
) -> None:
    """Whether something is active already or not; without a copy the start ends with the reason."""
    settings = settings_of(url, stocked_url, tmp_path / "cache", store_timeout_s=0.5)
    with running(settings) as service:
        assert serving(service) == store.old.name
    hanging.hangs = True
    with running(settings) as service:
        assert serving(service) == store.old.name
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(NoVersionError, match="answer"), running(settings):
        pass


def test_a_store_that_is_empty_is_named(stocked_url: str, tmp_path: Path) -> None:
    """The start says which store and which model, without what gives entry to it."""
    with (
        location("memory", tmp_path) as empty,
        pytest.raises(NoVersionError, match=f"nothing to serve: {empty} holds no version of qin"),
        running(settings_of(empty, stocked_url, tmp_path / "cache")),
    ):
        pass


def test_a_store_with_a_password_is_not_shown(tmp_path: Path) -> None:
    """Settings that are printed, in an error or a log, do not tell the store's URL."""
    settings = settings_of("ftp://user:hush@host/models", "redis://host", tmp_path)
    assert "hush" not in repr(settings)


@pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")
def test_workers_serve_from_a_url(store: Store, stocked_url: str, tmp_path: Path) -> None:
    """Owner and workers share the copies; a promotion reaches all of them."""
    with location("file", tmp_path) as url:
        publish(url, tmp_path / "exporter", store.old)
        with many(tmp_path, store=url, redis_url=stocked_url, cache_dir=tmp_path / "cache") as service:
            service.wait_whole()
            publish(url, tmp_path / "exporter", store.new)
            body = {"version": store.new.name, "force": True}
            httpx.post(f"{service.url}/v1/models/qin/promote", json=body, timeout=60).raise_for_status()
            for _ in range(10):
                answer = httpx.post(f"{service.url}/v1/rank", json={"user_id": 1, "candidates": [9]}, timeout=30)
                assert answer.json()["version"] == store.new.name
