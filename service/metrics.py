"""What the service counts, for Prometheus."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from scoring.device import BODY
from service.active_gauge import ActiveGauge
from service.board import Board, ProcessCollector
from service.counters import SharedCounts
from service.lineup import Lineup
from service.rank_metrics import RankMetrics
from service.serving import ServingVersion

_SWAPS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
WRITES = ("events", "histories", "items")
HOT_ITEM_EVENTS = ("hit", "missed", "admitted", "unread", "evicted")


class Metrics:
    """The metrics of one replica, in registries of their own.

    Parameters
    ----------
    shared
        Where all processes of the replica count, see `service.counters`; None where there is but one.
    """

    def __init__(self, shared: Path | None = None) -> None:
        # A series more for each counter, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._shared = shared
        self._counted = registry = CollectorRegistry()
        self.requests = Counter("qin_requests", "Requests answered", ["route", "method", "status"], registry=registry)
        self.rank = RankMetrics(registry, shared)
        written = Counter(
            "qin_writes",
            "What was written for callers: item ids of events, histories put or deleted, items put or deleted",
            ["what"],
            registry=registry,
        )
        self._written = {what: written.labels(what) for what in WRITES}
        logged = Counter(
            "qin_request_log_rows",
            "Rows of the request log: written, dropped for there was too much to do, or failed to be written",
            ["outcome"],
            registry=registry,
        )
        self._logged = {outcome: logged.labels(outcome) for outcome in ("written", "dropped", "failed")}
        self.swap_seconds = Histogram(
            "qin_swap_seconds", "Time to make a version ready", registry=registry, buckets=_SWAPS
        )
        self.swap_failures = Counter("qin_swap_failures", "Versions that could not be made ready", registry=registry)
        hot_items = Counter(
            "qin_hot_items",
            "With a mirror_capacity: items of ranks that were in memory (hit) or not (missed), read in (admitted), "
            "not read in time (unread), or put out of memory (evicted)",
            ["event"],
            registry=registry,
        )
        self._hot_items = {event: hot_items.labels(event) for event in HOT_ITEM_EVENTS}
        shadowed = Counter(
            "qin_shadow_requests",
            "Requests of a trial in the shadow: compared, dropped for there was too much to do, or failed",
            ["event"],
            registry=registry,
        )
        self._shadowed = {event: shadowed.labels(event) for event in ("compared", "dropped", "failed")}
        self._gauges = registry = CollectorRegistry()
        registry.register(self.rank.scores)
        self.active = ActiveGauge(shared)
        registry.register(self.active)
        self._serving = Gauge(
            "qin_serving", "1 for the version that serves", ["model", "version", "provider"], registry=registry
        )
        self._trial = Gauge(
            "qin_trial",
            "The share of users that the version on trial answers; 0 in the shadow",
            ["model", "version", "kind"],
            registry=registry,
        )
        self._problem = Gauge(
            "qin_version_problem", "1 while what is active or on trial cannot be served here", registry=registry
        )
        self._op = Gauge(
            "qin_op",
            "1 for what runs each operation of the version that serves: an instruction set, or its body",
            ["op", "runs"],
            registry=registry,
        )
        self._history_breakers = Gauge(
            "qin_history_breakers_open",
            "Redis, or nodes of it, not asked for histories: no answer",
            registry=registry,
        )
        self._items = Gauge("qin_items", "Items in the mirror", registry=registry)
        self._lag = Gauge(
            "qin_items_lag_seconds", "Since when writes to the catalogue may not be known here", registry=registry
        )
        self._unknown_tags = Gauge(
            "qin_unknown_tags", "Tags that the serving version dropped, for it does not know them", registry=registry
        )

    def serve(self, lineup: Lineup[ServingVersion]) -> None:
        """Note the versions that answer from now on, and what runs the fused operations of the one that serves."""
        scorer, trial = lineup.serving.scorer, lineup.trial
        model = scorer.bundle.manifest.model
        self._serving.clear()
        self._serving.labels(model, lineup.serving.name, scorer.provider).set(1)
        self._op.clear()
        for op, runs_by in scorer.kernels.items():
            self._op.labels(op, "body" if runs_by == BODY else runs_by).set(1)
        self._trial.clear()
        if trial is not None:
            self._trial.labels(model, trial.version, "shadow" if trial.shadow else "canary").set(trial.canary)

    def count_shadowed(self, event: str, num_requests: int) -> None:
        """Count what becomes of requests in the shadow: `compared`, `dropped` or `failed`."""
        self._shadowed[event].inc(num_requests)

    def watch_problem(self, problem: Callable[[], str | None]) -> None:
        """Take from `problem`, whenever the metrics are read, whether something else serves here than should."""
        self._problem.set_function(lambda: float(problem() is not None))

    def count_hot_items(self, event: str, num_items: int) -> None:
        """Count what happens to items where the mirror has a capacity; the events are `HOT_ITEM_EVENTS`."""
        self._hot_items[event].inc(num_items)

    def count_items(self, num_items: Callable[[], int]) -> None:
        """Take the number of items from `num_items` whenever the metrics are read."""
        self._items.set_function(num_items)

    def measure_lag(self, lag_s: Callable[[], float]) -> None:
        """Take from `lag_s`, whenever the metrics are read, how long ago every write to the catalogue was known."""
        self._lag.set_function(lag_s)

    def count_unknown_tags(self, num_tags: Callable[[], int]) -> None:
        """Take the number of dropped tags from `num_tags` whenever the metrics are read."""
        self._unknown_tags.set_function(num_tags)

    def count_processes(self, board: Board) -> None:
        """Take the numbers of processes from the board whenever the metrics are read."""
        self._gauges.register(ProcessCollector(board))

    def watch_histories(self, num_open: Callable[[], int]) -> None:
        """Take from `num_open`, whenever the metrics are read, how many places of histories are not asked."""
        self._history_breakers.set_function(num_open)

    def count_written(self, what: str, number: int = 1) -> None:
        """Count what was written; see `WRITES`."""
        self._written[what].inc(number)

    def count_logged(self, outcome: str, num_rows: int) -> None:
        """Count rows of the request log: `written`, `dropped` or `failed`."""
        self._logged[outcome].inc(num_rows)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format; counters are those of all processes together."""
        return self.counted_text() + generate_latest(self._gauges)

    async def read_text(self) -> bytes:
        """Return `text`, most of it made beside the event loop: files of many processes take their time."""
        return await asyncio.to_thread(self.counted_text) + generate_latest(self._gauges)

    def counted_text(self) -> bytes:
        """Return what all processes count together."""
        counted = self._counted
        if self._shared is not None:
            counted = CollectorRegistry()
            counted.register(SharedCounts(self._shared))
        return generate_latest(counted)
