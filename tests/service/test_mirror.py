"""The mirror against a real Redis whose log is trimmed, lost, replaced and cut off."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from structlog.testing import CapturingLogger

from contract.codec import NUM_BUCKETS, items_key, log_key
from service import log
from service.connection import connect
from service.items import Items
from service.mirror import Mirror


@contextlib.asynccontextmanager
async def following(url: str) -> AsyncIterator[tuple[Mirror, Items, Redis]]:
    """A mirror that follows, and a writer."""
    async with connect(url, 5) as own, connect(url, 5) as redis:
        mirror = Mirror(own)
        await mirror.load()
        _tasks[mirror] = asyncio.create_task(mirror.follow())
        try:
            yield mirror, Items(redis), redis
        finally:
            await _stop(mirror)


@contextlib.asynccontextmanager
async def pausing(mirror: Mirror) -> AsyncIterator[None]:
    """Keep a mirror from following for as long as the block runs."""
    await _stop(mirror)
    yield
    _tasks[mirror] = asyncio.create_task(mirror.follow())


async def _stop(mirror: Mirror) -> None:
    task = _tasks.pop(mirror)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


_tasks: dict[Mirror, asyncio.Task[None]] = {}


async def eventually(condition: Callable[[], object], timeout_s: float = 10) -> None:
    """Wait until a condition holds; fails where it does not come to hold."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def write(items: Items, **values: bytes) -> None:
    """Write items `i<id>=value`."""
    await items.write([int(name[1:]) for name in values], list(values.values()))


def contents(mirror: Mirror) -> dict[int, bytes]:
    """Everything that a mirror holds."""
    return dict(zip(*mirror.snapshot(), strict=True))


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())


def test_a_mirror_reads_what_is_there_and_follows_what_comes(redis_url):
    """Items written before and after the start, changes and deletions all arrive."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), i1=b"one", i2=b"two", i65=b"same bucket as 1")
        async with following(redis_url) as (mirror, items, _):
            assert contents(mirror) == {1: b"one", 2: b"two", 65: b"same bucket as 1"}
            await write(items, i3=b"three", i1=b"uno")
            await items.delete([2, 404])
            await eventually(lambda: contents(mirror) == {1: b"uno", 3: b"three", 65: b"same bucket as 1"})
            assert len(mirror) == 3
            assert mirror.get(1) == b"uno"
            assert mirror.get(2) is None

    run(test)


def test_a_burst_of_writes_arrives_whole(redis_url):
    """Thousands of writes to few buckets, far more than one read takes, all arrive, each with its last value."""

    async def test() -> None:
        async with following(redis_url) as (mirror, items, _):
            for turn in range(60):
                await items.write(list(range(300)), [b"%d" % (turn * i) for i in range(300)])
            await eventually(lambda: contents(mirror) == {i: b"%d" % (59 * i) for i in range(300)})

    run(test)


def test_writes_while_the_snapshot_is_read_are_not_missed(redis_url):
    """Whatever is written during the first read is in the mirror afterwards."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            items = Items(redis)
            await items.write(list(range(20_000)), [b"before"] * 20_000)
            async with asyncio.TaskGroup() as group:

                async def change() -> None:
                    for i in range(0, 20_000, 100):
                        await items.write([i], [b"after"])

                group.create_task(change())
                async with following(redis_url) as (mirror, _, _):
                    wanted = {i: b"after" if i % 100 == 0 else b"before" for i in range(20_000)}
                    await eventually(lambda: contents(mirror) == wanted)

    run(test)


def test_listeners_hear_which_items_changed(redis_url):
    """A listener is told the ids that changed or went, until it is taken away."""

    async def test() -> None:
        async with following(redis_url) as (mirror, items, _):
            heard: set[int] = set()
            mirror.subscribe(heard.update)
            await write(items, i1=b"one", i2=b"two")
            await eventually(lambda: heard == {1, 2})
            mirror.unsubscribe(heard.update)
            await write(items, i3=b"three")
            await eventually(lambda: mirror.get(3))
            assert heard == {1, 2}

    run(test)


