"""Bursts may wait for long, overload may not: told by the work that was asked for."""

import random

import pytest

from service.pressure import Pressure

COST_S, LONGEST_S = 0.002, 0.1
USUAL_BOUND_S = 4 * COST_S


class Clock:
    """The time that the tested code reads."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        """Stands for `time.monotonic`."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("service.pressure.time", clock)
    return clock


def warm(clock: Clock, cost_s: float = COST_S) -> Pressure:
    """A Pressure that knows what rankings cost, for it saw a hundred of them, one at a time."""
    pressure = Pressure(LONGEST_S)
    for _ in range(100):
        pressure.note(0.0, cost_s)
        clock.now_s += cost_s
    return pressure


class Queue:
    """A server of requests that cost the same, asked at random moments and bounded by a Pressure."""

    def __init__(self, clock: Clock, cost_s: float = COST_S) -> None:
        self.pressure = warm(clock, cost_s)
        self._clock, self._cost_s, self._free_s = clock, cost_s, 0.0
        self._random = random.Random(1)

    @property
    def wait_s(self) -> float:
        """How long who comes now has to wait."""
        return max(0.0, self._free_s - self._clock.now_s)

    def admit(self) -> float:
        """Let a request in, and return when it is answered."""
        self._free_s = self._clock.now_s + self.wait_s + self._cost_s
        return self._free_s

    def load(self, share: float, seconds: float) -> tuple[list[float], int]:
        """Ask so much of it for so long; return the waits of those admitted, and how many were shed."""
        end_s, waits, shed = self._clock.now_s + seconds, [], 0
        while self._clock.now_s < end_s:
            self._clock.now_s += self._random.expovariate(share / self._cost_s)
            wait_s = self.wait_s
            self.pressure.note(wait_s, self._cost_s)
            if wait_s > self.pressure.bound_s:
                shed += 1
                continue
            self.admit()
            waits.append(wait_s)
        return waits, shed


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


def test_under_overload_those_admitted_wait_about_as_long_as_at_half_load(clock: Clock) -> None:
    """But for the first moment, in which it may be a burst; the server is busy all the same."""
    queue = Queue(clock)
    calm, shed = queue.load(0.5, 20)
    assert not shed
    first, _ = queue.load(3, 0.3)
    assert LONGEST_S / 2 < max(first) <= LONGEST_S
    waits, shed = queue.load(3, 19)
    assert max(waits) <= USUAL_BOUND_S
    assert p99(waits) < 1.8 * p99(calm)
    assert len(waits) * COST_S > 0.98 * 19
    assert shed > len(waits)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_nothing_is_shed_for_long_queues_short_of_overload(clock: Clock, share: float) -> None:
    """A queue that is hardly ever empty is no overload."""
    assert Queue(clock).load(share, 60)[1] == 0


def test_a_burst_waits(clock: Clock) -> None:
    """Forty rankings at once, after which nothing comes: all are admitted."""
    pressure = warm(clock)
    for position in range(40):
        pressure.note(position * COST_S, COST_S)
        assert pressure.bound_s == LONGEST_S


def test_overload_that_ends_is_soon_forgotten(clock: Clock) -> None:
    """What was refused counts for twice the longest wait at most; then bursts may wait again."""
    queue = Queue(clock)
    queue.load(3, 60)
    assert queue.pressure.bound_s == pytest.approx(USUAL_BOUND_S)
    clock.now_s += 2 * LONGEST_S + COST_S
    queue.pressure.note(0.0, COST_S)
    assert queue.pressure.bound_s == LONGEST_S


def test_the_bound_follows_what_rankings_cost(clock: Clock) -> None:
    """It is some of them, no less than a loop's noise, and never more than what a burst may wait."""
    for cost_s, bound_s in ((0.0001, 0.005), (0.01, 0.04), (0.2, LONGEST_S)):
        pressure = warm(clock, cost_s)
        pressure.note(2 * LONGEST_S, cost_s)
        assert pressure.bound_s == pytest.approx(bound_s)


def test_a_request_of_unknown_size_counts_as_usual(clock: Clock) -> None:
    """Who is refused before the body is decoded was asked for all the same."""
    pressure = warm(clock, LONGEST_S / 5)
    pressure.note(2 * LONGEST_S, LONGEST_S / 5)
    clock.now_s += 1.9 * LONGEST_S
    for _ in range(3):
        pressure.note(0.01)
    clock.now_s += 0.5 * LONGEST_S
    pressure.note(0.0, LONGEST_S / 5)
    assert pressure.bound_s < LONGEST_S


def test_costs_that_are_hardly_known_make_no_overload(clock: Clock) -> None:
    """First requests may take very long; the longest wait bounds them all the same."""
    pressure = Pressure(LONGEST_S)
    for _ in range(99):
        pressure.note(2 * LONGEST_S, 10.0)
    assert pressure.bound_s == LONGEST_S


def test_clients_that_ask_again_at_once_do_not_keep_overload_up(clock: Clock) -> None:
    """Eight that ask one after the other never wait for long, but look endless once they are refused."""
    queue, shed_at = Queue(clock), []
    queue.pressure.note(2 * LONGEST_S, COST_S)  # a stall
    started_s = clock.now_s
    busy_until = [started_s] * 8
    while clock.now_s < started_s + 25:
        client = min(range(8), key=busy_until.__getitem__)
        clock.now_s = max(clock.now_s, busy_until[client]) + 1e-5
        wait_s = queue.wait_s
        queue.pressure.note(wait_s, COST_S)
        if wait_s > queue.pressure.bound_s:
            shed_at.append(clock.now_s - started_s)
            busy_until[client] = clock.now_s + 1e-4
        else:
            busy_until[client] = queue.admit()
    assert shed_at[-1] == pytest.approx(20, abs=0.1)
