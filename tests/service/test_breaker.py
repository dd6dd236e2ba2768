"""The circuit breaker on a real Redis that hangs, dies, refuses, and comes back."""

import asyncio
import signal
import time
from pathlib import Path

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from contract.codec import history_key, pack_history
from service.breaker import Breaker, OpenError
from service.connection import connect
from service.history_reader import HistoryReader
from service.timed import REDIS_ERRORS, TimedRedis
from service.users import Histories
from tests.service.servers import Node, cluster, info_of, standalone
from tests.service.test_mirror import eventually

FAILURES = 5
PATIENT_S = 5.0


async def fail(breaker: Breaker, redis: TimedRedis, times: int) -> None:
    """Let reads fail."""
    for _ in range(times):
        with pytest.raises(REDIS_ERRORS):
            await breaker.call(lambda: redis.get("a"))


@pytest.fixture(params=[signal.SIGSTOP, signal.SIGKILL])
def harm(request) -> signal.Signals:
    """What is done to Redis: it hangs, or it is gone."""
    return request.param


def test_after_some_failures_nobody_waits_until_redis_is_back(tmp_path: Path, harm):
    """Open it fails at once; a probe of its own finds Redis well and closes it; both are logged."""

    async def test(node: Node) -> None:
        async with connect(node.url, 5) as redis:
            breaker = Breaker("values", 0.1)
            node.signal(harm)
            await fail(breaker, redis, FAILURES - 1)
            assert not breaker.is_open
            await fail(breaker, redis, 1)
            assert breaker.is_open
            started = time.perf_counter()
            for _ in range(1000):
                with pytest.raises(OpenError):
                    await breaker.call(lambda: redis.get("a"))
            assert time.perf_counter() - started < 1
            if harm is signal.SIGKILL:
                node.kill()
                await asyncio.to_thread(node.start)
            else:
                node.signal(signal.SIGCONT)
            await eventually(lambda: not breaker.is_open, 30)
            await breaker.aclose()

    with standalone(tmp_path) as node, capture_logs() as logs:
        asyncio.run(test(node))
    assert [entry["event"] for entry in logs] == [
        "Redis does not answer and is not waited for",
        "Redis answers again",
    ]


def test_only_failures_in_a_row_open_it(tmp_path: Path):
    """Whatever succeeds in between starts the count anew, and so does an answer that is an error."""

    async def test(node: Node) -> None:
        async with connect(node.url, 30) as redis, connect(node.url, 0.05) as impatient:
            breaker = Breaker("values", 30)
            await redis.lpush("list", "a")
            for turn in range(4):
                node.signal(signal.SIGSTOP)
                await fail(breaker, impatient, FAILURES - 1)
                node.signal(signal.SIGCONT)
                assert await redis.ping()
                if turn % 2:
                    assert await breaker.call(lambda: redis.get("a")) is None
                else:
                    with pytest.raises(ResponseError, match="WRONGTYPE"):
                        await breaker.call(lambda: redis.get("list"))
            for _ in range(3 * FAILURES):
                with pytest.raises(ResponseError, match="WRONGTYPE"):
                    await breaker.call(lambda: redis.get("list"))
            assert not breaker.is_open

    with standalone(tmp_path) as node:
        asyncio.run(test(node))


def test_an_open_breaker_asks_by_single_probes(tmp_path: Path):
    """While Redis hangs and thousands of reads come, it gets a handful of connections."""

    async def test(node: Node) -> None:
        async with connect(node.url, 0.2) as redis:
            reader = HistoryReader(Histories(redis, 64), 0.02)
            node.signal(signal.SIGSTOP)
            stop = time.monotonic() + 1
            while time.monotonic() < stop:
                answers = await asyncio.gather(*(reader.read([user]) for user in range(50)))
                assert answers == [[None]] * 50
                await asyncio.sleep(0.001)
            assert reader.num_open == 1
            node.signal(signal.SIGCONT)
            await eventually(lambda: reader.num_open == 0, 30)
            await reader.aclose()

    with standalone(tmp_path) as node:
        before = int(info_of(node, "stats")["total_connections_received"])
        asyncio.run(test(node))
        # The first fifty came before anybody knew.
        assert int(info_of(node, "stats")["total_connections_received"]) - before < 100


def test_a_dead_node_of_a_cluster_costs_only_its_users(tmp_path: Path):
    """Users of other nodes are read as ever, in one request with those who are not, until the node is back."""

    async def test(place) -> None:
        async with connect(place.url, 2) as redis:
            histories = Histories(redis, 64)
            users = list(range(30))
            for user in users:
                await histories.append(user, [user + 1])
            dead = place.masters[1]
            mine = [place.owner(key_slot(history_key(user).encode())) is dead for user in users]
            assert 0 < sum(mine) < 30
            dead.kill()
            reader = HistoryReader(histories, PATIENT_S)
            whole = [pack_history([user + 1]) for user in users]
            without = [None if gone else value for gone, value in zip(mine, whole, strict=True)]
            for _ in range(FAILURES):
                assert await reader.read(users) == without
            assert reader.num_open == 1
            assert await reader.read(users) == without
            await asyncio.to_thread(dead.start)
            await eventually(lambda: reader.num_open == 0, 60)
            assert await reader.read(users) == whole
            await reader.aclose()

    with cluster(tmp_path) as place:
        asyncio.run(test(place))
