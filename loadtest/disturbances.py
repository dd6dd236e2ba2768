"""What is done to a service while it is under load. Each notes what it did, and leaves all as it was."""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis

from contract.client import Client, ClientError
from contract.wire import Item
from loadtest.driver import Clock
from loadtest.errors import LoadTestError, WrongCallError
from loadtest.outcome import Event

_MARGIN_S = 0.5


@dataclass
class Swaps:
    """Promotes back and forth between the version that serves and the newest other one, whatever a gate says."""

    client: Client
    model: str
    pause_s: float
    most: int | None = None
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        model = self.client.model(self.model)
        self._first = model.serving
        others = [info.version for info in model.versions if info.version != self._first]
        if not others:
            raise WrongCallError(f"only one version of {self.model!r} is in the store: there is nothing to swap")
        self._second = max(others)

    def __call__(self, clock: Clock) -> None:
        """Swap until the run ends."""
        try:
            while self.most is None or len(self.events) < self.most:
                if clock.now_s() + self.pause_s > clock.end_s:
                    return
                clock.wait_until(max(clock.now_s(), 0) + self.pause_s)
                self.swap(clock)
        finally:
            self.restore()

    def restore(self) -> None:
        """Let the version serve again that served at first."""
        if len(self.events) % 2:
            self.client.promote(self._first, self.model, force=True)

    def swap(self, clock: Clock) -> None:
        """Promote the version that does not serve, and note when."""
        version = self._first if len(self.events) % 2 else self._second
        started = clock.now_s()
        self.client.promote(version, self.model, force=True)
        self.events.append(Event("swap", started, clock.now_s(), version))


@dataclass
class ItemWrites:
    """Changes the levels of some items again and again, and writes them back as they were."""

    client: Client
    item_ids: list[int]
    writes_per_s: float
    latencies_ms: list[float] = field(default_factory=list)
    num_refused: int = 0

    def __post_init__(self) -> None:
        self._items: dict[int, Item] = {}
        for item_id in self.item_ids:
            try:
                self._items[item_id] = self.client.item(item_id)
            except ClientError as error:
                if error.status != 404:
                    raise
        if not self._items:
            raise LoadTestError("none of the items that were to be changed is there")

    def __call__(self, clock: Clock) -> None:
        """Write until the run ends."""
        start_s, number = max(clock.now_s(), 0.0), 0
        try:
            while (moment_s := start_s + number / self.writes_per_s) < clock.end_s:
                clock.wait_until(moment_s)
                item_id = list(self._items)[number % len(self._items)]
                self._write(item_id, number // len(self._items))
                number += 1
        finally:
            for item_id, item in self._items.items():
                self.client.put_item(item_id, item)

    def _write(self, item_id: int, turn: int) -> None:
        item = self._items[item_id]
        level = (item.likes_level + 1 + turn) % 11
        started = time.monotonic()
        try:
            self.client.put_item(item_id, Item(item.embedding, item_id, item.tags, level, item.views_level))
        except ClientError as error:
            if error.status != 503:
                raise
            self.num_refused += 1
        else:
            self.latencies_ms.append((time.monotonic() - started) * 1e3)


@dataclass
class RedisStall:
    """Lets Redis answer nobody for a while, by `CLIENT PAUSE`, which ends by itself whatever becomes of us."""

    url: str
    stall_s: float
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        with self._client() as client:
            client.ping()

    def __call__(self, clock: Clock) -> None:
        """Stall once, a third into the run."""
        clock.wait_until(clock.end_s / 3)
        with self._client() as client:
            client.execute_command("CLIENT", "PAUSE", round(self.stall_s * 1e3), "ALL")
        started = clock.now_s()
        clock.wait_until(started + self.stall_s)
        self.events.append(Event("Redis stalled", started, clock.now_s()))

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=10, protocol=2)


def redis_of(redis_url: str | None, data_dir: Path | None) -> str:
    """Return the URL of the Redis to stall: as given, or that of the embedded Valkey of a local service.

    Raises
    ------
    WrongCallError
        Neither is given, or no embedded Valkey has its data there.
    """
    if redis_url is not None:
        return redis_url
    if data_dir is None:
        raise WrongCallError("redis-stall needs --redis, or --data-dir of a service that has its Valkey embedded")
    config = data_dir / "valkey.conf"
    path = re.search(r'^unixsocket "(.+)"$', config.read_text(), re.MULTILINE) if config.is_file() else None
    if path is None:
        raise WrongCallError(f"{data_dir} is not the data folder of an embedded Valkey")
    return f"unix://{path[1]}"
