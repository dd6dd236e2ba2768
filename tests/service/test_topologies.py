"""Everything that the service does with Redis, in every topology; failovers and slots that move meanwhile."""

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from redis.crc import key_slot
from redis.exceptions import RedisError

from contract.codec import (
    NUM_BUCKETS,
    history_key,
    items_key,
    log_key,
    pack_history,
    recent_key,
    replicas_key,
    retry_key,
)
from contract.wire import ReplicaInfo
from service.active import ActiveVersion, Told
from service.call import Call
from service.comparison import Comparison
from service.connection import check, connect, or_unavailable
from service.errors import InvalidError, RedisAbsentError, UnavailableError
from service.fleet import Fleet
from service.items import Items
from service.lineup import Trial
from service.observers import Served
from service.query import Query
from service.ranker import Ranking
from service.recent import RecentRequests
from service.shadow_sums import ShadowSums
from service.start_check import ACL_RULE, ACL_RULE_CLUSTER
from service.timed import TimedRedis
from service.users import Histories
from tests.service.catalogue import NUM_ITEMS, make_records, store_items
from tests.service.conftest import Store
from tests.service.running import make_settings, running, wait_until
from tests.service.servers import (
    Cluster,
    Node,
    Replicated,
    cluster,
    everything_with_tls,
    info_of,
    migrate_keys,
    primary_with_replica,
    standalone,
    with_acl,
    with_tls,
)
from tests.service.test_mirror import contents, eventually, following

