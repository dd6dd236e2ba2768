"""A mirror that holds fewer items than the catalogue has, and a service on top of it."""

import asyncio
import random
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import redis

from contract.bundle import read_bundle
from contract.codec import log_key, pack_items
from scoring.scorer import Scorer
from service.batch import assemble
from service.connection import connect
from service.errors import SettingsError
from service.hot_set import HotSet
from service.items import Items
from service.mirror import Mirror
from service.query import Query
from service.settings import Settings
from service.version import LoadedVersion
from tests.service.catalogue import Expected, make_item, make_records, record_of, store_items
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running, wait_until
from tests.service.test_degraded import Patient
from tests.service.test_mirror import contents, eventually, run

NUM_ITEMS = 400
CAPACITY = 60


@pytest.fixture
def large_url(redis_url: str) -> str:
    """A Redis that holds more items than the mirror."""
    store_items(redis_url, range(NUM_ITEMS), make_records(NUM_ITEMS))
    return redis_url


def small(store: Store, url: str, **others: object) -> Settings:
    """Settings of a service that mirrors a part of the catalogue."""
    defaults = {"mirror_capacity": CAPACITY, "max_candidates": 30, "item_timeout_ms": 5000}
    return make_settings(store.folder, url, **{**defaults, **others})


@pytest.fixture
def capped(store: Store, large_url: str) -> Iterator[Running]:
    with running(small(store, large_url)) as service:
        yield service


@pytest.fixture(scope="session")
def expected(store: Store) -> Expected:
    return Expected(store.new, range(NUM_ITEMS), make_records(NUM_ITEMS))


def events(service: Running) -> dict[str, int]:
    """What happened to items so far, as the metrics tell."""
    found = re.findall(r'^qin_hot_items_total{event="(\w+)"} (\S+)$', service.http.get("/metrics").text, re.MULTILINE)
    return {event: int(float(count)) for event, count in found}


def num_reads(plain: redis.Redis) -> int:
    """How often items were read by id so far."""
    return int(plain.info("commandstats").get("cmdstat_hmget", {}).get("calls", 0))


def assert_ranked(service: Running, expected: Expected, candidates: Sequence[int], history: Sequence[int]) -> None:
    ranking = service.client.rank(1, candidates, history=history)
    assert (ranking.unknown_items, ranking.degraded) == ([], [])
    np.testing.assert_allclose(ranking.scores, expected.scores(candidates, history), rtol=0, atol=1e-6)


def churn(service: Running, item_ids: Iterable[int]) -> None:
    """Rank items once, few at a time."""
    ids = list(item_ids)
    for start in range(0, len(ids), 20):
        service.client.rank(1, ids[start : start + 20], history=[])


def test_every_item_ranks_as_if_it_were_mirrored(capped: Running, expected: Expected):
    """Candidates and history items outside the mirror are read in: scores are those of the whole catalogue."""
    generator = random.Random(3)
    for _ in range(60):
        candidates = [generator.randrange(NUM_ITEMS) for _ in range(20)]
        assert_ranked(capped, expected, candidates, [generator.randrange(1, NUM_ITEMS) for _ in range(8)])
        assert len(capped.replica.mirror) <= CAPACITY


def test_many_ranks_at_once_are_all_right(capped: Running, expected: Expected):
    """Ranks that put out each other's items, and that miss the same ones, are answered like any other."""

    def rank(seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(20):
            candidates = generator.sample(range(NUM_ITEMS), 6)
            ranking = capped.client.rank(seed, candidates, history=[generator.randrange(1, NUM_ITEMS)] * 2)
            if not ranking.degraded:
                assert ranking.unknown_items == []

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(rank, range(4)))
    assert_ranked(capped, expected, [1, 2, 3], [4, 5])
    assert len(capped.replica.mirror) <= CAPACITY


