"""A few numbers that all processes of one service see, in memory that they share from birth."""

import mmap
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Fact = Literal[
    "num_workers",  # workers that serve
    "num_owners",  # 1 while the catalogue is followed
    "num_worker_restarts",
    "num_owner_restarts",
    "num_items",
    "num_unknown_tags",
    "is_degraded",  # 1 while items are kept that Redis lost
    "has_problem",  # 1 while the owner cannot serve what is active or on trial
    "owner_beats",  # grows while the owner is alive
    "followed_ms",  # the moment, by the monotonic clock, up to which every write to the catalogue is known
]

_FACTS = get_args(Fact)
_MOST_SEATS = 257
_NOBODY = np.iinfo(np.int64).max
"""The number of connections at a seat where nobody accepts any."""


class Board:
    """Whole numbers by name, 0 at first; each is written by one process, all are read by any at any time.

    Made before the fork. What a process wrote stays when it dies.
    """

    def __init__(self) -> None:
        self._numbers = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64, len(_FACTS))
        self._connections = np.frombuffer(mmap.mmap(-1, 8 * _MOST_SEATS), np.int64)
        self._connections[:] = _NOBODY

    def __getitem__(self, fact: Fact) -> int:
        """Return a number as it is now."""
        return int(self._numbers[_FACTS.index(fact)])

    def __setitem__(self, fact: Fact, value: int) -> None:
        """Write a number."""
        self._numbers[_FACTS.index(fact)] = value

    def seat(self, number: int) -> "Seat":
        """Return the place of one of the processes that share a door; 256 have room, and numbers may start at 1."""
        return Seat(self._connections, number)


class Seat:
    """How many connections a process has, and whether others have fewer."""

    def __init__(self, connections: NDArray[np.int64], number: int) -> None:
        self._connections, self._number = connections, number

    @property
    def num_connections(self) -> int:
        """Of this process, as far as it has noted."""
        return int(self._connections[self._number])

    @num_connections.setter
    def num_connections(self, count: int) -> None:
        self._connections[self._number] = count

    @property
    def has_more_than_another(self) -> bool:
        """Whether some other process that accepts connections has fewer."""
        return self.num_connections > int(self._connections.min())

    def leave(self) -> None:
        """Note that nobody accepts connections here."""
        self._connections[self._number] = _NOBODY


class ProcessCollector(Collector):
    """How many processes of a service are up, and how often some had to be replaced."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        """Read them off the board."""
        up = GaugeMetricFamily("qin_processes", "Processes that are up", labels=["role"])
        up.add_metric(["worker"], self._board["num_workers"])
        up.add_metric(["owner"], self._board["num_owners"])
        yield up
        restarts = CounterMetricFamily("qin_restarts", "Processes that died and were replaced", labels=["role"])
        restarts.add_metric(["worker"], self._board["num_worker_restarts"])
        restarts.add_metric(["owner"], self._board["num_owner_restarts"])
        yield restarts
