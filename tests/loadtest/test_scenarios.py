from pathlib import Path

import numpy as np
import pytest
import redis
from rich.console import Console

from contract.client import Client
from loadtest.command import measure
from loadtest.disturbances import redis_of
from loadtest.errors import LoadTestError, WrongCallError
from loadtest.options import Options
from loadtest.outcome import Event, Outcome, make_part
from loadtest.samples import Samples
from loadtest.scenarios import SCENARIOS, during
from loadtest.searches import _limits, recovery_s
from tests.loadtest.conftest import Loaded


def _run(options: Options) -> Outcome:
    return measure(options, Console(quiet=True)).outcome


def _findings(outcome: Outcome) -> dict[str, float | str | None]:
    return {finding.name: finding.value for finding in outcome.findings}


def test_steady_asks_at_the_rate_that_was_asked_for(loaded: Loaded) -> None:
    """About rate times duration requests are sent after the warm-up, and all are answered."""
    outcome = _run(loaded.options(spacing="even"))
    summary = outcome.judged.summary
    assert summary.requests == 80
    assert summary.answered == 80
    assert outcome.judged.samples.intended_s.min() >= 0


def test_candidates_of_a_mix_are_all_asked_for(loaded: Loaded) -> None:
    """Requests of each size are sent, in about their shares."""
    samples = _run(loaded.options(candidates="5:1,50:1", rate=100)).judged.samples
    assert set(samples.num_candidates.tolist()) == {5, 50}
    assert 0.3 < (samples.num_candidates == 5).mean() < 0.7


def test_bursts_come_one_upon_the_other(loaded: Loaded) -> None:
    """In its tenth of the time a burst has about half of the requests."""
    samples = _run(loaded.options(scenario="burst", rate=100)).judged.samples
    assert 0.35 < (samples.intended_s >= 1.8).mean() < 0.65


def test_the_hot_user_has_a_share_of_the_requests(loaded: Loaded) -> None:
    """Half of them and what popularity gives besides, and both groups are told of."""
    outcome = _run(loaded.options(scenario="hot-user", rate=100))
    counts = np.unique(outcome.judged.samples.user_id, return_counts=True)[1]
    assert counts.max() / counts.sum() > 0.4
    assert all(_findings(outcome).values())


def test_swaps_go_back_and_forth_and_end_where_they_began(loaded: Loaded, client: Client) -> None:
    """Versions are promoted under load, no request fails, windows are marked, and the first version serves again."""
    before = client.model().serving
    outcome = _run(loaded.options(scenario="swaps", pause_s=0.2))
    assert client.model().serving == before
    found = _findings(outcome)
    assert found["swaps"] == len(outcome.events) >= 1
    assert {event.detail for event in outcome.events} <= set(loaded.versions)
    assert found["p99 elsewhere"]
    assert outcome.judged.summary.num_failed == 0


def test_items_are_changed_and_put_back(loaded: Loaded, client: Client) -> None:
    """Items are written under load, and are as they were at the end."""
    before = [client.item(item_id) for item_id in range(20)]
    outcome = _run(loaded.options(scenario="items"))
    assert _findings(outcome)["items written"]
    assert [client.item(item_id) for item_id in range(20)] == before


def test_a_stalled_redis_is_seen_and_answers_go_on(loaded: Loaded, plain: redis.Redis) -> None:
    """While Redis answers nothing, ranks are answered without a history; Redis goes on by itself."""
    outcome = _run(loaded.options(scenario="redis-stall", redis_url=loaded.redis_url, duration_s=4))
    assert [event.kind for event in outcome.events] == ["Redis stalled"]
    assert outcome.judged.summary.num_failed == 0
    assert outcome.judged.samples.degraded[during(outcome.judged.samples, list(outcome.events))].any()
    assert plain.ping()


def test_a_ramp_finds_where_the_slo_breaks(loaded: Loaded) -> None:
    """Rates rise until one breaks it, and the highest that held is below the lowest that broke."""
    outcome = _run(loaded.options(scenario="ramp", rate=700, duration_s=0.6, slo="p50=30ms", warmup_s=0))
    found = _findings(outcome)
    held, broken = found["highest rate that held the SLO"], found["lowest rate that broke it"]
    assert isinstance(broken, float)
    assert held is None or held < broken
    assert len(outcome.parts) >= 2


