"""One turn of one server: as much as it can, then a few requests, then half of what it can."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.arrivals import Segment, arrival_times
from loadtest.driver import Clock, Generators, Schedule, drive
from loadtest.messages import Messages
from loadtest.outcome import make_part
from loadtest.target import Target, resolve
from tests.bench.peers.errors import PeerError
from tests.bench.peers.running import Running
from tests.bench.peers.servers import OURS

_NUM_PROCESSES = 1
"""Of the generator: it shares the cores with the server, whichever it is."""
_CONNECTIONS = 128
_TIMEOUT_S = 60.0
_LEAST_ANSWERS = 100
"""Of a closed loop."""
_LONGEST = 4
"""How many times the usual length a load lasts at most, for want of requests."""


@dataclass(frozen=True, slots=True)
class Load:
    """What each server is asked.

    Attributes
    ----------
    lists
        Candidates of a request each.
    users
        First and last id.
    window_s
        Of what is measured in each load.
    warmup_s
        Before it.
    closed_connections
        As many requests are under way at once, for a server to do as much as it can.
    least_requests
        A percentile of fewer is none: a load lasts longer for their sake.
    """

    lists: list[NDArray[np.int64]]
    users: tuple[int, int]
    window_s: float
    warmup_s: float
    closed_connections: int = 8
    least_requests: int = 200

    def long_enough_s(self, wanted_s: float) -> float:
        """Return how long a load lasts for which so long would be good: a window, or up to four."""
        return min(max(self.window_s, wanted_s), _LONGEST * self.window_s)


@dataclass(frozen=True, slots=True)
class Throughput:
    """As much as a server can do."""

    per_s: float
    cpu_s_per_1000: float
    failed: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Open loop, from the moment a request was due."""

    rate: float
    requests: int
    p50_ms: float
    p99_ms: float
    failed: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One server, once; `equal` at the rate that all are asked at, `half` at half of its own throughput."""

    most: Throughput
    equal: Latency
    half: Latency
    memory: int

    @property
    def failed(self) -> int:
        """How many requests were not answered with scores."""
        return self.most.failed + self.equal.failed + self.half.failed


class Asker:
    """Asks one running server; the same requests in the same order for every server.

    Parameters
    ----------
    up
        The server.
    load
        What it is asked.
    """

    def __init__(self, up: Running, load: Load) -> None:
        self._up, self._load = up, load
        self._target: Target = resolve(up.url)
        self._messages: Messages = up.server.protocol.messages(self._target.host, load.lists)
        self._checks_degraded = up.server is OURS

    def turn(self, equal_rate: float, likely_per_s: float) -> Turn:
        """Measure it all; a server that is likely to be slow gets longer, so that its throughput is no handful."""
        most = self.most(self._load.long_enough_s(_LEAST_ANSWERS / likely_per_s))
        half = self.at(most.per_s / 2)
        equal = self.at(equal_rate)
        return Turn(most, equal, half, self._up.memory())

    def most(self, window_s: float) -> Throughput:
        """Return what it does when it always has several requests to do; those that end in the window count."""
        load = self._load
        end_s, used = load.warmup_s + window_s, []

        def watch(clock: Clock) -> None:
            for moment_s in (load.warmup_s, end_s):
                clock.wait_until(moment_s)
                used.append((clock.now_s(), self._up.cpu_s()))

        generators = Generators(_NUM_PROCESSES, load.closed_connections, _TIMEOUT_S)
        samples = drive(self._target, self._messages, self._schedule(None, 20_000), generators, watch, end_s)
        (start_s, cpu_before), (stop_s, cpu_after) = used
        done = int((samples.ok & (samples.done_s >= start_s) & (samples.done_s < stop_s)).sum())
        if not done:
            raise PeerError(f"{self._up.server.name} answered nothing of {len(samples)} requests in {end_s:.0f} s")
        failed = int((~samples.ok).sum()) + self._degraded(samples.degraded)
        return Throughput(done / (stop_s - start_s), 1000 * (cpu_after - cpu_before) / done, failed)

    def at(self, rate: float) -> Latency:
        """Return how long requests take at a rate, sent whatever becomes of those before."""
        load = self._load
        duration_s = load.long_enough_s(load.least_requests / rate)
        segments = [Segment(duration_s + load.warmup_s, rate)]
        times = arrival_times(segments, np.random.default_rng(7), start_s=-load.warmup_s)
        generators = Generators(_NUM_PROCESSES, _CONNECTIONS, _TIMEOUT_S)
        samples = drive(self._target, self._messages, self._schedule(times, len(times)), generators).measured()
        summary = make_part("", rate, duration_s, samples).summary
        p50_ms, p99_ms = summary.latency_ms["p50"], summary.latency_ms["p99"]
        if p50_ms is None or p99_ms is None:
            raise PeerError(f"{self._up.server.name} answered nothing at {rate:.1f} requests/s")
        failed = int((~samples.ok).sum()) + self._degraded(samples.degraded)
        return Latency(rate, len(samples), p50_ms, p99_ms, failed)

    def _degraded(self, degraded: NDArray[np.bool_]) -> int:
        """Return how many answers say that they lack something; only one of the servers says so at all."""
        return int(degraded.sum()) if self._checks_degraded else 0

    def _schedule(self, times: NDArray[np.float64] | None, count: int) -> Schedule:
        generator = np.random.default_rng(11)
        first, last = self._load.users
        users = generator.integers(first, last + 1, count)
        return Schedule(times, users, generator.integers(0, len(self._load.lists), count))