PASSWORD = "p@ss/w:rd"
QUOTED = "p%40ss%2Fw%3Ard"
TOPOLOGIES = ("tcp", "acl", "tls", "sentinel", "cluster")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Iterator[Cluster]:
    """A Cluster of three masters, which knows a user that is allowed what the service needs and no more."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        for node in made.masters:
            rule = f"{ACL_RULE} {ACL_RULE_CLUSTER}".split()
            node.command("ACL", "SETUSER", "qin", "on", f">{PASSWORD}", *rule)
        yield made


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[Replicated]:
    """A primary with its replica and three Sentinels."""
    with primary_with_replica(tmp_path_factory.mktemp("watched"), num_sentinels=3) as made:
        yield made


@pytest.fixture(params=TOPOLOGIES)
def url(request, tmp_path: Path) -> Iterator[str]:
    """An empty Redis of each kind; where there are users, by one who is allowed only what is needed."""
    if request.param == "cluster":
        made = request.getfixturevalue("sharded")
        for node in made.masters:
            node.command("FLUSHALL")
        yield made.url.replace("//", f"//qin:{QUOTED}@")
    elif request.param == "sentinel":
        made = request.getfixturevalue("watched")
        made.primary.command("FLUSHALL")
        yield made.url
    elif request.param == "tls":
        with with_tls(tmp_path) as (node, certificates):
            yield f"{node.url}?{'&'.join(f'{name}={path}' for name, path in certificates.options.items())}"
    elif request.param == "acl":
        with with_acl(tmp_path, f"qin on >{PASSWORD} {ACL_RULE}") as node:
            yield node.url.replace("//", f"//qin:{QUOTED}@")
    else:
        with standalone(tmp_path) as node:
            yield f"{node.url}/3"


def test_items_are_written_followed_and_deleted(url):
    """A mirror sees items written before and after it began, changes and deletions, soon."""

    async def test() -> None:
        async with connect(url, 10) as redis:
            await check(redis, url)
            items = Items(redis)
            await items.write(range(200), [b"old %d" % i for i in range(200)])
            assert await items.count() == 200
            assert (await items.sample() or b"").startswith(b"old ")
        async with following(url) as (mirror, items, _):
            wanted = {i: b"old %d" % i for i in range(200)}
            assert contents(mirror) == wanted
            await items.write([7, 500, 7], [b"between", b"added", b"changed"])
            await items.delete([8, 404])
            wanted |= {7: b"changed", 500: b"added"}
            del wanted[8]
            await eventually(lambda: contents(mirror) == wanted)
            assert await items.read([7, 8]) == {7: b"changed", 8: None}
            await items.accept_loss()
            await items.write([9], [b"last"])
            await eventually(lambda: mirror.get(9) == b"last")

    asyncio.run(test())


def test_histories_are_appended_once_each_and_read_together(url):
    """A repetition under the same key does nothing, other items under it are refused, one read gives many users."""

    async def test() -> None:
        async with connect(url, 10) as redis:
            histories = Histories(redis, 3)
            for user in range(20):
                await asyncio.gather(*(histories.append(user, [1, user + 1], "key") for _ in range(5)))
                await histories.append(user, [9])
            with pytest.raises(InvalidError):
                await histories.append(4, [5], "key")
            assert await histories.read(range(20)) == [pack_history([1, user + 1, 9]) for user in range(20)]
            await histories.append(4, [10, 11])
            assert await histories.read([4]) == [pack_history([9, 10, 11])]
            await histories.replace(5, [1, 2, 3, 4])
            await histories.replace_many([(6, pack_history([6])), (7, pack_history([7]))])
            await histories.delete(8)
            assert await histories.read([5, 6, 7, 8]) == [
                pack_history([2, 3, 4]),
                pack_history([6]),
                pack_history([7]),
                b"",
            ]

    asyncio.run(test())


def test_the_active_version_is_told(url):
    """It is proposed once, then changed, and the one before is known."""

    async def test() -> None:
        async with connect(url, 10) as redis:
            active = ActiveVersion(redis, "qin")
            assert await active.read() == Told()
            await active.propose("1")
            await active.propose("2")
            await active.write("3", before="2")
            assert await active.read() == Told("3", "1")

    asyncio.run(test())


def test_a_trial_is_told(url):
    """It begins if no other is under way, changes, ends once, and is told again if it was lost."""
    few, many, other = Trial("2", 0.05, False, "x"), Trial("2", 0.5, False, "x"), Trial("3", 0.0, True, "y")

    async def test() -> None:
        async with connect(url, 10) as redis:
            active = ActiveVersion(redis, "qin")
            await active.restore("1", Told("1", "0", few))
            assert await active.read() == Told("1", "0", few)
            await active.restore("9", Told("9"))
            assert [await active.begin(trial) for trial in (many, other, Trial("1", 0.5, False, "z"))] == [1, 0, 0]
            assert await active.read() == Told("1", "0", many)
            assert [await active.end(trial) for trial in (other, many, many)] == [False, True, False]
            assert await active.begin(other)
            await active.write("3", before="1")
            assert await active.read() == Told("3", "1")

    asyncio.run(test())


async def comes_true(look: Callable[[], Awaitable[Any]], condition: Callable[[Any], object]) -> None:
    """Look again and again until what is seen is as it should be."""
    while not condition(await look()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_what_processes_saw_of_a_trial_goes_with_it(url):
    """Sums of a trial are written while it lasts, read from all processes, and gone with its end."""
    trial = Trial("2", 0.0, True, "x")

    class Seen:
        def __init__(self, num_requests: int) -> None:
            self._sums = msgspec.msgpack.encode(Comparison(requests=num_requests))

        def sums(self) -> tuple[Trial, bytes]:
            return trial, self._sums

    async def test() -> None:
        async with connect(url, 10) as redis, asyncio.timeout(30):
            active, sums = ActiveVersion(redis, "qin"), ShadowSums(redis, "qin")
            await active.propose("1")
            await active.begin(trial)
            writing = [asyncio.create_task(sums.keep_writing(Seen(count))) for count in (2, 3)]
            await comes_true(sums.report, lambda report: report.requests == 5)
            await active.end(trial)
            assert (await sums.report()).requests == 0
            for task in writing:
                task.cancel()

    asyncio.run(test())


def test_replicas_report(url):
    """Each is read by all until it says goodbye, with its age by the server's clock; what is no report is dropped."""

    def report(name: str) -> ReplicaInfo:
        return ReplicaInfo(name, "now", "1", None, "serving", None)

    async def test() -> None:
        async with connect(url, 10) as redis, asyncio.timeout(30):
            fleet = Fleet(redis, "qin")
            await redis.hset(replicas_key("qin"), mapping={"old": "1000 {}", "odd": b"\xff"})
            tasks = [asyncio.create_task(fleet.keep_reporting(lambda name=name: report(name))) for name in ("a", "b")]
            await comes_true(fleet.read, lambda replicas: [replica.id for replica in replicas] == ["a", "b"])
            assert all(0 <= replica.age_s < 30 for replica in await fleet.read())
            assert await redis.hmget(replicas_key("qin"), ["old", "odd"]) == [None, None]
            tasks[0].cancel()
            await asyncio.wait(tasks[:1])
            assert [replica.id for replica in await fleet.read()] == ["b"]
            tasks[1].cancel()
            await asyncio.wait(tasks)
            assert await fleet.read() == []

    asyncio.run(test())


