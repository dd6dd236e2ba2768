"""A worker's side of the line, against an owner that a test plays: what it checks, and what it is killed for."""

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import pytest

from contract.bundle import read_bundle
from scoring.memory import SharedMemory
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from scoring.tables import Tables
from service.board import Board
from service.channel import ClosedError, pair
from service.errors import InvalidError
from service.follower import Follower
from service.lineup import Lineup, Trial
from service.link import Link
from service.messages import Done, Message
from service.metrics import Metrics
from service.replica import load_options
from tests.service.catalogue import make_item, record_of
from tests.service.conftest import Store
from tests.service.running import make_settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")


@dataclass
class Version:
    """A version in shared memory, as an owner has it."""

    scorer: Scorer
    rows: ItemRows

    @property
    def name(self) -> str:
        """The version's name."""
        return self.scorer.bundle.version


def version_of(bundle: object, memory: SharedMemory) -> Version:
    scorer = Scorer(read_bundle(bundle), "cpu", 1, zeros=memory.zeros)  # type: ignore[arg-type]
    rows = ItemRows(scorer, 10)
    rows.update(np.array([7]), record_of(make_item(7)))
    return Version(scorer, rows)


async def ignore(_message: Message, _descriptors: list[int]) -> Message:
    return Done()


def talk(store: Store, script: Callable[[Follower, Link, SharedMemory], Awaitable[None]]) -> None:
    """Run a script with a worker and the owner's end of the line to it."""

    async def main() -> None:
        for_owner, for_workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        memory = SharedMemory()
        with for_owner, for_workers:
            for_owner.setblocking(False)
            for_workers.setblocking(False)
            follower = Follower(load_options(make_settings(store.folder, None)), for_workers, Board(), Metrics())
            following = asyncio.create_task(follower.follow())
            async with asyncio.timeout(60):
                await readable(for_owner)
                _, (descriptor,), *_ = socket.recv_fds(for_owner, 64, 1)
                link = Link(socket.socket(fileno=descriptor), memory, ignore)
                try:
                    await script(follower, link, memory)
                finally:
                    link.close()
                    following.cancel()
                    await asyncio.wait([following])

    asyncio.run(main())


async def readable(line: socket.socket) -> None:
    arrived = asyncio.Event()
    asyncio.get_running_loop().add_reader(line, arrived.set)
    await arrived.wait()
    asyncio.get_running_loop().remove_reader(line)


def test_a_worker_verifies_the_golden_rows_itself(store: Store) -> None:
    """Golden tables that are not what the bundle was exported with are refused, and the reason told."""

    async def script(follower: Follower, link: Link, memory: SharedMemory) -> None:
        version = version_of(store.new, memory)
        right = version.scorer.golden_tables()
        wrong = Tables.of_arrays(right.specs, [array.copy() for array in right.arrays])
        wrong.arrays[0][1:] += 1
        with pytest.raises(InvalidError, match="is off by"):
            await link.open(version, wrong)  # type: ignore[arg-type]
        assert not follower.is_serving
        await link.open(version, right)  # type: ignore[arg-type]
        await link.serve(Lineup(version), takes_part=False)  # type: ignore[type-var]
        assert follower.serving.name == store.new.name

    talk(store, script)


def test_a_worker_serves_and_tries_what_it_is_told(store: Store) -> None:
    """It answers each user as the owner would, and no more once the trial is over."""

    async def script(follower: Follower, link: Link, memory: SharedMemory) -> None:
        old, new = (version_of(bundle, memory) for bundle in (store.old, store.new))
        for version in (old, new):
            await link.open(version, version.scorer.golden_tables())  # type: ignore[arg-type]
        lineup = Lineup(new, Trial(old.name, 0.5, False, "x"), old)
        await link.serve(lineup, takes_part=True)  # type: ignore[arg-type]
        chosen = [follower.choose(user).name for user in range(200)]
        assert chosen == [lineup.choose(user).name for user in range(200)]
        assert {*chosen} == {old.name, new.name}
        for named in (follower.named(old.name), follower.named(new.name)):
            assert named is not None
            assert len(named.rows) == 1
        await link.serve(Lineup(new), takes_part=False)  # type: ignore[type-var]
        assert {follower.choose(user).name for user in range(200)} == {new.name}
        assert follower.named(old.name) is None

    talk(store, script)


def test_a_worker_that_hangs_while_it_opens_a_version_is_found_out_early(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed when it does not answer at all, long before the time that opening may take."""
    killed: list[int] = []
    monkeypatch.setattr("service.link._WINDOW_S", 0.05)
    monkeypatch.setattr("service.link._OPEN_WINDOWS", 10**6)

    async def main() -> None:
        mine, others = pair()
        memory = SharedMemory()
        with others:
            version = version_of(store.new, memory)
            golden = version.scorer.golden_tables()
            link = Link(mine, memory, ignore)

            def kill(pid: int, _signal: int) -> None:
                killed.append(pid)
                others.close()

            monkeypatch.setattr(os, "kill", kill)
            with contextlib.suppress(ClosedError):
                async with asyncio.timeout(30):
                    await link.open(version, golden)  # type: ignore[arg-type]
            link.close()

    asyncio.run(main())
    assert killed == [os.getpid()]


def test_a_worker_that_takes_long_to_open_a_version_is_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it answers that it is there, it has the time that opening may take."""
    monkeypatch.setattr("service.link._WINDOW_S", 0.5)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a worker was killed"))
    monkeypatch.setattr("service.follower.warm_up", lambda _: time.sleep(2))

    async def script(follower: Follower, link: Link, memory: SharedMemory) -> None:
        version = version_of(store.new, memory)
        await link.open(version, version.scorer.golden_tables())  # type: ignore[arg-type]
        await link.serve(Lineup(version), takes_part=False)  # type: ignore[type-var]
        assert follower.is_serving

    talk(store, script)
