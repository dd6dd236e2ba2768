"""URLs of Redis, what is found out about it at start, and connections to one that stalls."""

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest
from redis.exceptions import BusyLoadingError, RedisError
from structlog.testing import capture_logs

from contract.codec import history_key
from service.address import Address, parse
from service.connection import check, connect
from service.errors import RedisAbsentError, SettingsError
from service.timed import REDIS_ERRORS, TimedRedis
from tests.service.running import wait_until
from tests.service.servers import Node, cluster, info_of, primary_with_replica, standalone, with_acl

STANDALONE = {
    "redis://": Address("standalone", (("localhost", 6379),), "", "", False, {}, {}),
    "redis://h:1/2": Address("standalone", (("h", 1),), "", "", False, {"db": 2}, {}),
    "redis://:p%40ss@[::1]:1": Address("standalone", (("::1", 1),), "", "", False, {"password": "p@ss"}, {}),
    "rediss://u:p@h?ssl_check_hostname=no&ssl_ca_certs=/a%20b": Address(
        "standalone",
        (("h", 6379),),
        "",
        "",
        True,
        {"username": "u", "password": "p", "ssl_check_hostname": False, "ssl_ca_certs": "/a b"},
        {"ssl_check_hostname": False, "ssl_ca_certs": "/a b"},
    ),
    "unix://u:p@/run/a.sock?db=3": Address(
        "standalone", (), "/run/a.sock", "", False, {"username": "u", "password": "p", "db": 3}, {}
    ),
}
SEVERAL = {
    "redis+sentinel://a,b:2/prime/4?sentinel_password=s": Address(
        "sentinel", (("a", 26379), ("b", 2)), "", "prime", False, {"db": 4}, {"password": "s"}
    ),
    "redis+cluster://u:p@a:1,b": Address(
        "cluster", (("a", 1), ("b", 6379)), "", "", False, {"username": "u", "password": "p"}, {}
    ),
}


@pytest.mark.parametrize(("url", "address"), (STANDALONE | SEVERAL).items())
def test_a_url_says_where_redis_is_and_how_to_be_let_in(url, address):
    """Hosts, service, database, credentials and certificates are all in the URL, percent-encoded where needed."""
    assert parse(url) == address


WRONG = {
    "http://geheim@h": "not a URL of Redis",
    "redis://u:geheim@h:port": "not a URL of Redis",
    "redis://[geheim": "not a URL of Redis",
    "redis://:ge/geheim@h": "percent-encoded",
    "redis://:ge?geheim=1@h": "percent-encoded",
    "redis://:ge@geheim@h": "percent-encoded",
    "redis://u:geheim@h/database": "must be a number",
    "redis://u:geheim@h?db=x": "must be a number",
    "redis://u:geheim@a,b": "several hosts need",
    "redis://u:geheim@h?socket_timeout=1": "is not one of",
    "redis://u:geheim@h?ssl_ca_certs=/ca": "is not one of",
    "rediss://u:geheim@h?ssl_check_hostname=maybe": "yes or no",
    "rediss://u:geheim@h?ssl_cert_reqs=maybe": "none, optional or required",
    "rediss://u:geheim@h?ssl_ca_certs=/nowhere": "cannot be read: No such file",
    "redis+sentinel://u:geheim@h:1": "ends in the primary's name",
    "redis+sentinel://u:geheim@h,/prime": "not a URL of Redis",
    "redis+cluster://u:geheim@h/1": "no databases",
    "unix://u:geheim@": "needs the path",
}


@pytest.mark.parametrize(("url", "reason"), WRONG.items())
def test_a_wrong_url_is_told_in_one_line_without_its_secrets(url, reason):
    """The message says what is wrong with the setting; no part of a password is ever in it."""
    with pytest.raises(SettingsError) as caught:
        connect(url, 1)
    said = str(caught.value)
    assert said.startswith("setting redis_url: ")
    assert reason in said
    assert "geheim" not in said
    assert "\n" not in said


def checked(url: str, loading_s: float = 60) -> str:
    """Check a Redis, and return what was logged as warning."""

    async def run() -> None:
        async with connect(url, 5) as redis:
            await check(redis, url, loading_s)

    with capture_logs() as logs:
        asyncio.run(run())
    return " ".join(entry["event"] for entry in logs)


