import time
from dataclasses import replace

import numpy as np
import pytest

from loadtest.arrivals import Segment, arrival_times
from loadtest.driver import Clock, Generators, drive
from loadtest.errors import GeneratorError
from loadtest.target import resolve
from tests.loadtest.jobs import messages, schedule
from tests.loadtest.servers import after, scripted

_STALL_S = 1.0


def test_an_open_loop_shows_a_stall_that_a_closed_loop_hides() -> None:
    """A second's stop makes a quarter of an open loop's requests wait, and one of a closed loop's."""
    with scripted(after(0.002)) as server:
        target = resolve(server.url)

        def stall(clock: Clock) -> None:
            clock.wait_until(1)
            server.stop_for(_STALL_S)

        times = arrival_times([Segment(4, 100)], np.random.default_rng(1)).tolist()
        opened = drive(target, messages(target), schedule(times), Generators(2, 256, 30), stall)
        closed = drive(target, messages(target), schedule(None, 100), Generators(1, 1, 30), stall, closed_s=4)
    assert opened.ok.all()
    assert closed.ok.all()
    open_waited, closed_waited = (samples.latency_ms > _STALL_S * 1e3 / 2 for samples in (opened, closed))
    assert open_waited.mean() > 0.05
    assert 1 <= closed_waited.sum() <= 3


def test_several_processes_send_one_schedule() -> None:
    """Every request is sent once, in the order of the moments, by connections that all processes share out."""
    times = np.linspace(0, 0.5, 101).tolist()
    with scripted(after(0.3)) as server:
        target = resolve(server.url)
        samples = drive(target, messages(target), schedule(times), Generators(3, 7, 30))
    wanted = schedule(times)
    assert samples.intended_s == pytest.approx(times)
    assert samples.user_id.tolist() == wanted.users.tolist()
    assert len(server.bodies) == 101
    assert server.num_connections == 7
    assert samples.cpu_s > 0


def test_a_schedule_may_begin_before_zero() -> None:
    """What is due before 0 is sent before what is due after it, and the clock of what is done meanwhile agrees."""
    seen = []

    def look(clock: Clock) -> None:
        seen.append(clock.now_s())
        clock.wait_until(0)
        seen.append(clock.now_s())

    with scripted() as server:
        target = resolve(server.url)
        samples = drive(target, messages(target), schedule([-1.5, -0.25, 0.0, 0.25]), Generators(1, 4, 30), look)
    assert samples.intended_s == pytest.approx([-1.5, -0.25, 0.0, 0.25])
    assert seen[0] < 0 <= seen[1]


def test_a_load_of_no_requests_is_none() -> None:
    """Nothing is sent and nothing fails."""
    with scripted() as server:
        target = resolve(server.url)
        assert len(drive(target, messages(target), schedule([]), Generators(2, 4, 30))) == 0


def test_a_generator_that_fails_is_told_of() -> None:
    """The error says what it said, and no process is left."""
    with scripted() as server:
        target = resolve(server.url)
        broken = replace(schedule([0.0]), lists=np.array([0]))
        started = time.monotonic()
        with pytest.raises(GeneratorError, match="IndexError"):
            drive(target, replace(messages(target), heads=()), broken, Generators(1, 1, 30))
        assert time.monotonic() - started < 25
