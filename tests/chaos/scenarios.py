"""What can go wrong with Redis, one function each: it hurts, waits, and leaves everything running again."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from contract.client import Client
from tests.chaos.places import Place, durable, forgetful, sharded, watched
from tests.chaos.traffic import Traffic, surely
from tests.chaos.world import CHANGING, STEADY
from tests.service.many import Many
from tests.service.running import wait_until

_PATIENCE_S = 60
_CLOSE_EVERY_S = 0.02


@dataclass(frozen=True)
class Chaos:
    """A scenario under way."""

    place: Place
    traffic: Traffic
    service: Many
    length_s: float  # how long each failure, and each quiet time, lasts


@dataclass(frozen=True)
class Scenario:
    """A failure by name.

    Attributes
    ----------
    place
        Makes the Redis that suffers it.
    hurt
        Does the harm and mends it; the service is under requests all the time.
    quick
        Whether it is over in seconds.
    workers
        How many the service has, where that matters.
    cuts_connections
        Whether clients may see a connection end, and then have to ask again.
    """

    name: str
    place: Callable[[Path], AbstractContextManager[Place]]
    hurt: Callable[[Chaos], None]
    quick: bool = True
    workers: int | None = None
    cuts_connections: bool = False


def nothing(chaos: Chaos) -> None:
    """Let it run undisturbed."""
    time.sleep(chaos.length_s)


def stopped(chaos: Chaos) -> None:
    """Shut Redis down in order and start it again with its data."""
    chaos.place.node.signal(signal.SIGTERM)
    time.sleep(chaos.length_s)
    chaos.place.node.kill()
    chaos.place.node.start()


def killed(chaos: Chaos) -> None:
    """Kill Redis without warning and start it again with its data."""
    chaos.place.node.kill()
    time.sleep(chaos.length_s)
    chaos.place.node.start()


def emptied(chaos: Chaos) -> None:
    """Let Redis come back empty, look how the service copes, then load everything again."""
    chaos.traffic.may_be_empty.set()
    chaos.traffic.may_revert.set()
    chaos.place.node.kill()
    time.sleep(chaos.length_s)
    chaos.place.node.start()
    with Client(chaos.traffic.url, timeout_s=20) as client:
        wait_until(lambda: "items" in client.rank(1, [CHANGING.start]).degraded, _PATIENCE_S)
        time.sleep(chaos.length_s)
        chaos.traffic.restore_histories(client)
        steady = [chaos.traffic.world.item(item_id) for item_id in STEADY]
        surely(lambda: client.put_items(steady))
        for item_id, variant in chaos.traffic.newest().items():
            if variant:
                surely(partial(client.put_item, item_id, chaos.traffic.world.item(item_id, variant)))
            else:
                surely(partial(client.delete_item, item_id))


def failed_over(chaos: Chaos) -> None:
    """Lose the primary while its replica lacks the last writes; the Sentinels promote the replica."""
    replicated = chaos.place.replicated
    assert replicated is not None
    wait_until(replicated.in_sync, _PATIENCE_S)
    # A primary that lets no replica in goes on serving, and what it acknowledges from here on is lost with it.
    replicated.primary.command("ACL", "SETUSER", "default", "-psync", "-sync")
    replicated.primary.command("CLIENT", "KILL", "TYPE", "replica")
    chaos.traffic.may_revert.set()
    time.sleep(min(chaos.length_s, 1.5))
    replicated.primary.kill()
    wait_until(lambda: replicated.replica.command("ROLE")[0] == b"master", _PATIENCE_S)
    time.sleep(chaos.length_s)


def stalled(chaos: Chaos) -> None:
    """Freeze Redis, with all connections open, and let it go on."""
    chaos.place.node.signal(signal.SIGSTOP)
    time.sleep(chaos.length_s)
    chaos.place.node.signal(signal.SIGCONT)


def disconnected(chaos: Chaos) -> None:
    """Close every connection again and again, while items change."""
    stop = time.monotonic() + chaos.length_s
    with chaos.place.node.client() as client:
        while time.monotonic() < stop:
            with contextlib.suppress(Exception):
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(_CLOSE_EVERY_S)


def worker_killed(chaos: Chaos) -> None:
    """Kill one worker after the other without warning; each is replaced."""
    stop = time.monotonic() + chaos.length_s
    while time.monotonic() < stop:
        for pid in list(chaos.service.workers().values()):
            os.kill(pid, signal.SIGKILL)
            chaos.service.wait_whole()


def owner_killed(chaos: Chaos) -> None:
    """Kill the process that follows the catalogue; another one takes over."""
    os.kill(chaos.service.children()["owner"], signal.SIGKILL)
    time.sleep(chaos.length_s)
    chaos.service.wait_whole()


SCENARIOS = (
    Scenario("undisturbed", durable, nothing),
    Scenario("stopped, restarted with its data", durable, stopped),
    Scenario("killed, restarted with its data", durable, killed),
    Scenario("restarted empty, loaded again", forgetful, emptied),
    Scenario("failed over to a replica that lagged", watched, failed_over, quick=False),
    Scenario("stalled", durable, stalled),
    Scenario("connections closed in a loop", durable, disconnected),
    Scenario("Cluster: a master killed, restarted", sharded, killed, quick=False),
    Scenario("Cluster: connections closed in a loop", sharded, disconnected, quick=False),
    Scenario("two workers: each killed in turn", durable, worker_killed, workers=2, cuts_connections=True),
    Scenario("two workers: their owner killed", durable, owner_killed, workers=2),
)
