"""Who may rank now: bounds in candidates and in time, and what is learnt of costs."""

import asyncio
import time
from collections import Counter

import pytest

from service.admission import Admission, Costs
from service.call import Call
from service.errors import DeadlineError, OverloadedError

pytestmark = pytest.mark.usefixtures("loop")


@pytest.fixture
def loop():
    """An event loop that is running as far as whoever asks for it can tell."""
    started = asyncio.new_event_loop()
    asyncio._set_running_loop(started)
    yield started
    asyncio._set_running_loop(None)
    started.close()


@pytest.fixture
def shed() -> Counter[str]:
    """How many were shed, by reason."""
    return Counter()


def admission(shed: Counter[str], most: int = 100, wait_ms: float = 50) -> Admission:
    return Admission(most, wait_ms, lambda reason: shed.update([reason]))


def test_the_queue_is_bounded_by_candidates(shed):
    """Once as many candidates as may be are under way, the next request is shed, and let in when one has left."""
    gate = admission(shed)
    with gate.admit(60, Call()):
        with gate.admit(40, Call()):
            assert gate.num_candidates == 100
            with pytest.raises(OverloadedError, match="100 candidates are being ranked"), gate.admit(1, Call()):
                pass
        with gate.admit(1, Call()):
            pass
    assert gate.num_candidates == 0
    assert shed == {"candidates": 1}


def test_one_request_larger_than_the_bound_passes_alone(shed):
    """A request of more candidates than the queue may hold is ranked when nothing else is."""
    gate = admission(shed)
    with gate.admit(500, Call()), pytest.raises(OverloadedError), gate.admit(1, Call()):
        pass
    with gate.admit(500, Call()):
        pass


def test_a_request_that_would_wait_for_too_long_is_shed(shed):
    """The wait is what scoring took lately of all that is under way."""
    gate = admission(shed, wait_ms=50)
    gate.costs.learn(10, 0.02)
    with gate.admit(10, Call()), gate.admit(10, Call()):
        assert gate.expected_wait_s == pytest.approx(0.04)
        with gate.admit(10, Call()), pytest.raises(OverloadedError, match="wait for 60 ms"):
            gate.check_wait()
    gate.check_wait()
    assert shed == {"wait": 1}


def test_a_deadline_that_cannot_be_met_is_shed_early(shed):
    """Whoever would be answered after its deadline is told at once; a later deadline passes."""
    gate = admission(shed, wait_ms=5000)
    gate.costs.learn(10, 1.0)

    def until(limit_ms: float) -> Call:
        call = Call()
        call.limit(limit_ms)
        return call

    with gate.admit(10, Call()):
        with pytest.raises(OverloadedError, match="deadline"), gate.admit(10, until(1500)):
            pass
        with gate.admit(10, until(60_000)):
            pass
    assert shed == {"deadline": 1}


def test_a_deadline_does_not_shed_where_nothing_waits(shed):
    """However slow scoring was, a request that finds nobody before it is let in, or nothing would be learnt."""
    gate = admission(shed)
    gate.costs.learn(10, 60.0)
    call = Call()
    call.limit(1000)
    with gate.admit(10, call):
        pass
    assert not shed


def test_a_size_that_was_never_scored_is_not_refused_for_its_cost(shed):
    """What many candidates cost cannot be told from what few do: a deadline lets them in, or it would stay so."""
    gate = admission(shed, most=10_000, wait_ms=5000)
    gate.costs.learn(10, 0.01)
    call = Call()
    call.limit(2000)
    with gate.admit(10, Call()), gate.admit(4096, call):
        pass
    assert not shed


def test_a_deadline_that_is_past_is_told(shed):
    """It is no overload but a DeadlineError, also where it passes while the request waits."""
    gate = admission(shed)
    with pytest.raises(DeadlineError), gate.admit(10, Call(deadline_s=time.monotonic() - 1)):
        pass
    with pytest.raises(DeadlineError), gate.admit(10, Call()):
        raise DeadlineError("too late")
    assert shed == {"expired": 2}
    assert gate.num_candidates == 0


def test_the_shortest_deadline_counts():
    """A later limit does not move a deadline."""
    call = Call(arrived_s=100.0)
    for limit_ms in (None, 500, 2000, None):
        call.limit(limit_ms)
    assert call.deadline_s == 100.5


def test_costs_follow_what_scoring_takes():
    """A moving average for each size; sizes never seen are in proportion to the nearest one."""
    costs = Costs()
    assert costs.of(100) == 0
    costs.learn(100, 0.01)
    assert costs.of(127) == 0.01
    assert costs.of(200) == 0.02
    assert costs.of(20) == pytest.approx(0.0025)
    for _ in range(100):
        costs.learn(100, 0.03)
    assert costs.of(100) == pytest.approx(0.03, rel=0.01)


def test_a_first_measurement_that_went_wrong_is_soon_outweighed():
    """A stall during the first request of a size does not make others of that size look slow for long."""
    costs = Costs()
    for seconds in (1.0, 0.01, 0.01, 0.01, 0.01):
        costs.learn(100, seconds)
    assert costs.of(100) == pytest.approx(0.208)


def test_a_loop_that_stays_late_sheds(shed):
    """Where the loop itself cannot follow, waiting is seen though no queue is; one late moment is not enough."""

    def stop_the_loop(seconds: float) -> None:
        time.sleep(seconds)

    async def main() -> tuple[float, float, float]:
        gate = admission(shed, wait_ms=20)
        with gate.admit(1, Call()):
            pass
        stop_the_loop(0.1)
        for _ in range(2):  # one turn of the loop to go on here, one for what is due
            await asyncio.sleep(0)
        once = gate.expected_wait_s
        for _ in range(8):
            stop_the_loop(0.06)
            await asyncio.sleep(0)
        often = gate.expected_wait_s
        with pytest.raises(OverloadedError):
            gate.check_wait()
        for _ in range(1000):
            await asyncio.sleep(0.005)
            if gate.expected_wait_s <= 0.02:
                break
        return once, often, gate.expected_wait_s

    asyncio._set_running_loop(None)
    once, often, afterwards = asyncio.run(main())
    assert once == 0
    assert often > 0.02
    assert afterwards <= 0.02
    assert shed == {"wait": 1}
