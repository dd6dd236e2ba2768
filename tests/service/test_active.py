"""What is told to all replicas in one hash: each change by one command, or refused for what changed meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
import redis

from contract.codec import recent_key, shadow_key, versions_key
from service.active import ActiveVersion, Told
from service.connection import connect
from service.lineup import Trial
from service.recent import RecentRequests
from service.shadow import Shadow
from service.shadow_sums import ShadowSums
from service.timed import TimedRedis
from tests.service.answers import make_served
from tests.service.running import wait_until

CANARY = Trial("v3", 0.5, False, "t1")


def told_after(url: str, script: Callable[[ActiveVersion], Awaitable[object]]) -> Told:
    """Let v2 be active and v1 before it, run a script, and return what is told then."""

    async def main() -> Told:
        async with connect(url, 10) as client:
            active = ActiveVersion(client, "qin")
            await active.propose("v1")
            await active.write("v2", "v1")
            await script(active)
            return await active.read()

    return asyncio.run(main())


def test_what_became_active_meanwhile_is_not_put_on_trial(redis_url: str) -> None:
    """It answers everybody already; a trial of it could not be ended by who answers nobody else."""

    async def script(active: ActiveVersion) -> None:
        await active.write("v3", "v2")
        assert not await active.begin(CANARY)

    assert told_after(redis_url, script) == Told("v3", "v2")


def test_another_version_put_on_trial_meanwhile_stays_there(redis_url: str) -> None:
    """Neither a second trial nor a rollback of the active version ends it unseen."""

    async def script(active: ActiveVersion) -> None:
        assert await active.begin(CANARY)
        assert not await active.begin(Trial("v4", 0.5, False, "t2"))
        assert not await active.roll_back("v2", "v1")

    assert told_after(redis_url, script) == Told("v2", "v1", CANARY)


def test_a_rollback_is_of_what_is_still_active(redis_url: str) -> None:
    """It goes back from that version alone, and may be gone back from in turn."""

    async def script(active: ActiveVersion) -> None:
        assert not await active.roll_back("v1", "v0")
        assert await active.roll_back("v2", "v1")

    assert told_after(redis_url, script) == Told("v1", "v2")


def test_only_the_trial_that_was_meant_is_ended(redis_url: str) -> None:
    """One that was begun anew goes on."""

    async def script(active: ActiveVersion) -> None:
        assert await active.begin(CANARY)
        assert not await active.end(Trial("v3", 0.5, False, "t0"))

    assert told_after(redis_url, script) == Told("v2", "v1", CANARY)


def num_scripts_run(plain: redis.Redis) -> int:
    calls: int = plain.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"]
    return calls


class _SlowShadow(Shadow):
    """Has seen something of a trial that is over for all others."""

    def sums(self) -> tuple[Trial, bytes]:
        return Trial("v3", 0.0, True, "over"), b"sums"


def test_what_is_written_of_a_trial_after_its_end_is_not_kept(
    redis_url: str, plain: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has not heard of the end adds nothing to the next trial."""
    monkeypatch.setattr("service.shadow_sums._EVERY_S", 0.01)
    shadow = _SlowShadow(lambda: None, lambda *_: None)  # type: ignore[arg-type, return-value]

    async def main() -> None:
        async with connect(redis_url, 10) as client:
            writing = asyncio.create_task(ShadowSums(client, "qin").keep_writing(shadow))
            before = num_scripts_run(plain)
            await asyncio.to_thread(wait_until, lambda: num_scripts_run(plain) > before)
            writing.cancel()
            await asyncio.wait([writing])

    plain.hset(versions_key("qin"), mapping={"active": "v2", "trial": "v4", "trial_id": "next"})
    asyncio.run(asyncio.wait_for(main(), 30))
    shadow.close()
    assert not plain.exists(shadow_key("qin"))


def test_recent_requests_take_no_more_room_than_they_may(
    redis_url: str, plain: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last few are kept, each of no more than so many candidates, however many are ranked."""
    monkeypatch.setattr("service.recent._EVERY_S", 0)

    async def note_many(client: TimedRedis) -> list[int]:
        recent = RecentRequests(client, "qin", 3)
        for user in range(10):
            recent.note(make_served(5000, user_id=user))
            assert recent._writing is not None
            await recent._writing
        lengths: list[int] = []

        def choose(of: Sequence[int]) -> Sequence[int]:
            lengths.extend(of)
            return [0, 2]

        assert [request.user_id for request in await recent.read(choose)] == [9, 7]
        assert lengths == [250] * 3
        return [request.user_id for request in await recent.read()]

    async def main() -> list[int]:
        async with connect(redis_url, 10) as client:
            return await note_many(client)

    assert asyncio.run(main()) == [9, 8, 7]
    assert plain.xlen(recent_key("qin")) == 3
    assert plain.memory_usage(recent_key("qin"), samples=0) < 3 * 4000