def test_recent_requests_are_kept(url):
    """So many are kept and the newest come first; what is none is passed over."""

    def served(user: int) -> Served:
        query = Query(user, np.arange(1, 1001))
        levels = np.stack([np.arange(1000) % 11, np.arange(1000) % 7], axis=1)
        ranking = Ranking(query, "1", np.zeros(1000), np.zeros(0), (), np.array([5, 2**62]), levels, None)
        return Served(Call(), [ranking])

    async def test() -> None:
        async with connect(url, 10) as redis, asyncio.timeout(30):
            assert await RecentRequests(redis, "qin", 3).read() == []
            for user in range(5):
                recent = RecentRequests(redis, "qin", 3)
                recent.note(served(user))
                recent.note(served(99))
                await comes_true(recent.read, lambda kept, user=user: kept and kept[0].user_id == user)
            assert [request.user_id for request in await recent.read()] == [4, 3, 2]
            (newest, *_) = await recent.read()
            assert newest.candidates.tolist() == list(range(1, 1001, 4))
            assert newest.history.tolist() == [5, 2**62]
            assert newest.levels.tolist() == [[i % 11, i % 7] for i in range(0, 1000, 4)]
            await redis.xadd(recent_key("qin"), {"r": b"\xff"})
            assert len(await RecentRequests(redis, "qin", 3).read()) == 2
            assert await RecentRequests(redis, "qin", 0).read() == []

    asyncio.run(test())


def test_the_service_runs(url, store: Store):
    """From start to a promotion, by HTTP, as whoever is allowed no more than is needed."""
    store_items(url, range(NUM_ITEMS), make_records())
    with running(make_settings(store.folder, url)) as service:
        service.client.append_events(1, [3, 5], idempotency_key="a")
        assert service.client.history(1) == [3, 5]
        ranking = service.client.rank(1, [9, 2])
        assert (ranking.degraded, ranking.unknown_items) == ([], [])
        service.client.delete_item(9)
        wait_until(lambda: service.client.rank(1, [9]).unknown_items == [0])
        service.client.promote(store.old.name)
        assert service.client.rank(1, [9]).version == store.old.name
        service.client.rollback()
        assert service.client.rank(1, [9]).version == store.new.name


@pytest.mark.parametrize("lacking", [part for part in ACL_RULE.split() if part[0] == "+"])
def test_each_part_of_the_rule_is_needed_and_missed_by_name(tmp_path_factory, acl_node, lacking):
    """Without it the check at start fails, and says which."""
    rule = [part for part in ACL_RULE.split() if part != lacking]
    acl_node.command("ACL", "SETUSER", "some", "reset", "on", "nopass", *rule)
    url = acl_node.url.replace("//", "//some:any@")

    async def test() -> None:
        async with connect(url, 10) as redis:
            with pytest.raises(RedisAbsentError, match=rf"does not allow this user {lacking[1:]} on qin:\*"):
                await check(redis, url)

    asyncio.run(test())


