"""What looks on while a replica answers, put together here: metrics, slow requests, request log, traces."""

import asyncio
import contextlib

from service.metrics import Metrics
from service.observers import Observers
from service.settings import Settings
from service.slow import SlowRequests
from service.tracing import Tracing, open_tracing


def watch(
    settings: Settings, metrics: Metrics, observers: Observers, stack: contextlib.AsyncExitStack
) -> Tracing | None:
    """Observe every answer until the stack is closed, then write and send what is left; return what makes spans."""
    observers.add(metrics.rank.note)
    observers.add(SlowRequests(settings.slow_ms).note)
    if settings.request_log_dir is not None:
        from service.request_log import Limits, RequestLog  # and with it pyarrow, which takes its time

        limits = Limits(file_s=settings.request_log_file_s)
        log = RequestLog(
            settings.request_log_dir, settings.model, settings.request_log_rate, metrics.count_logged, limits
        )
        stack.push_async_callback(asyncio.to_thread, log.close)
        observers.add(log.note)
    tracing = open_tracing()
    if tracing is not None:
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        observers.add(tracing.note)
    return tracing