def test_each_entry_names_the_one_before_it_and_the_epoch(redis_url):
    """The log of a bucket is a chain under one epoch, which differs between buckets."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            items = Items(redis)
            for value in (b"a", b"b", b"c"):
                await write(items, i1=value, i2=value)
            chains = [await redis.xrange(log_key(bucket)) for bucket in (1, 2)]
            for chain in chains:
                links = [entry + b" " + fields[b"n"] for entry, fields in chain]
                assert [fields[b"p"] for _, fields in chain] == [b"", *links[:2]]
                assert len({fields[b"e"] for _, fields in chain}) == 1
                assert len({fields[b"n"] for _, fields in chain}) == 3
            assert chains[0][0][1][b"e"] != chains[1][0][1][b"e"]

    run(test)


async def trim(redis: Redis) -> None:
    """A log too short: entries that were not read yet are gone."""
    await write(Items(redis), i65=b"y")
    await write(Items(redis), i65=b"y")
    await redis.xtrim(log_key(1), maxlen=1, approximate=False)


async def lose(redis: Redis) -> None:
    """A lost log; the next write begins another one."""
    await redis.delete(log_key(1))


async def empty(redis: Redis) -> None:
    """A log that was emptied, but is still there."""
    await redis.xtrim(log_key(1), maxlen=0, approximate=False)


async def restart(redis: Redis) -> None:
    """Another log under another epoch, whose entries come after the ones that were read."""
    await redis.delete(log_key(1))
    await redis.xadd(log_key(1), {"e": "other", "p": "0-0", "ids": "65"})


async def fall_back(redis: Redis) -> None:
    """A replica that lagged took over: the same epoch, but the last entries never happened."""
    for entry, _ in (await redis.xrevrange(log_key(1)))[:2]:
        await redis.xdel(log_key(1), entry)


async def diverge(redis: Redis) -> None:
    """A replica that lagged took over, and gave the id of an entry that never happened to another one."""
    ((entry, fields), (before, _)) = await redis.xrevrange(log_key(1), count=2)
    await redis.delete(log_key(1))
    await redis.xadd(log_key(1), {"e": fields[b"e"], "n": "other", "p": before + b" x", "ids": "65"}, id=entry)


@pytest.mark.parametrize("damage", [trim, lose, empty, restart, fall_back, diverge])
@pytest.mark.parametrize("then_write", [False, True])
@pytest.mark.parametrize("meanwhile_away", [False, True])
def test_a_broken_chain_is_noticed_and_the_bucket_read_again(redis_url, damage, then_write, meanwhile_away):
    """Whatever happens to a log, the mirror soon holds what Redis holds: changed, added and vanished items."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), **{f"i{i}": b"old" for i in range(1, 200)})
        async with following(redis_url) as (mirror, items, redis):
            await write(items, i65=b"x")
            await write(items, i65=b"y")
            await eventually(lambda: mirror.get(65) == b"y")
            async with pausing(mirror) if meanwhile_away or damage is trim else contextlib.nullcontext():
                # Behind the log's back, as in a failover: one bucket's items become others, as many as before.
                async with redis.pipeline(transaction=True) as pipeline:
                    pipeline.hset(items_key(1), mapping={"1": b"changed", "257": b"added"})
                    pipeline.hdel(items_key(1), "129")
                    await pipeline.execute()
                await damage(redis)
                if then_write:
                    await write(items, i65=b"new")
            wanted = dict.fromkeys(range(1, 200), b"old") | {1: b"changed", 257: b"added"}
            wanted[65] = b"new" if then_write else b"y"
            other_log = damage in (lose, empty, restart)
            if not other_log:
                del wanted[129]
            await eventually(lambda: contents(mirror) == wanted)
            # Of a log that is another one nobody can say that the item was deleted: Redis may have lost it.
            assert mirror.degraded == other_log
            await write(items, i65=b"later")
            await eventually(lambda: mirror.get(65) == b"later")

    run(test)


