"""One replica: everything it holds, put together and taken apart again here."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

from redis.asyncio import Redis

from contract.bundle import StoreError
from contract.store import open_store
from scoring.buckets import Buckets
from scoring.device import runs_on_cuda
from scoring.errors import DeviceError
from scoring.gpu import Gpu, open_gpu
from scoring.memory import Zeros, private_zeros
from service import connection
from service.active import ActiveVersion
from service.admission import Admission
from service.audience import Audience
from service.auth import AccessGate
from service.embedded import EmbeddedValkey
from service.errors import RedisAbsentError, StartError
from service.fleet import Fleet, report_of
from service.gate import PromotionGate
from service.hot_set import HotSet
from service.identity import Identity
from service.items import Items
from service.loader import Loader, LoadOptions
from service.metrics import Metrics
from service.mirror import Mirror
from service.observers import Observers
from service.ranker import Ranker
from service.recent import RecentRequests
from service.registry import Registry
from service.serving import Catalogue, HotItems, Versions
from service.settings import Settings
from service.swapper import Swapper
from service.tracing import Tracing
from service.trials import Trials, open_trials
from service.users import Histories
from service.watching import watch


@dataclass(slots=True)
class Replica:
    """What the routes work with.

    `last_seen` returns an item as the mirror last saw it, for when Redis is away.
    """

    settings: Settings
    gate: AccessGate
    items: Items
    histories: Histories
    mirror: Catalogue
    registry: Versions
    ranker: Ranker
    metrics: Metrics
    trials: Trials
    admission: Admission
    observers: Observers
    tracing: Tracing | None
    last_seen: Callable[[int], Awaitable[bytes | None]]
    stopping: bool = False

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.registry.is_serving and not self.stopping and self.failure is None

    @property
    def failure(self) -> str | None:
        """Why nothing can be ranked any more in this process, or None."""
        if not self.registry.is_serving:
            return None
        failures = (version.scorer.failure for version in self.registry.lineup.versions)
        return next((failure for failure in failures if failure is not None), None)


@contextlib.asynccontextmanager
async def open_replica(settings: Settings) -> AsyncIterator[Replica]:
    """Start a replica in this one process, ready to rank, and stop it at the block's end.

    Raises
    ------
    StartError
        It cannot start; the message says why in one line.
    """
    async with contextlib.AsyncExitStack() as stack:
        gate = AccessGate.of(settings)
        url = await _redis_url(settings, stack)
        redis = await connected(url, settings.redis_timeout_s, stack)
        metrics = Metrics()
        mirror, registry = await open_catalogue(settings, url, redis, metrics, stack)

        async def last_seen(item_id: int) -> bytes | None:
            return mirror.get(item_id)

        hot_set = None
        if mirror.capacity is not None:
            hot_set = HotSet(mirror, Items(redis), settings.item_timeout_ms, metrics.count_hot_items)
            stack.push_async_callback(hot_set.aclose)
        yield assemble(settings, gate, redis, mirror, registry, metrics, last_seen, stack, hot_set)


async def open_catalogue(
    settings: Settings,
    url: str,
    redis: Redis,
    metrics: Metrics,
    stack: contextlib.AsyncExitStack,
    zeros: Zeros = private_zeros,
    audience: Audience | None = None,
) -> tuple[Mirror, Registry]:
    """Mirror the catalogue, load a version for it, and follow both until the stack is closed.

    Parameters
    ----------
    zeros
        Allocates the memory of tables.
    audience
        Who else serves what is loaded.

    Raises
    ------
    StartError
        Redis is not there, or nothing can be served.
    """
    # The mirror's client waits for news in every command, so its time-out lies above that wait.
    mirror = Mirror(await connected(url, settings.redis_timeout_s + 1, stack), settings.mirror_capacity)
    options = load_options(settings, zeros)
    loader = Loader(options, mirror)
    stack.callback(loader.close)
    recent = RecentRequests(redis, settings.model, settings.gate_requests)
    gate = PromotionGate(
        recent, settings.gate_max_auc_drop, settings.gate_max_auc_drop_other_data, settings.gate_max_psi
    )
    stack.callback(gate.close)
    active = ActiveVersion(redis, settings.model)
    registry = Registry(options.store, options.model, Swapper(loader, metrics, audience), active, gate)
    metrics.active.read = lambda: registry.active
    stack.push_async_callback(registry.close)
    with _or_no_start(url):
        await mirror.load()
        await registry.start()
    stack.push_async_callback(cancel, asyncio.create_task(mirror.follow()))
    stack.push_async_callback(cancel, asyncio.create_task(registry.follow(settings.follow_interval_s)))
    report = functools.partial(report_of, Identity(), registry)
    stack.push_async_callback(cancel, asyncio.create_task(Fleet(redis, settings.model).keep_reporting(report)))
    return mirror, registry


def assemble(
    settings: Settings,
    gate: AccessGate,
    redis: Redis,
    mirror: Catalogue,
    registry: Versions,
    metrics: Metrics,
    last_seen: Callable[[int], Awaitable[bytes | None]],
    stack: contextlib.AsyncExitStack,
    hot_set: HotItems | None = None,
) -> Replica:
    """Return what the routes work with, once a version serves."""
    metrics.count_items(mirror.__len__)
    metrics.count_unknown_tags(lambda: registry.serving.rows.num_unknown_tags)
    length = max(settings.stored_history_length, registry.serving.scorer.features.history_length)
    histories = Histories(redis, length)
    ranker = Ranker(
        registry,
        histories,
        mirror,
        settings.history_timeout_ms,
        settings.max_item_lag_ms,
        hot_set,
        settings.batch_candidates,
    )
    stack.push_async_callback(ranker.aclose)
    metrics.measure_lag(ranker.lag_s)
    metrics.watch_histories(lambda: ranker.history_reader.num_open)
    admission = Admission(
        settings.max_queued_candidates, settings.max_queue_ms, metrics.rank.shed, metrics.rank.queue
    )
    observers = Observers()
    tracing = watch(settings, metrics, observers, stack)
    trials = open_trials(settings, redis, registry, metrics, observers, stack)
    return Replica(
        settings,
        gate,
        Items(redis),
        histories,
        mirror,
        registry,
        ranker,
        metrics,
        trials,
        admission,
        observers,
        tracing,
        last_seen,
    )


def load_options(settings: Settings, zeros: Zeros = private_zeros) -> LoadOptions:
    """Return where bundles lie and how they run; raises StartError where no store can be, or no GPU that must be."""
    try:
        store = open_store(settings.store.get_secret_value(), settings.cache_dir, settings.store_timeout_s)
    except StoreError as error:
        raise StartError(f"setting store: {error}") from error
    try:
        gpu = _gpu(settings) if runs_on_cuda(settings.device) else None
    except DeviceError as error:
        raise StartError(str(error)) from error
    return LoadOptions(
        store=store,
        model=settings.model,
        device=settings.device,
        num_threads=settings.num_threads,
        require_kernels=settings.require_kernels,
        zeros=zeros,
        gpu=gpu,
    )


def _gpu(settings: Settings) -> Gpu:
    buckets = Buckets(settings.device_candidates, settings.device_users)
    return open_gpu(settings.device_memory_mb, buckets, settings.device_graphs)


async def _redis_url(settings: Settings, stack: contextlib.AsyncExitStack) -> str:
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    starting = asyncio.create_task(asyncio.to_thread(EmbeddedValkey.start, settings.data_dir))
    stack.push_async_callback(_stop, starting)
    valkey = await asyncio.shield(starting)
    stack.push_async_callback(cancel, asyncio.create_task(valkey.keep()))
    return valkey.url


async def _stop(starting: "asyncio.Task[EmbeddedValkey]") -> None:
    """Stop Valkey, even one that is still starting because whoever waited for it was cancelled."""
    if not starting.done():
        await asyncio.wait([starting])
    if starting.exception() is None:
        await asyncio.to_thread(starting.result().stop)


async def connected(url: str, timeout_s: float, stack: contextlib.AsyncExitStack) -> Redis:
    """Return a client that was answered; raises RedisAbsentError."""
    redis = connection.connect(url, timeout_s)
    stack.push_async_callback(redis.aclose)
    await connection.check(redis, url)
    return redis


@contextlib.contextmanager
def _or_no_start(url: str) -> Iterator[None]:
    try:
        yield
    except connection.REDIS_ERRORS as error:
        raise RedisAbsentError(
            f"Redis at {connection.without_secrets(url)} cannot be read: {error or type(error).__name__}"
        ) from error
    except DeviceError as error:
        raise StartError(str(error)) from error


async def cancel(task: "asyncio.Task[None]") -> None:
    """End a task and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])
