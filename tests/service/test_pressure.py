"""Bursts may wait for long, overload may not: told by the work that was asked for."""

import random

import pytest

from service.pressure import Pressure

COST_S, LONGEST_S = 0.002, 0.1
USUAL_BOUND_S = 3 * COST_S


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


class Queue:
    """A server of requests that cost the same, asked at random moments and bounded by a Pressure."""

    def __init__(self, clock: Clock, cost_s: float = COST_S) -> None:
        self.pressure = Pressure(LONGEST_S)
        self._clock, self._cost_s, self._free_s = clock, cost_s, 0.0
        self._random = random.Random(1)

    def load(self, share: float, seconds: float) -> tuple[list[float], int]:
        """Ask so much of it for so long; return the waits of those admitted, and how many were shed."""
        end_s, waits, shed = self._clock.now_s + seconds, [], 0
        while self._clock.now_s < end_s:
            self._clock.now_s += self._random.expovariate(share / self._cost_s)
            wait_s = max(0.0, self._free_s - self._clock.now_s)
            self.pressure.note(wait_s, self._cost_s)
            if wait_s > self.pressure.bound_s:
                shed += 1
                continue
            self._free_s = self._clock.now_s + wait_s + self._cost_s
            waits.append(wait_s)
        return waits, shed


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


def test_under_overload_those_admitted_wait_no_longer_than_at_half_load(clock: Clock) -> None:
    """But for the first moment, in which it may be a burst; the server is busy all the same."""
    queue = Queue(clock)
    calm, shed = queue.load(0.5, 20)
    assert not shed
    first, _ = queue.load(3, 0.3)
    assert LONGEST_S / 2 < max(first) <= LONGEST_S
    waits, shed = queue.load(3, 20)
    assert max(waits) <= USUAL_BOUND_S
    assert p99(waits) < 1.3 * p99(calm) + COST_S / 10
    assert len(waits) * COST_S > 0.98 * 20
    assert shed > len(waits)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_nothing_is_shed_for_long_queues_short_of_overload(clock: Clock, share: float) -> None:
    """A queue that is hardly ever empty is no overload."""
    assert Queue(clock).load(share, 60)[1] == 0


def test_a_burst_waits(clock: Clock) -> None:
    """Forty rankings at once, after which nothing comes: all are admitted."""
    pressure = Pressure(LONGEST_S)
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
    for cost_s, bound_s in ((0.0001, 0.005), (0.01, 0.03), (0.2, LONGEST_S)):
        pressure = Pressure(LONGEST_S)
        pressure.note(0.0, cost_s)
        pressure.note(2 * LONGEST_S, cost_s)
        assert pressure.bound_s == pytest.approx(bound_s)


def test_a_request_of_unknown_size_counts_as_usual(clock: Clock) -> None:
    """Who is refused before the body is decoded was asked for all the same."""
    pressure = Pressure(LONGEST_S)
    pressure.note(0.0, LONGEST_S / 4)
    pressure.note(2 * LONGEST_S, LONGEST_S / 4)
    clock.now_s += 1.9 * LONGEST_S
    for _ in range(3):
        pressure.note(0.01)
    clock.now_s += 0.5 * LONGEST_S
    pressure.note(0.0, LONGEST_S / 4)
    assert pressure.bound_s < LONGEST_S
