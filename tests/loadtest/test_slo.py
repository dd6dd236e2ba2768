import numpy as np
import pytest

from loadtest.errors import WrongCallError
from loadtest.slo import parse_slo
from loadtest.summary import Summary, distribution


def _summary(*, shed: int = 0, failed: int = 0, requests: int = 1000, slowest_ms: float = 20.0) -> Summary:
    latencies = np.concatenate([np.full(980, 5.0), np.full(20, slowest_ms)])
    measured, nothing = distribution(latencies), distribution(np.zeros(0))
    return Summary(
        requests=requests,
        duration_s=10,
        offered_per_s=requests / 10,
        answered=requests - shed - failed,
        answered_per_s=(requests - shed - failed) / 10,
        latency_ms=measured if requests else nothing,
        from_send_ms=measured,
        shed={"503": shed} if shed else {},
        shed_ms=nothing,
        failures={"500": failed} if failed else {},
        degraded=0,
        resent=0,
        lateness_ms=nothing,
        connection_wait_ms=nothing,
        generator_cpu_s=0,
    )


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("p99=20ms", True),
        ("p99=19.9ms", False),
        ("p50=5000us,max=0.02s", True),
        ("p50=4ms", False),
        ("p99.9=20ms, errors=0", True),
    ],
)
def test_durations_are_held_against_percentiles(text: str, held: bool) -> None:
    """Units are converted, and the limit itself is still within."""
    assert parse_slo(text).held(_summary()) is held


@pytest.mark.parametrize(("text", "held"), [("", False), ("errors=0.005", True), ("errors=0.4%", False)])
def test_shares_are_fractions_or_per_cent(text: str, held: bool) -> None:
    """5 of 1,000 are within 0.005, over 0.4 %, and over nothing at all where nothing is said."""
    assert parse_slo(text).held(_summary(failed=5)) is held


def test_shedding_breaks_an_slo_that_does_not_allow_it() -> None:
    """A service cannot keep its percentiles by refusing."""
    assert not parse_slo("p99=20ms").held(_summary(shed=1))
    assert parse_slo("p99=20ms,shed=1%").held(_summary(shed=1))


def test_an_overload_may_shed_unless_it_is_told_not_to() -> None:
    """Errors still count."""
    assert parse_slo("p99=20ms", may_shed=True).held(_summary(shed=900))
    assert not parse_slo("p99=20ms", may_shed=True).held(_summary(failed=1))
    assert not parse_slo("shed=10%", may_shed=True).held(_summary(shed=900))


def test_a_load_of_nothing_holds_no_slo() -> None:
    """What was not measured was not kept."""
    assert not parse_slo("p99=1s").held(_summary(requests=0))


@pytest.mark.parametrize(
    "text", ["p98=1ms", "p99", "p99=10", "p99=10m", "errors=10ms", "errors=2", "shed=-1", "p99=1ms,p99=2ms", "p99=ms"]
)
def test_an_slo_that_cannot_be_read_is_a_wrong_call(text: str) -> None:
    """The error has what was wrong."""
    with pytest.raises(WrongCallError, match="SLO"):
        parse_slo(text)
