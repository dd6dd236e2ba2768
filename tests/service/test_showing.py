"""What a worker is shown: states of a version's rows, each held until the worker lets go of it."""

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from contract.bundle import read_bundle
from scoring.memory import SharedMemory
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from service.messages import Done, Message, Open, Show
from service.showing import Showing
from tests.service.catalogue import make_item, record_of
from tests.service.conftest import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")


class Version:
    """Rows in shared memory, as an owner has them."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.name = scorer, scorer.bundle.version
        self.rows = ItemRows(scorer, 10)

    def change(self, seed: int) -> None:
        """Give item 7 other features."""
        self.rows.update(np.array([7]), record_of(make_item(7, seed)))


async def _shown(version: Version, memory: SharedMemory, told: list[Message]) -> Showing:
    async def ask(message: Message, _: list[int]) -> Message:
        told.append(message)
        return Done()

    showing = Showing(version, version.scorer.golden_tables(), memory, itertools.count(1), ask)  # type: ignore[arg-type]
    await showing.open()
    return showing


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the condition did not come to hold")


def _run(store: Store, check: Callable[[Version, Showing, list[Message]], Awaitable[None]]) -> None:
    async def main() -> None:
        memory = SharedMemory()
        version, told = Version(Scorer(read_bundle(store.new), zeros=memory.zeros)), []
        version.change(0)
        showing = await _shown(version, memory, told)
        try:
            await check(version, showing, told)
        finally:
            showing.close()

    asyncio.run(main())


def test_a_row_is_used_again_when_the_worker_says_so_and_not_before(store: Store) -> None:
    """A worker that was shown newer states, and took them, may still read the first one."""

    async def check(version: Version, showing: Showing, told: list[Message]) -> None:
        free = version.rows.num_free_rows
        for seed in (1, 2, 3):
            version.change(seed)
            showing.changed()
            await _until(lambda seed=seed: len(told) == 1 + seed)
        assert version.rows.num_free_rows == free - 3
        opened, *shown = told
        assert isinstance(opened, Open)
        assert all(isinstance(message, Show) for message in shown)
        showing.released(opened.number)
        assert version.rows.num_free_rows == free - 2
        showing.released(shown[-2].number)
        assert version.rows.num_free_rows == free

    _run(store, check)


def test_all_is_given_back_when_the_worker_is_gone(store: Store) -> None:
    """Whatever it held, nobody holds it any more."""

    async def check(version: Version, showing: Showing, told: list[Message]) -> None:
        free = version.rows.num_free_rows
        for seed in (1, 2):
            version.change(seed)
            showing.changed()
            await _until(lambda seed=seed: len(told) == 1 + seed)
        showing.close()
        assert version.rows.num_free_rows == free

    _run(store, check)