@pytest.mark.parametrize("limit", [3.0, 50.0, 700.0])
def test_a_ramp_brackets_the_limit_from_either_side(limit: float) -> None:
    """Rates are raised from one that holds, and lowered from one that does not."""
    held, broken = _limits(50, lambda rate: rate <= limit)
    assert held is not None
    assert broken is not None
    assert held <= limit < broken


def test_a_ramp_without_a_limit_ends() -> None:
    """Where no rate breaks the SLO, none is named as one that does."""
    held, broken = _limits(50, lambda _rate: True)
    assert held is not None
    assert held > 1000
    assert broken is None


def test_an_overload_is_far_beyond_what_the_service_can_do(loaded: Loaded) -> None:
    """Saturation is measured first; then half of it, several times it and half again are told of apart."""
    outcome = _run(loaded.options(scenario="overload", duration_s=3, overload=2))
    saturation, half, over, again = outcome.parts
    assert half.rate == pytest.approx(saturation.summary.answered_per_s / 2)
    assert over.rate == pytest.approx(saturation.summary.answered_per_s * 2)
    assert over is outcome.judged
    assert again.rate == half.rate
    assert over.summary.requests > half.summary.requests
    whole = outcome.timeline.summary.requests
    assert half.summary.requests + over.summary.requests + again.summary.requests == whole


def _after_overload(slow_until_s: float) -> Samples:
    intended = np.arange(2, 4, 0.01)
    latency_s = np.where(intended < slow_until_s, 1.0, 0.005)
    zeros = np.zeros(len(intended), dtype=np.int64)
    nothing = zeros.astype(bool)
    done = intended + latency_s
    return Samples(intended, intended, intended, done, zeros + 200, nothing, nothing, zeros, zeros, 0.0)


def test_recovery_is_when_requests_are_quick_again() -> None:
    """It is counted from the overload's end, by quarters of a second; None where they stay slow."""
    for slow_until_s, wanted in ((2.0, 0.0), (2.6, 0.5), (9.0, None)):
        part = make_part("after", 100, 2, _after_overload(slow_until_s))
        assert recovery_s(part, 2, calm_ms=10) == wanted


def test_requests_on_their_way_in_an_event_belong_to_it() -> None:
    """One that was due before it and answered in it, and one that was due in it."""
    samples = _after_overload(9.0)
    within = during(samples, [Event("swap", 3.205, 3.295)])
    assert samples.intended_s[within] == pytest.approx(np.arange(2.21, 3.295, 0.01))


def test_a_model_that_is_not_there_cannot_be_swapped(loaded: Loaded) -> None:
    """The reason is the service's own."""
    with pytest.raises(LoadTestError, match="no model 'other'"):
        _run(loaded.options(scenario="swaps", model="other"))


def test_items_that_the_service_lacks_are_a_reason_to_stop(loaded: Loaded) -> None:
    """Ranking nothing but unknown items would measure something else."""
    with pytest.raises(LoadTestError, match="20 of 20 candidates are unknown"):
        _run(loaded.options(item_ids="5000-6000"))


def test_an_unknown_scenario_is_a_wrong_call(loaded: Loaded) -> None:
    """The error names those that there are."""
    with pytest.raises(WrongCallError, match=", ".join(SCENARIOS)):
        _run(loaded.options(scenario="storm"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0},
        {"duration_s": -1},
        {"users": "10-1"},
        {"users": "all"},
        {"item_ids": "-5-7"},
        {"burst": 20},
        {"hot_share": 1},
        {"timeout_s": 0},
        {"processes": 0},
        {"scenario": "redis-stall"},
    ],
)
def test_an_option_that_makes_no_sense_is_a_wrong_call(loaded: Loaded, wrong: dict[str, object]) -> None:
    """Nothing is measured."""
    with pytest.raises(WrongCallError):
        _run(loaded.options(**wrong))


def test_the_redis_of_a_local_service_is_found_by_its_data_folder(tmp_path: Path) -> None:
    """Its configuration says where it listens; another folder is a wrong call."""
    (tmp_path / "valkey.conf").write_text('port 0\nunixsocket "/run/some/valkey.sock"\n')
    assert redis_of(None, tmp_path) == "unix:///run/some/valkey.sock"
    with pytest.raises(WrongCallError, match="not the data folder"):
        redis_of(None, tmp_path / "other")