def refusal(url: str) -> str:
    """Return why a Redis cannot be worked with."""
    with pytest.raises(RedisAbsentError) as caught:
        checked(url)
    said = str(caught.value)
    assert "geheim" not in said
    assert "\n" not in said
    return said


def test_who_is_not_let_in_is_told_so(tmp_path: Path):
    """No password, a wrong one, and a user that lacks commands or keys are told apart, the commands by name."""
    some = "some on >geheim ~qin:* +get +set +eval +hget +hset"
    elsewhere = "elsewhere on >geheim ~other:* +@all"
    with with_acl(tmp_path, some, elsewhere) as node:
        assert "does not let this user in: it wants a user and a password" in refusal(node.url)
        assert "does not let this user in: invalid username-password pair" in refusal(as_user(node, "some", "x"))
        missing = refusal(as_user(node, "some"))
        assert (
            "does not allow this user xrevrange, xadd, xread, hsetnx, hmget, hlen, hrandfield, hscan, hdel, del"
            in (missing)
        )
        assert "needed is: ~qin:* resetchannels -@all +get +set" in missing
        assert "does not allow this user get, set, xrevrange," in refusal(as_user(node, "elsewhere"))


def as_user(node: Node, name: str, password: str = "geheim") -> str:
    return node.url.replace("//", f"//{name}:{password}@")


def test_what_is_no_redis_to_write_to_is_told(tmp_path: Path):
    """A replica, a Sentinel, a node of a Cluster, one that is too old and one that is not there each have a name."""
    with primary_with_replica(tmp_path / "replicated", num_sentinels=1) as replicated:
        assert refusal(replicated.replica.url).endswith("is a replica, which takes no writes")
        assert "is a Sentinel: name it as redis+sentinel://" in refusal(replicated.sentinels[0].url)
        unknown = replicated.url.replace("/qin", "/other")
        assert "no Sentinel answers with a primary called 'other'" in refusal(unknown)
        assert "cluster support disabled" in refusal(replicated.primary.url.replace("redis:", "redis+cluster:"))
        gone = replicated.primary.url
    with cluster(tmp_path / "cluster", num_masters=1) as clustered:
        assert "runs in mode cluster" in refusal(clustered.masters[0].url)
    with standalone(tmp_path / "old", 'rename-command HELLO ""') as node:
        assert refusal(node.url).endswith("is older than 6.2")
    with standalone(tmp_path / "cut", 'rename-command HSCAN ""') as node:
        assert "does not run hscan: unknown command" in refusal(node.url)
    assert "does not answer" in refusal(gone)


def test_a_redis_that_may_evict_or_takes_no_writes_now_is_warned_of(tmp_path: Path):
    """Both are worth a line in the log, and no reason not to start."""
    with standalone(tmp_path / "evicting", "maxmemory-policy allkeys-lru") as node:
        assert "Redis may evict items and histories" in checked(node.url)
        node.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert checked(node.url) == ""
        node.command("CONFIG", "SET", "maxmemory", 1)
        assert "Redis refuses writes at the moment" in checked(node.url)


def test_the_check_leaves_nothing_behind(tmp_path: Path):
    """What it tries is on a key of its own, which is gone afterwards."""
    with standalone(tmp_path) as node:
        checked(node.url)
        assert node.command("DBSIZE") == 0


def test_a_redis_that_loads_its_data_is_waited_for(tmp_path: Path):
    """Within a limit, and with a line in the log."""
    slowly = ("key-load-delay 10000", "loading-process-events-interval-bytes 1024", "rdbcompression no")
    node = Node(tmp_path, "appendonly no", *slowly)
    try:
        node.start()
        with node.client() as client, client.pipeline(transaction=False) as pipeline:
            for i in range(200):
                pipeline.set(f"a{i}", "x" * 200)
            pipeline.execute()
        node.command("SAVE")
        node.kill()
        node.start(wait=False)
        wait_until(lambda: is_loading(node))
        with pytest.raises(RedisAbsentError, match="has been loading its data for 0 s"):
            checked(node.url, loading_s=0)
        assert checked(node.url) == "Redis is loading its data, waiting"
        assert node.command("DBSIZE") == 200
    finally:
        node.kill()


