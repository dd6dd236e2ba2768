import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.channel import Channel, ClosedError, pair
from service.errors import ConflictError, InternalError
from service.messages import Done, Forget, GetItem, ItemIs, Message, Promote, Rollback, Serve

Handle = Callable[[Message, list[int]], Awaitable[Message | None]]


async def nothing(_message: Message, descriptors: list[int]) -> Message:
    for descriptor in descriptors:
        os.close(descriptor)
    return Done()


def talk(script: Callable[[Channel, Channel], Awaitable[None]], handle: Handle = nothing) -> None:
    """Run a script with both ends of a line, the second of which handles what the first says."""

    async def main() -> None:
        mine, others = pair()
        ends = Channel(mine, nothing), Channel(others, handle)
        try:
            async with asyncio.timeout(30):
                await script(*ends)
        finally:
            for end in ends:
                end.close()

    asyncio.run(main())


def num_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_answer_is_that_of_its_question():
    """Answers find whoever asked, though they come in another order."""

    async def handle(message: Message, _: list[int]) -> Message:
        assert isinstance(message, GetItem)
        await asyncio.sleep(0.01 * (message.item_id % 3))
        return ItemIs(b"%d" % message.item_id)

    async def script(one: Channel, _two: Channel) -> None:
        answers = await asyncio.gather(*(one.ask(GetItem(number)) for number in range(20)))
        assert answers == [ItemIs(b"%d" % number) for number in range(20)]

    talk(script, handle)


def test_errors_come_back_as_what_they_are():
    """Type, detail and field of a refusal survive the way; of a fault of the program nothing is told."""

    async def handle(message: Message, _: list[int]) -> Message:
        raise ConflictError("no", "version") if isinstance(message, Promote) else ValueError("secret")

    async def script(one: Channel, _two: Channel) -> None:
        with pytest.raises(ConflictError, match="no") as caught:
            await one.ask(Promote("x"))
        assert caught.value.field == "version"
        with pytest.raises(InternalError) as failed:
            await one.ask(Rollback())
        assert (failed.value.status, "secret" in failed.value.detail) == (500, False)

    talk(script, handle)


def test_whoever_waits_for_an_answer_that_is_too_long_hears_so():
    """Both ways: a line carries 64 KiB, and nobody waits for ever."""

    async def long(_message: Message, _descriptors: list[int]) -> Message:
        return ItemIs(b"x" * 2**16)

    async def script(mine: Channel, _others: Channel) -> None:
        for message in (GetItem(1), Forget("x" * 2**16)):
            with pytest.raises(InternalError, match="too long"):
                await mine.ask(message)

    talk(script, long)


def test_messages_keep_their_order_and_their_descriptors():
    """However much is said at once, each message arrives after the ones before it, with what was sent along."""
    said = []

    async def handle(message: Message, descriptors: list[int]) -> Message:
        said.append((message.version, [os.pread(descriptor, 100, 0) for descriptor in descriptors]))
        return await nothing(message, descriptors)

    async def script(one: Channel, _two: Channel) -> None:
        asking = []
        for number in range(2000):
            descriptor = os.memfd_create("x")
            os.write(descriptor, b"%d" % number)
            asking.append(asyncio.ensure_future(one.ask(Serve("v" * 500 + str(number)), [descriptor])))
            await asyncio.sleep(0)
            # The line is full by now: whoever asked need not keep it open.
            os.close(descriptor)
        await asyncio.gather(*asking)
        assert said == [("v" * 500 + str(number), [b"%d" % number]) for number in range(2000)]

    before = num_descriptors()
    talk(script, handle)
    assert num_descriptors() <= before


def test_whoever_waits_for_an_answer_hears_that_the_other_side_is_gone():
    """Nobody waits for ever, and what is said afterwards is refused or lost."""

    async def handle(_message: Message, _: list[int]) -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    async def script(one: Channel, two: Channel) -> None:
        asking = asyncio.ensure_future(one.ask(Rollback()))
        await asyncio.sleep(0.01)
        two.close()
        with pytest.raises(ClosedError):
            await asking
        await one.wait_closed()
        one.tell(Forget("x"))
        with pytest.raises(ClosedError):
            await one.ask(Rollback())

    talk(script, handle)


def test_what_is_only_told_is_not_answered():
    """A message that wants no answer may be handled without one."""
    told = []

    async def handle(message: Message, _: list[int]) -> Message | None:
        told.append(message)
        return None if isinstance(message, Forget) else Done()

    async def script(one: Channel, _two: Channel) -> None:
        one.tell(Forget("a"))
        await one.ask(Rollback())
        assert told == [Forget("a"), Rollback()]

    talk(script, handle)