def test_a_redis_that_comes_back_empty_does_not_empty_the_mirror(redis_url):
    """Items that nobody deleted are kept and marked until they are written again or deleted."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), **{f"i{i}": b"old" for i in range(1, 100)})
        async with following(redis_url) as (mirror, items, redis):
            await redis.flushall()
            await eventually(lambda: mirror.degraded)
            assert contents(mirror) == dict.fromkeys(range(1, 100), b"old")
            await write(items, i1=b"new", i500=b"other")
            await items.delete([2])
            await eventually(lambda: mirror.get(500) and mirror.get(1) == b"new" and mirror.get(2) is None)
            assert mirror.get(3) == b"old"
            assert mirror.degraded
            await write(items, **{f"i{i}": b"again" for i in range(1, 100)})
            await eventually(lambda: not mirror.degraded)
            assert contents(mirror) == dict.fromkeys(range(1, 100), b"again") | {500: b"other"}

    run(test)


def test_a_catalogue_that_is_deleted_item_by_item_is_empty(redis_url):
    """Deleting everything through the log is no loss."""

    async def test() -> None:
        async with following(redis_url) as (mirror, items, _):
            await write(items, **{f"i{i}": b"old" for i in range(1, 100)})
            await eventually(lambda: len(mirror) == 99)
            await items.delete(list(range(1, 100)))
            await eventually(lambda: len(mirror) == 0)
            await asyncio.sleep(1.2)
            assert not mirror.degraded

    run(test)


def test_a_dropped_connection_loses_nothing(redis_url):
    """Writes before, while and after the mirror's connection is cut arrive."""

    async def test() -> None:
        async with following(redis_url) as (mirror, items, redis):
            for turn in range(20):
                await write(items, i1=b"%d" % turn, **{f"i{100 + turn}": b"x"})
                if turn % 5 == 2:
                    await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await eventually(lambda: mirror.get(1) == b"19" and len(mirror) == 21)

    run(test)


def test_following_ends_whenever_it_is_cancelled(redis_url):
    """A cancellation is never lost, whatever the mirror is doing when it comes."""

    async def cancel_after(delay_s: float) -> None:
        async with connect(redis_url, 5) as own:
            mirror = Mirror(own)
            await mirror.load()
            task = asyncio.create_task(mirror.follow())
            await asyncio.sleep(delay_s)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=5)
            assert done

    async def test() -> None:
        for _ in range(5):
            await asyncio.gather(*(cancel_after(i * 0.0004) for i in range(20)))

    run(test)


ALIEN = [
    {"what": "ever"},
    {"e": "epoch", "p": "0-0", "ids": "2 x"},
    {"e": "epoch", "p": "0-0", "ids": "-62"},
    {"e": "epoch", "p": "0-0", "ids": "9" * 40},
    {"ids": "2", "p": "0-0"},
]


@pytest.mark.parametrize("fields", ALIEN)
def test_an_entry_that_is_not_ours_is_passed_over(redis_url, fields):
    """It means only that its bucket is read again: this bucket and all others are followed on, before and after."""

    async def test() -> None:
        async with following(redis_url) as (mirror, items, redis):
            await write(items, i1=b"a", i2=b"a")
            await eventually(lambda: mirror.get(2) == b"a")
            await redis.hset(items_key(2), "66", b"behind the log's back")
            await redis.xadd(log_key(2), fields)
            await eventually(lambda: mirror.get(66))
            await write(items, i1=b"b", i2=b"b")
            await eventually(lambda: contents(mirror) == {1: b"b", 2: b"b", 66: b"behind the log's back"})
            await redis.xadd(log_key(2), fields)
            await write(items, i2=b"c", i1=b"c")
            await eventually(lambda: mirror.get(1) == mirror.get(2) == b"c", timeout_s=2)

    run(test)