def test_tables_never_grow_and_rows_come_back(capped: Running):
    """However many items pass through, the tables stay as they were made, and unused rows are free again."""
    rows = capped.replica.registry.serving.rows
    with rows.view() as view:
        num_rows = view.tables.capacity
    churn(capped, [*range(NUM_ITEMS), *range(0, NUM_ITEMS, 3)])
    for item_id in range(40):
        capped.client.put_item(item_id, make_item(item_id))
    wait_until(lambda: len(rows) == len(capped.replica.mirror))
    wait_until(lambda: rows.num_free_rows == num_rows - 1 - len(rows))
    with rows.view() as view:
        assert view.tables.capacity == num_rows


def test_items_in_use_stay(capped: Running, expected: Expected):
    """What is ranked again and again is not put out by what is ranked once."""
    hot = list(range(300, 310))
    for start in range(0, 200, 10):
        assert_ranked(capped, expected, hot, [])
        churn(capped, range(start, start + 10))
    before = events(capped)
    assert before["evicted"] > 0
    assert_ranked(capped, expected, hot, [])
    after = events(capped)
    assert after["missed"] == before["missed"]
    assert after["hit"] == before["hit"] + len(hot)


def test_items_that_redis_lacks_are_asked_for_once(capped: Running, plain: redis.Redis):
    """Unknown ids cost a round trip the first time only; once such an item is written it is known."""
    unknown = [5000, 5001, 2**63 - 1]
    assert capped.client.rank(1, unknown, history=[6000]).unknown_items == [0, 1, 2]
    asked = num_reads(plain)
    for _ in range(5):
        ranking = capped.client.rank(1, unknown, history=[6000])
        assert (ranking.unknown_items, ranking.degraded) == ([0, 1, 2], [])
    assert num_reads(plain) == asked
    capped.client.put_item(5001, make_item(5001))
    wait_until(lambda: capped.client.rank(1, unknown, history=[6000]).unknown_items == [0, 2], timeout_s=5)


def test_changes_reach_items_inside_and_outside_the_mirror(capped: Running, store: Store):
    """Updates and deletions are seen, wherever the item was when they happened."""
    churn(capped, range(NUM_ITEMS))
    inside = next(i for i in range(NUM_ITEMS) if capped.replica.mirror.get(i) is not None)
    outside = next(i for i in range(NUM_ITEMS) if capped.replica.mirror.get(i) is None)
    for item_id in (inside, outside):
        item = make_item(item_id)
        capped.client.put_item(item_id, item)
        score = Expected(store.new, [item_id], record_of(item)).scores([item_id])[0]
        wait_until(lambda i=item_id, s=score: abs(capped.client.rank(1, [i], history=[]).scores[0] - s) < 1e-6)
        capped.client.delete_item(item_id)
        wait_until(lambda i=item_id: capped.client.rank(1, [i], history=[]).unknown_items == [0])


def test_updates_of_items_outside_the_mirror_are_not_even_read(capped: Running, plain: redis.Redis):
    """While the mirror is full, writing what nobody ranks costs it nothing."""
    churn(capped, range(NUM_ITEMS))
    outside = [i for i in range(NUM_ITEMS) if capped.replica.mirror.get(i) is None]
    held, asked = contents(capped.replica.mirror), num_reads(plain)
    inside = next(iter(held))
    store_items(
        capped.replica.settings.redis_url.get_secret_value(), outside, make_records(NUM_ITEMS, seed=8)[outside]
    )
    capped.client.put_item(inside, make_item(inside))
    wait_until(lambda: capped.replica.mirror.get(inside) != held[inside])
    assert num_reads(plain) == asked + 1
    assert contents(capped.replica.mirror).keys() == held.keys()