def is_loading(node: Node) -> bool:
    try:
        node.command("GET", "a")
    except BusyLoadingError:
        return True
    except RedisError:
        return False
    raise AssertionError("loaded before anybody could look")


async def cut_off(redis: TimedRedis, after_s: float) -> None:
    """Read a history as an impatient rank does."""
    with contextlib.suppress(*REDIS_ERRORS):
        async with asyncio.timeout(after_s):
            await redis.get(history_key(1))


def num_connections(node: Node) -> int:
    """How many connections were made to a server so far, but for the one that asks."""
    return int(info_of(node, "stats")["total_connections_received"]) - 1


def test_a_late_answer_is_never_taken_for_another(tmp_path: Path):
    """Reads that were cut off cost their connections; what is read afterwards is what was asked for."""

    async def test(node: Node) -> None:
        async with connect(node.url, 5, num_connections=8) as redis:
            await asyncio.gather(*(redis.set(history_key(i), b"%d" % i) for i in range(50)))
            for pause_s in (0, 0.0002, 0.001, 0.01) * 10:
                node.signal(signal.SIGSTOP)
                await asyncio.gather(*(cut_off(redis, pause_s) for _ in range(20)))
                pipeline = redis.pipeline()
                for _ in range(100):
                    pipeline.get(history_key(1))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await pipeline.execute()
                node.signal(signal.SIGCONT)
                answers = await asyncio.gather(*(redis.get(history_key(i)) for i in range(50)))
                assert answers == [b"%d" % i for i in range(50)]

    with standalone(tmp_path) as node:
        asyncio.run(test(node))


def test_a_stalled_redis_is_not_drowned_in_connections(tmp_path: Path):
    """However many wait, no more connections than the limit are open or being made; the others wait for one."""

    async def test(node: Node) -> None:
        async with connect(node.url, 1, num_connections=4) as redis:
            node.signal(signal.SIGSTOP)
            answers = await asyncio.gather(*(redis.get("a") for _ in range(300)), return_exceptions=True)
            assert {type(answer) for answer in answers} == {TimeoutError}
            node.signal(signal.SIGCONT)
            assert await asyncio.gather(*(redis.get("a") for _ in range(300))) == [None] * 300
            assert len(redis.connection_pool._available_connections) <= 4

    with standalone(tmp_path) as node:
        before = num_connections(node)
        asyncio.run(test(node))
        assert num_connections(node) - before < 30


def test_a_connection_that_takes_long_is_finished_though_nobody_waits(tmp_path: Path):
    """Otherwise who waits for milliseconds could never have one whose handshakes take longer."""

    async def test(node: Node) -> None:
        async with connect(as_user(node, "some"), 30) as redis:
            before = num_connections_as(node)
            node.signal(signal.SIGSTOP)
            await cut_off(redis, 0.05)
            node.signal(signal.SIGCONT)
            pool = redis.connection_pool
            async with asyncio.timeout(30):
                while not any(connection.is_connected for connection in pool._available_connections):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            assert await redis.get(history_key(1)) is None
            assert num_connections_as(node) - before == 2

    def num_connections_as(node: Node) -> int:
        with node.client(username="some", password="geheim") as client:
            return int(client.info("stats")["total_connections_received"])

    with with_acl(tmp_path, "some on >geheim ~qin:* +get +info") as node:
        asyncio.run(test(node))


def test_closing_ends_connections_that_are_being_made(tmp_path: Path):
    """Nothing is left behind, warned of or waited for."""

    async def test(node: Node) -> None:
        redis = connect(as_user(node, "some"), 30)
        node.signal(signal.SIGSTOP)
        await cut_off(redis, 0.02)
        await redis.aclose()
        node.signal(signal.SIGCONT)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with with_acl(tmp_path, "some on >geheim ~qin:* +get") as node:
        asyncio.run(test(node))


def test_an_idle_connection_that_the_server_closed_is_not_used(tmp_path: Path):
    """It is noticed before a command is sent, so that none fails for it."""

    async def test(node: Node) -> None:
        async with connect(node.url, 5) as redis:
            await redis.set("a", "b")
            await asyncio.to_thread(node.command, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            (idle,) = redis.connection_pool._available_connections
            async with asyncio.timeout(30):
                while not await idle.can_read():  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            assert await redis.get("a") == b"b"

    with standalone(tmp_path) as node:
        asyncio.run(test(node))