def test_a_log_of_something_else_from_the_start_is_passed_over(redis_url):
    """A log whose last entry is not ours, and fields that are no ids, keep nobody from reading the rest."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), i2=b"a")
            for field in ("x", "-62", "1_0", "02", "3", "9" * 40):
                await redis.hset(items_key(2), field, b"no item of this bucket")
            await redis.xadd(log_key(2), ALIEN[1])
        async with following(redis_url) as (mirror, items, _):
            assert contents(mirror) == {2: b"a"}
            await write(items, i2=b"b")
            await eventually(lambda: contents(mirror) == {2: b"b"})

    run(test)


def test_logs_are_kept_short(redis_url):
    """A bucket's log does not grow without end."""

    async def test() -> None:
        async with connect(redis_url, 30) as redis:
            for _ in range(24):
                pipeline = redis.pipeline(transaction=False)
                for _ in range(500):
                    pipeline.xadd(log_key(0), {"e": "e", "p": "p", "ids": ""})
                await pipeline.execute()
            await write(Items(redis), i64=b"x")
            assert 10_000 <= await redis.xlen(log_key(0)) <= 10_200
            assert NUM_BUCKETS == 64

    run(test)


async def spoil_log(redis: Redis) -> None:
    """Another type where the log of bucket 1 should be."""
    await redis.set(log_key(1), "no stream")


async def spoil_items(redis: Redis) -> None:
    """Another type where the items of bucket 1 should be."""
    await redis.set(items_key(1), "no hash")


@pytest.mark.parametrize("spoil", [spoil_log, spoil_items])
@pytest.mark.parametrize("from_the_start", [False, True])
def test_a_bucket_that_cannot_be_read_holds_up_no_other(redis_url, spoil, from_the_start, monkeypatch):
    """Its items stay as they are, the mirror says that it is degraded, and all is well once the key is in order."""
    log = CapturingLogger()
    monkeypatch.setattr("service.mirror._log", log)

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), i1=b"old", i2=b"old")
            if from_the_start:
                await redis.delete(items_key(1), log_key(1))
                await spoil(redis)
        async with following(redis_url) as (mirror, items, redis):
            if not from_the_start:
                await redis.delete(items_key(1), log_key(1))
                await spoil(redis)
            await eventually(lambda: mirror.degraded)
            for turn in range(3):
                await write(items, i2=b"%d" % turn)
                await eventually(lambda turn=turn: mirror.get(2) == b"%d" % turn, timeout_s=2)
            assert mirror.get(1) == (None if from_the_start else b"old")
            with pytest.raises(ResponseError):
                await write(items, i1=b"new")
            await redis.delete(items_key(1), log_key(1))
            await write(items, i1=b"new")
            await eventually(lambda: contents(mirror) == {1: b"new", 2: b"2"} and not mirror.degraded)
            assert [call.kwargs["bucket"] for call in log.calls if call.method_name == "error"] == [1]

    run(test)