def test_a_redis_that_stalls_costs_missing_items_and_little_time(store: Store, tmp_path: Path):
    """What cannot be read in time is ranked as unknown, and the answer says so; what is mirrored is as ever."""
    patient = Patient(tmp_path)
    try:
        store_items(patient.url, range(NUM_ITEMS), make_records(NUM_ITEMS))
        with running(small(store, patient.url, item_timeout_ms=50, history_timeout_ms=50)) as service:
            mirrored = [i for i in range(NUM_ITEMS) if service.replica.mirror.get(i) is not None][:5]
            outside = next(i for i in range(NUM_ITEMS) if service.replica.mirror.get(i) is None)
            patient.signal(signal.SIGSTOP)
            for _ in range(8):
                ranking = service.client.rank(1, [*mirrored, outside], history=[])
                assert (ranking.unknown_items, ranking.degraded) == ([5], ["items"])
            assert service.client.rank(1, mirrored, history=[]).degraded == []
            assert events(service)["unread"] == 8
            patient.signal(signal.SIGCONT)
            wait_until(lambda: service.client.rank(1, [outside], history=[]).degraded == [])
            assert service.client.rank(1, [outside], history=[]).unknown_items == []
    finally:
        patient.signal(signal.SIGCONT)
        patient.kill()


def test_a_version_is_exchanged_over_a_capped_mirror(capped: Running, store: Store):
    """The new version ranks every item too, and knows which items were in use under the old one."""
    hot = list(range(1, 11))
    churn(capped, [*range(100, 200), *hot])
    capped.client.promote(store.old.name)
    before = events(capped)
    old = Expected(store.old, range(NUM_ITEMS), make_records(NUM_ITEMS))
    churn(capped, range(300, 345))
    assert_ranked(capped, old, hot, [])
    assert events(capped)["missed"] == before["missed"] + 45
    assert_ranked(capped, old, range(100, 120), [5, 6])


def test_items_that_the_model_cannot_read_make_room_too(store: Store, redis_url: str, expected: Expected):
    """A mirror full of what this model cannot rank takes in what it can."""
    records = make_records(NUM_ITEMS)
    store_items(redis_url, range(NUM_ITEMS), records)

    async def spoil() -> None:
        async with connect(redis_url, 10) as client:
            await Items(client).write(range(1000, 1000 + CAPACITY), [b"nothing that can be read"] * CAPACITY)

    with running(small(store, redis_url)) as service:
        asyncio.run(spoil())
        for start in range(1000, 1000 + CAPACITY, 20):
            ids = range(start, start + 20)
            assert service.client.rank(1, ids, history=[]).unknown_items == list(range(20))
        assert_ranked(service, expected, range(20), [50, 51])
        assert_ranked(service, expected, range(20, 40), [50, 51])
        assert len(service.replica.mirror) <= CAPACITY


def test_items_of_a_catalogue_that_fits_are_all_mirrored(store: Store, redis_url: str):
    """With room for all, new items come in as they are written, not only once they are ranked."""
    store_items(redis_url, range(20), make_records(20))
    with running(small(store, redis_url)) as service:
        store_items(redis_url, range(20, 40), make_records(40)[20:])
        wait_until(lambda: len(service.replica.mirror) == 40)
        store_items(redis_url, range(100, 400), make_records(400)[100:])
        wait_until(lambda: len(service.replica.mirror) == CAPACITY)


@pytest.mark.parametrize("others", [{"mirror_capacity": 59}, {"workers": 2}])
def test_a_capacity_that_cannot_work_is_refused(store: Store, redis_url: str, others: dict[str, int]):
    """It must hold what two requests may rank, and there must be one process that knows what is used."""
    with pytest.raises(SettingsError, match="setting mirror_capacity"):
        small(store, redis_url, **others)


