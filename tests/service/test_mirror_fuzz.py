"""Whatever happens to Redis, in whatever order, a mirror ends up with what Redis holds, or says what it lacks."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from contract.bundle import read_bundle
from contract.codec import items_key, log_key
from scoring.scorer import Scorer
from service.connection import connect
from service.hot_set import HotSet
from service.items import Items
from service.mirror import Mirror
from service.version import LoadedVersion
from tests.service.conftest import Store
from tests.service.test_mirror import contents, eventually, following, pausing

IDS = (1, 65, 129, 193, 2, 66)
BUCKETS = (1, 2)

ids = st.sampled_from(IDS)
buckets = st.sampled_from(BUCKETS)
event = st.one_of(
    st.tuples(st.just("write"), ids),
    st.tuples(st.just("write"), ids),
    st.tuples(st.just("delete"), ids),
    st.tuples(st.just("write past the log"), ids),
    st.tuples(st.just("trim"), buckets),
    st.tuples(st.just("lose the log"), buckets),
    st.tuples(st.just("lose the items"), buckets),
    st.tuples(st.just("fall back"), buckets),
    st.tuples(st.just("spoil"), buckets),
    st.tuples(st.just("keep a copy"), buckets),
    st.tuples(st.just("look"), st.just(0)),
    st.tuples(st.just("empty"), st.just(0)),
    st.tuples(st.just("accept"), st.just(0)),
    st.tuples(st.just("admit"), ids),
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that checks often."""
    monkeypatch.setattr("service.mirror._CHECK_EVERY_S", 0.02)
    monkeypatch.setattr("service.mirror._WAIT_MS", 10)


class World:
    """A Redis that things happen to. Values are counted up, so that an older one is told from a newer."""

    def __init__(self, redis: Redis, mirror: Mirror, hot_set: HotSet | None = None, version: object = None) -> None:
        self.redis, self.items, self.mirror = redis, Items(redis), mirror
        self.hot_set, self.version = hot_set, version
        self.clock = 0
        self.copies: dict[int, list[bytes | None]] = {}

    def value(self) -> bytes:
        """Return a value that no item had yet."""
        self.clock += 1
        return b"value %d" % self.clock

    async def happen(self, what: str, to: int) -> None:
        """Let one thing happen."""
        redis = self.redis
        match what:
            case "write":
                await self.items.write([to], [self.value()])
            case "delete":
                await self.items.delete([to])
            case "write past the log":
                # Only of an item that is not there: nothing can tell one value from another by their number.
                await redis.hsetnx(items_key(to % 64), str(to), self.value())
            case "trim":
                await redis.xtrim(log_key(to), maxlen=1, approximate=False)
            case "lose the log":
                await redis.delete(log_key(to))
            case "lose the items":
                await redis.delete(items_key(to))
            case "keep a copy":
                self.copies[to] = [await redis.dump(key(to)) for key in (items_key, log_key)]
            case "fall back":
                for key, copy in zip((items_key, log_key), self.copies.get(to, ()), strict=False):
                    await redis.delete(key(to))
                    if copy is not None:
                        await redis.restore(key(to), 0, copy)
            case "spoil":
                await redis.set(log_key(to), "no stream")
            case "empty":
                await redis.flushall()
            case "accept":
                await self.items.accept_loss()
            case "admit" if self.hot_set:
                await self.hot_set.admit(self.version, [to])
            case "look":
                await asyncio.sleep(0.03)

    async def stored(self) -> dict[int, bytes]:
        """Return what Redis holds."""
        stored = {}
        for bucket in BUCKETS:
            stored.update(
                {int(field): value for field, value in (await self.redis.hgetall(items_key(bucket))).items()}
            )
        return stored


def agrees(mirror: Mirror, stored: dict[int, bytes]) -> bool:
    """Whether a mirror holds what Redis does, and marks all else as lost."""
    held = contents(mirror)
    extra = held.keys() - stored.keys()
    return stored.items() <= held.items() and len(extra) == mirror.num_lost and mirror.degraded == bool(extra)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(event, max_size=25), st.booleans())
def test_a_mirror_agrees_with_redis_after_anything(redis_url, quick, happenings, away):
    """Nothing that Redis holds is missing or old, what is held beyond that is marked, and gone once accepted."""

    async def test() -> None:
        async with following(redis_url) as (mirror, items, redis):
            await redis.flushall()
            world = World(redis, mirror)
            await items.write(IDS, [world.value() for _ in IDS])
            await eventually(lambda: set(contents(mirror)) == set(IDS))
            await happen_all(world, happenings, away)
            stored = await world.stored()
            await eventually(lambda: agrees(mirror, stored))
            await items.accept_loss()
            await eventually(lambda: contents(mirror) == stored and not mirror.degraded)

    asyncio.run(test())


async def happen_all(world: World, happenings: list[tuple[str, int]], away: bool) -> None:
    """Let things happen, before the mirror's eyes or while it is away, and then put wrong types in order."""

    async def happen() -> None:
        for what, to in happenings:
            try:
                await world.happen(what, to)
            except ResponseError:
                assert [happening for happening in happenings if happening[0] == "spoil"]
        for bucket in BUCKETS:
            if await world.redis.type(log_key(bucket)) == b"string":
                await world.redis.delete(log_key(bucket))

    if away:
        async with pausing(world.mirror):
            await happen()
    else:
        await happen()


@pytest.fixture(scope="session")
def scorer(store: Store) -> Scorer:
    return Scorer(read_bundle(store.new), "cpu", 1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(event, max_size=25))
def test_a_capped_mirror_agrees_with_redis_after_anything(redis_url, quick, scorer, happenings):
    """What it holds is what Redis holds or is marked as lost, and what it knows to be absent is absent."""

    async def test() -> None:
        async with connect(redis_url, 5) as own, connect(redis_url, 5) as redis:
            await redis.flushall()
            mirror = Mirror(own, capacity=3)
            await mirror.load()
            following = asyncio.create_task(mirror.follow())
            version = LoadedVersion(scorer, mirror)
            hot_set = HotSet(mirror, Items(redis), 5000, lambda *_: None)
            with ThreadPoolExecutor(1) as thread:
                version.follow(thread)
                world = World(redis, mirror, hot_set, version)
                await world.items.write(IDS, [world.value() for _ in IDS])
                await happen_all(world, happenings, away=False)
                await world.items.accept_loss()
                stored = await world.stored()
                await eventually(lambda: contents(mirror).items() <= stored.items() and not mirror.degraded)
                await eventually(lambda: not any(map(mirror.misses.is_absent, stored)))
                for item_id in IDS:
                    async with asyncio.timeout(10):
                        while mirror.get(item_id) != stored.get(item_id):
                            await hot_set.admit(version, [item_id])
                    assert len(mirror) <= 3
                await version.close()
            following.cancel()
            await asyncio.wait([following])

    asyncio.run(test())