def test_items_written_past_the_log_are_noticed_by_their_number(redis_url):
    """Whoever adds or removes fields of a hash without a log entry is seen within a check."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), **{f"i{64 * i + 1}": b"old" for i in range(10)})
        async with following(redis_url) as (mirror, _, redis):
            await redis.hset(items_key(1), "641", b"secret")
            await eventually(lambda: mirror.get(641) == b"secret")
            await redis.hdel(items_key(1), "65", "129")
            await eventually(lambda: mirror.get(65) is None and mirror.get(129) is None)
            assert len(mirror) == 9
            assert not mirror.degraded

    run(test)


def test_a_number_that_never_fits_is_looked_into_once(redis_url, monkeypatch):
    """Fields that no scan ever gives, or gives twice, do not make the mirror read a bucket for ever."""
    monkeypatch.setattr("service.mirror._CHECK_EVERY_S", 0.02)
    monkeypatch.setattr("service.mirror._WAIT_MS", 10)
    scan = Items.scan

    async def giving_one_twice(self: Items, bucket: int) -> AsyncIterator[tuple[dict[int, bytes], int]]:
        async for page, foreign in scan(self, bucket):
            yield page, foreign + (bucket == 1)

    monkeypatch.setattr(Items, "scan", giving_one_twice)

    async def num_scans(redis: Redis) -> int:
        return (await redis.info("commandstats"))["cmdstat_hscan"]["calls"]

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), i1=b"old")
            await redis.hset(items_key(1), "no id", b"x")
        async with following(redis_url) as (mirror, items, redis):
            await redis.hset(items_key(1), "nor this", b"x")
            await eventually(lambda: mirror._buckets[1].num_foreign == 3)
            before = await num_scans(redis)
            await asyncio.sleep(0.5)
            after = await num_scans(redis)
            assert after <= before + 1
            await write(items, i1=b"new")
            await eventually(lambda: mirror.get(1) == b"new")

    run(test)


def test_items_that_a_scan_skipped_are_found(redis_url):
    """A failover in the middle of a scan goes on with a cursor of another server: the number tells."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), i1=b"a", i65=b"b", i129=b"c")
        async with following(redis_url) as (mirror, _, _):
            async with pausing(mirror):
                del mirror._buckets[1].values[65]
            await eventually(lambda: mirror.get(65) == b"b")

    run(test)


def test_a_hash_that_is_deleted_is_a_loss_until_somebody_accepts_it(redis_url):
    """Most of a bucket gone and no log entry: its items are kept, and go when the loss is accepted."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), **{f"i{64 * i + 1}": b"old" for i in range(4)}, i2=b"old")
        async with following(redis_url) as (mirror, items, redis):
            await redis.delete(items_key(1))
            await eventually(lambda: mirror.degraded)
            await write(items, i65=b"new")
            await eventually(lambda: mirror.get(65) == b"new")
            assert len(mirror) == 5
            assert mirror.num_lost == 3
            await items.accept_loss()
            await eventually(lambda: not mirror.degraded)
            assert contents(mirror) == {65: b"new", 2: b"old"}

    run(test)


@pytest.mark.parametrize("refilled", [0, 30, 70])
@pytest.mark.parametrize("away", [False, True])
def test_a_loss_is_accepted_by_every_mirror_whenever_it_looks(redis_url, refilled, away):
    """Emptied, perhaps partly refilled, accepted, written to again: one that was away meanwhile agrees with Redis."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), **{f"i{i}": b"old" for i in range(1, 100)})
        async with following(redis_url) as (mirror, items, redis):
            async with pausing(mirror) if away else contextlib.nullcontext():
                await redis.flushall()
                if not away:
                    await eventually(lambda: mirror.num_lost == 99)
                await write(items, **{f"i{i}": b"again" for i in range(1, refilled + 1)})
                if not away:
                    await eventually(lambda: mirror.num_lost == 99 - refilled)
                    assert len(mirror) == 99
                await items.accept_loss()
                await write(items, i500=b"other")
            wanted = dict.fromkeys(range(1, refilled + 1), b"again") | {500: b"other"}
            await eventually(lambda: contents(mirror) == wanted and not mirror.degraded)

    run(test)


