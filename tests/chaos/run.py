"""One scenario against real processes, from an empty Redis to the comparison of everything at its end."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contract.client import Client
from tests.chaos.scenarios import Chaos, Scenario
from tests.chaos.traffic import WRITER, Tally, Traffic
from tests.chaos.world import CHANGING, World
from tests.service.many import Many
from tests.service.running import await_ready, serving_process

_LENGTH = 64
_CATCH_UP_S = 30.0


@dataclass(frozen=True)
class Outcome:
    """What a scenario did to the service.

    Attributes
    ----------
    stale
        Items that, long after everything runs again, were not ranked as Redis holds them.
    lost
        Acknowledged events that the history lacks at the end, or that it has twice.
    """

    name: str
    tally: Tally
    stale: int
    lost: int
    caught_up_s: float
    cuts_connections: bool = False

    @property
    def good(self) -> bool:
        """Whether nothing was wrong, late, lost, stale or failed, nor asked twice without need."""
        tally = self.tally
        if tally.repeated and not self.cuts_connections:
            return False
        return not (tally.failed or tally.wrong or tally.late or self.stale or self.lost) and tally.answered > 0


def run(scenario: Scenario, world: World, folder: Path, length_s: float, num_workers: int = 1) -> Outcome:
    """Run a service through a scenario.

    Parameters
    ----------
    scenario
        What happens to it.
    world
        Its catalogue.
    folder
        For the servers' data and the service's log.
    length_s
        How long each part lasts.
    num_workers
        Of the service, unless the scenario needs another number.
    """
    with (
        scenario.place(folder / "redis") as place,
        _service(world, place.url, folder, scenario.workers or num_workers) as service,
    ):
        url = service.url
        traffic = Traffic(world, url)
        traffic.stock()
        with traffic.flowing():
            time.sleep(length_s / 2)
            scenario.hurt(Chaos(place, traffic, service, length_s))
            time.sleep(length_s / 2)
            traffic.stop_writing()
            started = time.monotonic()
            stored = place.items(CHANGING)
            stale = _stale_after_a_while(traffic, url, stored)
            caught_up_s = time.monotonic() - started
        events, kept = traffic.events[-_LENGTH:], place.history(WRITER)
        lost = 0 if traffic.may_revert.is_set() and not traffic.may_be_empty.is_set() else _differing(events, kept)
    return Outcome(scenario.name, traffic.tally, stale, lost, caught_up_s, scenario.cuts_connections)


@contextlib.contextmanager
def _service(world: World, redis_url: str, folder: Path, num_workers: int) -> Iterator[Many]:
    settings = {
        "store": world.bundle.parent.parent,
        "redis_url": redis_url,
        "redis_timeout_s": 0.5,
        "workers": num_workers,
    }
    log = folder / "service.log"
    with serving_process(log, **settings) as process:
        try:
            url = await_ready(process)
        except AssertionError:
            raise AssertionError(f"the service did not start: {log.read_text()}") from None
        yield Many(process, url, log)
        assert process.poll() is None, "the service ended"
        process.terminate()
        assert process.wait(30) == 0, "the service did not end in order"


def _stale_after_a_while(traffic: Traffic, url: str, stored: dict[int, bytes | None]) -> int:
    """Return how many items are ranked otherwise than they are stored, once that has stopped to change."""
    stop = time.monotonic() + _CATCH_UP_S
    with Client(url, timeout_s=20) as client:
        while (stale := _stale(traffic, client, stored)) and time.monotonic() < stop:
            time.sleep(0.05)
    return stale


def _stale(traffic: Traffic, client: Client, stored: dict[int, bytes | None]) -> int:
    ranking = client.rank(1, list(stored), history=[])
    seen = traffic.world.variants_seen(list(stored), ranking.scores, ())
    wanted = [traffic.world.variant_of(item_id, value) for item_id, value in stored.items()]
    return sum(b not in a for a, b in zip(seen, wanted, strict=True)) + bool(ranking.degraded)


def _differing(wanted: list[int], kept: list[int]) -> int:
    """Return how many places of two histories differ, from the newest on."""
    longest = max(len(wanted), len(kept))
    pairs = zip([None] * (longest - len(wanted)) + wanted, [None] * (longest - len(kept)) + kept, strict=True)
    return sum(a != b for a, b in pairs)