@pytest.mark.parametrize("lacking", ACL_RULE_CLUSTER.split())
def test_each_part_of_the_rule_of_a_cluster_is_needed_and_missed_by_name(sharded: Cluster, lacking):
    """Who may not ask for the slots, or enter one that is half moved, is told at start rather than then."""
    rule = [part for part in f"{ACL_RULE} {ACL_RULE_CLUSTER}".split() if part != lacking]
    for node in sharded.masters:
        node.command("ACL", "SETUSER", "some", "reset", "on", "nopass", *rule)
    url = sharded.url.replace("//", "//some:any@")

    async def test() -> None:
        async with connect(url, 10) as redis:
            with pytest.raises(RedisAbsentError) as caught:
                await check(redis, url)
            assert "does not allow" in str(caught.value)
            assert str(caught.value).count(lacking[1:]) == 2, "once as missing, once in the rule"

    asyncio.run(test())


@pytest.fixture(scope="module")
def acl_node(tmp_path_factory) -> Iterator[Node]:
    with standalone(tmp_path_factory.mktemp("acl")) as node:
        yield node


@pytest.mark.parametrize("lacking", ["ssl_ca_certs", "ssl_certfile"])
def test_tls_without_the_certificates_is_refused(tmp_path: Path, lacking):
    """A server that no authority vouches for is not talked to, and it lets in nobody without a certificate."""
    with with_tls(tmp_path) as (node, certificates):
        options = {name: path for name, path in certificates.options.items() if name != lacking}
        options.pop("ssl_keyfile") if lacking == "ssl_certfile" else None
        url = f"{node.url}?{'&'.join(f'{name}={path}' for name, path in options.items())}"

        async def test() -> None:
            async with connect(url, 10) as redis:
                await check(redis, url)

        with pytest.raises(RedisAbsentError, match="does not answer") as caught:
            asyncio.run(test())
        assert ("CERTIFICATE_VERIFY_FAILED" in str(caught.value)) == (lacking == "ssl_ca_certs")


def test_sentinels_and_clusters_are_reached_by_tls_too(tmp_path: Path):
    """The same certificates let a client in at the Sentinel, at the primary and at every node."""

    async def test(url: str) -> None:
        async with connect(url, 10) as redis:
            await check(redis, url)
            await Histories(redis, 64).append(1, [3])
            assert await Histories(redis, 64).read([1, 2]) == [pack_history([3]), b""]

    with everything_with_tls(tmp_path) as (*urls, certificates):
        options = "&".join(f"{name}={path}" for name, path in certificates.options.items())
        for url in urls:
            asyncio.run(test(f"{url}?{options}"))


