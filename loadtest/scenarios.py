"""The scenarios with one run: a load, and what happens to the service meanwhile."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from contract.client import Client
from loadtest.arrivals import Segment, bursts
from loadtest.bench import Bench
from loadtest.disturbances import ItemWrites, RedisStall, Swaps, redis_of
from loadtest.outcome import Event, Finding, Outcome, Part
from loadtest.samples import Samples
from loadtest.searches import overload, ramp
from loadtest.summary import distribution

_NUM_WRITTEN_ITEMS = 64
_AFTER_S = 1.0
_CLIENT_S = 60


@dataclass(frozen=True, slots=True)
class Scenario:
    """A way to load a service."""

    name: str
    about: str
    run: Callable[[Bench], Outcome]


def steady(bench: Bench) -> Outcome:
    """Send at one rate."""
    return _plain(bench.load("steady", _constant(bench)))


def burst(bench: Bench) -> Outcome:
    """Send at one mean rate, half of it in bursts."""
    options = bench.options
    part = bench.load("bursts", bursts(options.rate, options.duration_s, options.burst))
    return _plain(part, Finding("rate in a burst", options.burst * options.rate, "requests/s"))


def hot_user(bench: Bench) -> Outcome:
    """Let one user ask as often as all others together, or whatever share was asked for."""
    user = int(bench.population.users.ids[0])
    part = bench.load("hot user", _constant(bench), hot=(user, bench.options.hot_share))
    of_user = part.samples.user_id == user
    return _plain(
        part,
        Finding("requests of the hot user", f"{of_user.mean():.1%}"),
        Finding("p99 of the hot user", _p99(part.samples.where(of_user)), "ms"),
        Finding("p99 of the others", _p99(part.samples.where(~of_user)), "ms"),
    )


def swaps(bench: Bench) -> Outcome:
    """Swap between two versions under load."""
    with _client(bench) as client:
        swapping = Swaps(client, bench.options.model, bench.options.pause_s)
        part = bench.load("swaps", _constant(bench), swapping)
    within = during(part.samples, swapping.events)
    inside, outside = _p99(part.samples.where(within)), _p99(part.samples.where(~within))
    longest_s = max((event.end_s - event.start_s for event in swapping.events), default=None)
    return _plain(
        part,
        Finding("swaps", len(swapping.events)),
        Finding("longest swap", longest_s, "s"),
        Finding("p99 in swap windows", inside, "ms"),
        Finding("p99 elsewhere", outside, "ms"),
        Finding("ratio", inside / outside if inside and outside else None),
        events=swapping.events,
    )


def items(bench: Bench) -> Outcome:
    """Change items under load."""
    with _client(bench) as client:
        chosen = bench.population.items.ids[:_NUM_WRITTEN_ITEMS].tolist()
        writing = ItemWrites(client, chosen, bench.options.writes_per_s)
        part = bench.load("items change", _constant(bench), writing)
    return _plain(
        part,
        Finding("items written", len(writing.latencies_ms)),
        Finding("writes refused", writing.num_refused),
        Finding("p99 of a write", distribution(np.array(writing.latencies_ms))["p99"], "ms"),
    )


def redis_stall(bench: Bench) -> Outcome:
    """Let Redis stall once under load."""
    options = bench.options
    stall = RedisStall(redis_of(options.redis_url, options.data_dir), options.stall_s)
    part = bench.load("Redis stalls", _constant(bench), stall)
    within = during(part.samples, stall.events)
    after = during(part.samples, [Event("", event.end_s, event.end_s + _AFTER_S) for event in stall.events])
    return _plain(
        part,
        Finding("p99 while Redis stalls", _p99(part.samples.where(within)), "ms"),
        Finding(
            "degraded while Redis stalls", f"{part.samples.degraded[within].mean():.1%}" if within.any() else None
        ),
        Finding("p99 in the second after", _p99(part.samples.where(after)), "ms"),
        Finding("p99 elsewhere", _p99(part.samples.where(~within & ~after)), "ms"),
        events=stall.events,
    )


def during(samples: Samples, events: list[Event]) -> np.ndarray:
    """Return (n,) which requests were on their way in any event."""
    within = np.zeros(len(samples), dtype=bool)
    for event in events:
        within |= (samples.intended_s < event.end_s) & (samples.done_s > event.start_s)
    return within


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("steady", "one rate", steady),
        Scenario("ramp", "more and more, until the SLO breaks", ramp),
        Scenario("burst", "one mean rate, half of it in bursts", burst),
        Scenario("swaps", "versions are promoted back and forth", swaps),
        Scenario("items", "items change", items),
        Scenario("hot-user", "one user asks as often as all others", hot_user),
        Scenario("redis-stall", "Redis answers nothing for a while", redis_stall),
        Scenario("overload", "far more than the service can do", overload),
    )
}


def _constant(bench: Bench) -> list[Segment]:
    return [Segment(bench.options.duration_s, bench.options.rate)]


def _plain(part: Part, *findings: Finding, events: list[Event] | None = None) -> Outcome:
    return Outcome([part], part, part, events or [], findings)


def _p99(samples: Samples) -> float | None:
    return distribution(samples.latency_ms[samples.timed])["p99"]


@contextlib.contextmanager
def _client(bench: Bench) -> Iterator[Client]:
    with Client(bench.options.url, bench.options.key, _CLIENT_S) as client:
        yield client
