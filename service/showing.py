"""The rows of one version as one worker sees them: every newer state is sent, and held for as long as it is read."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from scoring.memory import SharedMemory
from scoring.tables import Tables
from scoring.views import View
from service.channel import ClosedError
from service.messages import Arrays, Message, Open, Part, Show
from service.version import LoadedVersion

Ask = Callable[[Message, list[int]], Awaitable[Message]]


class Showing:
    """Shows a version to a worker, from `open` until it is closed.

    To the rows the worker is a reader like any other: a state is held from before it is sent until the worker says
    that it was released, or is gone. No more than one state is on its way at a time, so that a worker that is slow
    skips some.

    Parameters
    ----------
    version
        Serves, or is about to.
    golden
        Tables with its golden items.
    memory
        What tables lie in.
    numbers
        Gives each state that is sent to this worker, of any version, a higher number than the one before.
    ask
        Asks the worker.
    """

    def __init__(
        self, version: LoadedVersion, golden: Tables, memory: SharedMemory, numbers: Iterator[int], ask: Ask
    ) -> None:
        self.version = version
        self._golden, self._memory, self._numbers, self._ask = golden, memory, numbers, ask
        self._held: deque[tuple[int, View]] = deque()
        self._known: set[int] = set()
        self._changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Let the worker open the version and show it what follows.

        Raises
        ------
        RequestError
            The worker cannot.
        ClosedError
            The worker is gone.
        """
        descriptors: list[int] = []
        parts = self._parts(self._hold().arrays, descriptors)
        golden = self._parts(self._golden.arrays, descriptors)
        await self._ask(Open(self.version.name, self._held[-1][0], parts, golden), descriptors)
        self._known = {part.number for part in parts}
        self._following = asyncio.create_task(self._follow(), name=f"show {self.version.name}")

    def changed(self) -> None:
        """Note that there is a newer state."""
        self._changed.set()

    def released(self, number: int) -> None:
        """Give back the states up to one that the worker holds no more."""
        while self._held and self._held[0][0] <= number:
            self.version.rows.views.release(self._held.popleft()[1])

    def end(self) -> None:
        """Show nothing more."""
        if self._following is not None:
            self._following.cancel()
            # A cancelled task remembers where: in a circle of references tables would outlive their last user.
            self._following = None

    def close(self) -> None:
        """Give everything back: the worker is gone."""
        self.end()
        while self._held:
            self.version.rows.views.release(self._held.popleft()[1])

    async def _follow(self) -> None:
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self.version.rows.views.newest is not self._held[-1][1]:
                    await self._show()
        except ClosedError:
            return

    async def _show(self) -> None:
        descriptors: list[int] = []
        parts = self._parts(self._hold().arrays, descriptors)
        message = Show(self.version.name, self._held[-1][0], parts)
        self._known = {part.number for part in parts}
        await self._ask(message, descriptors)

    def _hold(self) -> View:
        view = self.version.rows.views.acquire()
        self._held.append((next(self._numbers), view))
        return view

    def _parts(self, arrays: Arrays, descriptors: list[int]) -> list[Part]:
        """Describe arrays, and collect the descriptors of those that the worker has not got from the last state."""
        parts = []
        for array in arrays:
            block = self._memory.block_of(array)
            is_new = block.number not in self._known
            parts.append(Part.of(block, is_new))
            if is_new:
                descriptors.append(block.descriptor)
        return parts