class Held:
    """Reads items, and holds the answer back until it is let go."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self.was_read, self.let_go = asyncio.Event(), asyncio.Event()
        self.num_reads = 0

    async def read(self, item_ids: Iterable[int]) -> dict[int, bytes | None]:
        """Read once, and wait."""
        self.num_reads += 1
        values = await self._items.read(item_ids)
        self.was_read.set()
        await self.let_go.wait()
        return values


VALUES = pack_items(make_records(3))


@pytest.mark.parametrize("first", [VALUES[0], None], ids=["there", "not there"])
@pytest.mark.parametrize("second", [VALUES[1], b""], ids=["changed", "deleted"])
@pytest.mark.parametrize("how", ["log", "broken log"])
def test_a_value_that_is_on_its_way_never_outlives_a_newer_one(
    store: Store, redis_url: str, first: bytes | None, second: bytes, how: str
):
    """An item that is written after it was read for a rank and before it is held is read again."""

    async def test() -> None:
        async with connect(redis_url, 10) as own, connect(redis_url, 10) as client:
            items = Items(client)
            await items.write([1, 2], VALUES[1:3])
            mirror = Mirror(own, capacity=2)
            await mirror.load()
            following = asyncio.create_task(mirror.follow())
            version = LoadedVersion(Scorer(read_bundle(store.new), "cpu", 1), mirror)
            with ThreadPoolExecutor(1) as thread:
                await version.fill(thread)
                version.follow(thread)
                await items.write([65], [first if first is not None else b""])
                held = Held(items)
                hot_set = HotSet(mirror, held, 10_000, lambda *_: None)
                admission = asyncio.create_task(hot_set.admit(version, [65]))
                await held.was_read.wait()
                if how == "broken log":
                    await client.delete(log_key(1))
                await items.write([65, 1], [second, VALUES[0]])
                await eventually(lambda: mirror.get(1) == VALUES[0])
                held.let_go.set()
                await admission
                assert held.num_reads == 2
                assert mirror.get(65) == (second or None)
                assert mirror.misses.is_absent(65) == (not second)
                await version.close()
            following.cancel()
            await asyncio.wait([following])

    run(test)


def test_an_item_that_is_held_and_has_no_row_yet_is_waited_for(store: Store, redis_url: str):
    """A rank that misses an item while another one is reading it in counts it as missing, never as unknown."""

    async def test() -> None:
        async with connect(redis_url, 10) as own, connect(redis_url, 10) as client:
            items = Items(client)
            await items.write([1, 2], VALUES[1:3])
            mirror = Mirror(own, capacity=3)
            await mirror.load()
            version = LoadedVersion(Scorer(read_bundle(store.new), "cpu", 1), mirror)
            with ThreadPoolExecutor(1) as thread:
                await version.fill(thread)
                version.follow(thread)
                await items.write([65], [VALUES[0]])
                hot_set = HotSet(mirror, items, 10_000, lambda *_: None)
                query = Query(1, np.array([65]), np.array([65]))
                with version.rows.view() as view:
                    looked_up = assemble(view, [query], [query.history])
                may_write = threading.Event()
                thread.submit(may_write.wait, 10)
                admission = asyncio.create_task(hot_set.admit(version, [65]))
                await eventually(lambda: mirror.get(65) is not None)
                assert hot_set.missing(version, looked_up) == {0: {65}}
                may_write.set()
                await admission
                # That one looked before the row was there and asks after it was.
                assert hot_set.missing(version, looked_up) == {0: {65}}
                num_reads = (await client.info("commandstats"))["cmdstat_hmget"]["calls"]
                await hot_set.admit(version, [65])
                assert (await client.info("commandstats"))["cmdstat_hmget"]["calls"] == num_reads
                with version.rows.view() as view:
                    assert not assemble(view, [query], [query.history]).missing
                await version.close()

    run(test)


def test_ids_that_redis_lacks_are_remembered_within_bounds(redis_url: str):
    """Whoever asks for ever new unknown ids does not fill the memory."""

    async def test() -> None:
        async with connect(redis_url, 10) as own:
            mirror = Mirror(own, capacity=10)
            for start in range(0, 1_000_000, 10_000):
                mirror.misses.remember_absent(range(start, start + 10_000))
            assert mirror.misses.num_absent == 64 * 2048
            assert mirror.misses.is_absent(999_999)
            assert not mirror.misses.is_absent(0)

    run(test)