def test_emptied_and_partly_refilled_keeps_what_is_missing(redis_url):
    """A mirror that was away while Redis was emptied and most of it loaded again still knows the rest."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), **{f"i{i}": b"old" for i in range(1, 300)})
        async with following(redis_url) as (mirror, items, redis):
            async with pausing(mirror):
                await redis.flushall()
                await write(items, **{f"i{i}": b"again" for i in range(1, 290)})
            wanted = dict.fromkeys(range(1, 290), b"again") | dict.fromkeys(range(290, 300), b"old")
            await eventually(lambda: contents(mirror) == wanted and mirror.num_lost == 10)
            assert mirror.degraded

    run(test)


def test_what_is_written_again_while_a_loss_is_looked_into_never_goes(redis_url, monkeypatch):
    """The log then names an item that the reading just before it missed: it was put, not deleted."""
    read_since, heard = log.read_since, set[int]()

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), i1=b"old", i65=b"old", i129=b"old")
        async with following(redis_url) as (mirror, items, redis):

            async def written_before(*arguments: Any) -> list[log.Entry]:
                monkeypatch.setattr(log, "read_since", read_since)
                await write(items, i1=b"again", i129=b"again")
                await items.delete([129])
                return await read_since(*arguments)

            mirror.subscribe(lambda changed: heard.update(i for i in changed if mirror.get(i) is None))
            monkeypatch.setattr(log, "read_since", written_before)
            await redis.flushall()
            await eventually(lambda: contents(mirror) == {1: b"again", 65: b"old"})
            assert mirror.num_lost == 1
        assert heard == {129}

    run(test)


def test_a_listener_that_fails_keeps_nobody_from_hearing(redis_url):
    """Others are told, and the mirror moves on."""

    def fail(_: object) -> None:
        raise RuntimeError("no")

    async def test() -> None:
        async with following(redis_url) as (mirror, items, _):
            heard: set[int] = set()
            mirror.subscribe(fail)
            mirror.subscribe(heard.update)
            await write(items, i1=b"one")
            await eventually(lambda: heard == {1})
            await write(items, i1=b"two", i2=b"two")
            await eventually(lambda: heard == {1, 2} and mirror.get(1) == b"two", timeout_s=2)

    run(test)


def test_items_deleted_while_the_snapshot_is_read_are_gone(redis_url):
    """Whatever a scan still shows of them, and however often they come and go in the same millisecond."""

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            items = Items(redis)
            await items.write(list(range(20_000)), [b"before"] * 20_000)

            async def change() -> None:
                for i in range(0, 20_000, 100):
                    await items.write([i, i, i, i + 1], [b"", b"x", b"", b""])

            changing = asyncio.create_task(change())
            async with following(redis_url) as (mirror, _, _):
                await changing
                gone = {*range(0, 20_000, 100), *range(1, 20_000, 100)}
                wanted = dict.fromkeys(set(range(20_000)) - gone, b"before")
                await eventually(lambda: contents(mirror) == wanted)

    run(test)


def test_buckets_are_followed_while_another_is_read_again(redis_url, monkeypatch):
    """A bucket that takes long to read keeps no other's news waiting."""
    go_on = asyncio.Event()
    scan = Items.scan

    async def slowly(self: Items, bucket: int) -> AsyncIterator[tuple[dict[int, bytes], int]]:
        async for page in scan(self, bucket):
            if bucket == 1 and page[0].get(1) == b"changed":
                await go_on.wait()
            yield page

    monkeypatch.setattr(Items, "scan", slowly)

    async def test() -> None:
        async with connect(redis_url, 5) as redis:
            await write(Items(redis), i1=b"old", i2=b"old", i3=b"old")
        async with following(redis_url) as (mirror, items, redis):
            await redis.hset(items_key(1), "1", b"changed")
            await redis.delete(log_key(1))
            for turn in range(200):
                await write(items, i2=b"%d" % turn)
                await eventually(lambda turn=turn: mirror.get(2) == b"%d" % turn, timeout_s=2)
                if mirror._buckets[1].broken:
                    break
            await write(items, i2=b"last", i1=b"later")
            await eventually(lambda: mirror.get(2) == b"last", timeout_s=2)
            assert mirror.get(1) == b"old"
            go_on.set()
            await eventually(lambda: mirror.get(1) == b"later")

    run(test)


def test_the_largest_id_is_an_item_like_any_other(redis_url):
    """Ids of 64 bits are written, followed and deleted."""

    async def test() -> None:
        async with following(redis_url) as (mirror, items, _):
            await items.write([2**63 - 1, 2**63 - 65], [b"last", b"same bucket"])
            await eventually(lambda: contents(mirror) == {2**63 - 1: b"last", 2**63 - 65: b"same bucket"})
            await items.delete([2**63 - 1])
            await eventually(lambda: contents(mirror) == {2**63 - 65: b"same bucket"})

    run(test)