class Appending:
    """Users to whose histories events are appended, one by one; each is repeated until it is acknowledged."""

    def __init__(self, redis: TimedRedis, users: Sequence[int]) -> None:
        self._histories = Histories(redis, 10**6)
        self.acknowledged: dict[int, list[int]] = {user: [] for user in users}
        self.refused = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Append for as long as the block runs; what is in flight at its end is still acknowledged."""
        self._stop = False
        async with asyncio.TaskGroup() as group:
            for user in self.acknowledged:
                group.create_task(self._append(user))
            try:
                yield
            finally:
                self._stop = True

    async def progress(self, count: int = 20) -> None:
        """Wait until so many more events of each user are acknowledged."""
        goal = {user: len(events) + count for user, events in self.acknowledged.items()}
        await eventually(lambda: all(len(self.acknowledged[user]) >= goal[user] for user in goal), 60)

    async def check(self) -> None:
        """Fail where an acknowledged event is missing, or there twice."""
        stored = await self._histories.read(list(self.acknowledged))
        assert stored == [pack_history(events) for events in self.acknowledged.values()]

    async def _append(self, user: int) -> None:
        while not self._stop:
            event = len(self.acknowledged[user]) + 1
            for _ in itertools.count():
                try:
                    with or_unavailable("the events were not stored"):
                        await self._histories.append(user, [event], f"event {event}")
                    break
                except UnavailableError:
                    self.refused += 1
                    await asyncio.sleep(0.02)
            self.acknowledged[user].append(event)
            await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_a_failover_loses_and_doubles_nothing_that_was_in_sync(tmp_path: Path, harm):
    """Appends are refused for a while, then go on at the new primary, found unaided; a mirror follows it too."""

    async def test(place: Replicated) -> None:
        async with connect(place.url, 0.5) as redis, following(place.url) as (mirror, items, _):
            appending = Appending(redis, range(4))
            await items.write([1], [b"before"])
            async with appending.running():
                await appending.progress()
            await eventually(lambda: mirror.get(1) == b"before")
            await asyncio.to_thread(wait_until, place.in_sync, 60)
            async with appending.running():
                place.primary.signal(harm)
                await appending.progress()
                assert appending.refused > 0
                assert info_of(place.replica, "replication")["role"] == "master"
                if harm is signal.SIGSTOP:
                    place.primary.signal(signal.SIGCONT)
                    await eventually(lambda: role_of(place.primary) == "slave", 60)
                    await appending.progress()
            await appending.check()
            await eventually_written(items, 1, b"after")
            await eventually(lambda: mirror.get(1) == b"after", 30)

    with primary_with_replica(tmp_path, num_sentinels=3) as place:
        asyncio.run(test(place))


def role_of(node: Node) -> str:
    """Return what a server is; a Sentinel that changes that cuts off whoever asks at this moment."""
    try:
        return str(info_of(node, "replication")["role"])
    except RedisError:
        return ""


async def eventually_written(items: Items, item_id: int, value: bytes) -> None:
    """Write an item, as often as it takes."""
    async with asyncio.timeout(60):
        while True:
            try:
                with or_unavailable("the item was not stored"):
                    return await items.write([item_id], [value])
            except UnavailableError:
                await asyncio.sleep(0.02)


def user_in(slot_owner: Node, place: Cluster) -> int:
    """Return a user whose history is on a node."""
    return next(user for user in range(1000) if place.owner(slot_of(user)) is slot_owner)


def slot_of(user: int) -> int:
    return key_slot(history_key(user).encode())


@pytest.mark.slow
def test_a_replica_in_a_cluster_that_takes_over_is_found(tmp_path: Path):
    """Appends of its users are refused for a while, those of others never; nothing is lost or doubled."""

    async def test(place: Cluster) -> None:
        async with connect(place.url, 0.5) as redis:
            hurt = Appending(redis, [user_in(place.masters[0], place)])
            others = Appending(redis, [user_in(node, place) for node in place.masters[1:]])
            async with hurt.running():
                await hurt.progress()
            await asyncio.to_thread(wait_until, lambda: in_sync(place), 60)
            async with hurt.running(), others.running():
                place.masters[0].kill()
                await hurt.progress()
                await others.progress()
            assert hurt.refused > 0
            await hurt.check()
            await others.check()

    def in_sync(place: Cluster) -> bool:
        info = info_of(place.masters[0], "replication")
        return info.get("slave0", {}).get("offset") == info["master_repl_offset"]

    with cluster(tmp_path, with_replica=True) as place:
        asyncio.run(test(place))


def test_slots_move_under_appends_and_nothing_is_lost_or_doubled(sharded: Cluster):
    """Half moved and moved, histories are read and appended to; a repetition anywhere does nothing."""

    async def test() -> None:
        user = user_in(sharded.masters[0], sharded)
        async with connect(sharded.url, 10) as redis:
            histories = Histories(redis, 4096)
            nobody = 10**6
            await histories.delete(user)
            await histories.append(user, [1, 2])
            # Many connections: what is said on one must not be meant for another.
            await asyncio.gather(*(histories.read([user]) for _ in range(30)))
            moving = sharded.migrating(slot_of(user))
            source, target = await asyncio.to_thread(moving.__enter__)
            assert await histories.read([user]) == [pack_history([1, 2])]
            await histories.append(user, [3])
            await asyncio.to_thread(migrate_keys, slot_of(user), source, target)
            for _ in range(10):
                assert await histories.read([user, nobody]) == [pack_history([1, 2, 3]), b""]
            await histories.append(user, [4])
            await asyncio.to_thread(moving.__exit__, None, None, None)
            assert sharded.owner(slot_of(user)) is target
            await histories.append(user, [5])
            assert await histories.read([user]) == [pack_history([1, 2, 3, 4, 5])]

    asyncio.run(test())


def test_a_moving_slot_of_idempotent_appends_and_of_items_stands_still_for_no_longer_than_the_move(sharded: Cluster):
    """Two keys of which one is moved cannot be written: that is refused or waits, and then happens once."""

    async def test() -> None:
        user, bucket = user_in(sharded.masters[2], sharded), 5
        slot = key_slot(items_key(bucket).encode())
        async with connect(sharded.url, 0.3) as redis, following(sharded.url) as (mirror, items, _):
            appending = Appending(redis, [user])
            await redis.delete(history_key(user))
            async with appending.running():
                await appending.progress()
                for moved in (slot_of(user), slot):
                    moving = sharded.migrating(moved)
                    source, target = await asyncio.to_thread(moving.__enter__)
                    await asyncio.to_thread(migrate_keys, moved, source, target)
                    writing = asyncio.create_task(eventually_written(items, bucket, b"%d" % moved))
                    await asyncio.sleep(0.1)
                    await asyncio.to_thread(moving.__exit__, None, None, None)
                    await writing
                    await appending.progress()
                    await eventually(lambda moved=moved: mirror.get(bucket) == b"%d" % moved, 30)
            await appending.check()

    asyncio.run(test())


def test_a_pipeline_over_all_slots_follows_moved_ones_in_one_more_round(sharded: Cluster):
    """A client that knows the old owners of many slots learns the new ones from one answer each."""

    async def test() -> None:
        async with connect(sharded.url, 10) as redis:
            items = Items(redis)
            await items.write(range(NUM_BUCKETS), [b"%d" % i for i in range(NUM_BUCKETS)])
            for bucket in range(0, NUM_BUCKETS, 7):
                with sharded.migrating(key_slot(log_key(bucket).encode())):
                    pass
            before = [calls(node) for node in sharded.masters]
            assert await items.read(range(NUM_BUCKETS)) == {i: b"%d" % i for i in range(NUM_BUCKETS)}
            asked = sum(calls(node) for node in sharded.masters) - sum(before)
            assert NUM_BUCKETS <= asked <= NUM_BUCKETS + len(range(0, NUM_BUCKETS, 7))
            await items.write(range(NUM_BUCKETS), [b"new"] * NUM_BUCKETS)
            assert set((await items.read(range(NUM_BUCKETS))).values()) == {b"new"}

    def calls(node: Node) -> int:
        stats = info_of(node, "commandstats").get("cmdstat_hmget", {})
        return int(stats.get("calls", 0)) + int(stats.get("rejected_calls", 0))

    asyncio.run(test())


@pytest.mark.slow
def test_a_mirror_of_a_cluster_follows_the_nodes_that_are_there(tmp_path: Path):
    """A dead node holds up its own buckets and no others; back again, everything is followed."""

    async def test(place: Cluster) -> None:
        async with following(place.url) as (mirror, items, _):
            await items.write(range(NUM_BUCKETS), [b"old"] * NUM_BUCKETS)
            await eventually(lambda: len(mirror) == NUM_BUCKETS)
            dead = place.masters[1]
            gone = {i for i in range(NUM_BUCKETS) if place.owner(key_slot(items_key(i).encode())) is dead}
            dead.kill()
            for value in (b"1", b"2", b"3"):
                for i in set(range(NUM_BUCKETS)) - gone:
                    await items.write([i], [value])
                wanted = {i: b"old" if i in gone else value for i in range(NUM_BUCKETS)}
                await eventually(lambda wanted=wanted: contents(mirror) == wanted, 30)
            await asyncio.to_thread(dead.start)
            for i in range(NUM_BUCKETS):
                await eventually_written(items, i, b"new")
            await eventually(lambda: set(contents(mirror).values()) == {b"new"}, 30)

    with cluster(tmp_path) as place:
        asyncio.run(test(place))


def test_marker_and_history_lie_in_one_slot():
    """So that one script may write both, for any user and key."""
    for user, key in ((1, "a"), (2**63 - 1, "{b}"), (3, "}{")):
        assert key_slot(retry_key(user, key).encode()) == key_slot(history_key(user).encode())
