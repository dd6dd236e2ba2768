"""What the service counts, for Prometheus."""

from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from scoring.device import BODY
from service.board import Board, ProcessCollector

_LATENCIES = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5)
_SWAPS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
HOT_ITEM_EVENTS = ("hit", "missed", "admitted", "unread", "evicted")


class Metrics:
    """The metrics of one replica, in registries of their own.

    Parameters
    ----------
    shared
        Where all processes of the replica count, see `service.counters`; None where there is but one.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self._counted = registry = CollectorRegistry()
        self.requests = Counter("qin_requests", "Requests answered", ["route", "method", "status"], registry=registry)
        self.rank_seconds = Histogram(
            "qin_rank_seconds", "Time from a whole rank request to its answer", registry=registry, buckets=_LATENCIES
        )
        self.candidates = Counter("qin_candidates", "Candidates ranked", registry=registry)
        self.unknown_candidates = Counter(
            "qin_unknown_candidates", "Candidates that the catalogue lacks", registry=registry
        )
        self.degraded = Counter("qin_degraded", "Rank answers without something", ["reason"], registry=registry)
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
        self._gauges = registry = CollectorRegistry()
        self._serving = Gauge(
            "qin_serving", "1 for the version that serves", ["model", "version", "provider"], registry=registry
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

    def serving(self, model: str, version: str, provider: str, kernels: Mapping[str, str]) -> None:
        """Note the version that serves from now on, and what runs its fused operations."""
        self._serving.clear()
        self._serving.labels(model, version, provider).set(1)
        self._op.clear()
        for op, runs_by in kernels.items():
            self._op.labels(op, "body" if runs_by == BODY else runs_by).set(1)

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

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format; counters are those of all processes together."""
        counted = self._counted
        if self._shared is not None:
            counted = CollectorRegistry()
            self._shared.mkdir(exist_ok=True)  # whatever clears temporary folders may have been there
            MultiProcessCollector(counted, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(counted) + generate_latest(self._gauges)
