"""What compares versions in a process that answers requests: put together here for the replica."""

import asyncio
import contextlib
from dataclasses import dataclass

from redis.asyncio import Redis

from service.fleet import Fleet
from service.metrics import Metrics
from service.observers import Observers
from service.recent import RecentRequests
from service.serving import Versions
from service.settings import Settings
from service.shadow import Shadow
from service.shadow_sums import ShadowSums


@dataclass(frozen=True, slots=True)
class Trials:
    """What the routes of models read beside the registry."""

    fleet: Fleet
    sums: ShadowSums


def open_trials(
    settings: Settings,
    redis: Redis,
    registry: Versions,
    metrics: Metrics,
    observers: Observers,
    stack: contextlib.AsyncExitStack,
) -> Trials:
    """Compare versions, by what is answered, until the stack is closed."""
    shadow = Shadow(lambda: registry.lineup, metrics.count_shadowed)
    stack.callback(shadow.close)
    sums = ShadowSums(redis, settings.model)
    writing = asyncio.create_task(sums.keep_writing(shadow), name="shadow sums")
    stack.push_async_callback(_end, writing)
    recent = RecentRequests(redis, settings.model, settings.gate_requests)
    stack.push_async_callback(recent.aclose)
    metrics.watch_problem(lambda: registry.problem)
    for observer in (recent.note, shadow.note):
        observers.add(observer)
    return Trials(Fleet(redis, settings.model), sums)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
