"""`qin serve --workers N`: the parent of the owner and the workers, which starts, replaces and ends them.

It holds the listening socket and the embedded Valkey, and does nothing else: no threads, no sessions, no event loop,
so that a fork of it is a clean start with everything imported.
"""

import contextlib
import gc
import json
import os
import select
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass

import structlog
import uvicorn.lifespan.off
import uvicorn.protocols.http.httptools_impl  # noqa: F401 - uvicorn would import both in every child

from service.board import Board
from service.channel import pair
from service.child import OWNER, fork, seat_of, worker_name
from service.counters import forget_gauges, shared_folder
from service.embedded import EmbeddedValkey
from service.errors import StartError
from service.family import Family
from service.server import bind, say
from service.settings import Settings

_STEADY_S = 10.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 5.0
_LOOK_S = 0.25
"""How often to see whether the embedded Valkey still runs, and the owner still lives."""
_MOST_SILENT_LOOKS = 120
"""An owner that notes nothing for so many looks hangs. Counted in looks: a machine that slept does not count."""
_STOP_S = 10.0
"""How long a process may take to end, beside the grace for requests in flight, before it is killed."""

_log = structlog.get_logger(__name__)


def supervise(settings: Settings) -> int:
    """Serve with several processes until SIGTERM or SIGINT; returns the exit status.

    Raises
    ------
    StartError
        The service cannot start.
    """
    if sys.platform != "linux":
        raise StartError("several workers need Linux; give --workers 1")
    if settings.device == "cuda":
        raise StartError("one process runs on a GPU: give --workers 1, or --device cpu")
    with _Signals() as signals, contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(settings.host, settings.port))
        url, valkey = _redis(settings, stack)
        for_owner, for_workers = (stack.enter_context(end) for end in pair())
        counters = stack.enter_context(shared_folder())
        family = Family(settings, url, listener, for_owner, for_workers, Board(), counters)
        return Supervisor(family, signals, valkey).run()


class _Signals:
    """SIGTERM and SIGINT as something to select on; they interrupt nothing."""

    def __init__(self) -> None:
        self.reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)

    def __enter__(self) -> "_Signals":
        signal.set_wakeup_fd(self._writing.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        self.reading.close()
        self._writing.close()


@dataclass(slots=True, eq=False)
class _Place:
    """What runs, or will run again, under one name."""

    name: str
    pid: int = 0
    pidfd: int = -1
    report: int = -1
    is_ready: bool = False
    line: str = ""
    reason: str = ""
    started: float = 0.0
    start_at: float = 0.0
    delay_s: float = 0.0

    @property
    def is_owner(self) -> bool:
        """Whether this is the owner's place."""
        return self.name == OWNER

    def wait_longer(self) -> None:
        """Put off the next start, by more each time."""
        self.start_at = time.monotonic() + self.delay_s
        self.delay_s = min(max(2 * self.delay_s, _FIRST_DELAY_S), _LONGEST_DELAY_S)


class Supervisor:
    """Starts the owner and the workers, and replaces whichever dies until it is told to stop."""

    def __init__(self, family: Family, signals: _Signals, valkey: EmbeddedValkey | None) -> None:
        self._family, self._board, self._valkey = family, family.board, valkey
        self._places = [_Place(OWNER)]
        self._places += [_Place(worker_name(number + 1)) for number in range(family.settings.workers)]
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals.reading, selectors.EVENT_READ)
        self._has_served = False
        self._owner_beats, self._silent_looks, self._looked_at = 0, 0, 0.0

    def run(self) -> int:
        """Serve until a signal comes; returns 0.

        Raises
        ------
        StartError
            A process could not start, before all had started for the first time.
        """
        # What is there now stays shared with every child: the collector never writes to it again.
        gc.collect()
        gc.freeze()
        try:
            self._start_due()
            while not self._look():
                self._start_due()
        finally:
            self._stop()
        return 0

    def _look(self) -> bool:
        """Wait for whatever comes next, and return whether it is a signal to stop."""
        waiting = [place.start_at for place in self._places if not place.pid]
        wait_s = max(0.0, min(waiting) - time.monotonic()) if waiting else None
        wait_s = _LOOK_S if wait_s is None else min(wait_s, _LOOK_S)
        for key, _ in self._selector.select(wait_s):
            if key.data is None:
                return True
            if key.fd == key.data.report:
                self._hear(key.data)
            elif key.fd == key.data.pidfd:
                self._bury(key.data)
        return False

    def _start_due(self) -> None:
        if self._valkey is not None:
            self._valkey.revive()
        self._end_silent_owner()
        for place in self._places:
            if not place.pid and place.start_at <= time.monotonic():
                self._start(place)

    def _start(self, place: _Place) -> None:
        """Start a process; where the system has no room for one just now, try again later."""
        try:
            place.pid, place.pidfd, place.report = fork(place.name, self._family)
        except OSError as error:
            if not self._has_served:
                raise StartError(f"the process {place.name} cannot be started: {error.strerror}") from error
            _log.error("process cannot be started, trying again", name=place.name, reason=error.strerror)
            place.wait_longer()
            return
        place.started = time.monotonic()
        self._selector.register(place.pidfd, selectors.EVENT_READ, place)
        self._selector.register(place.report, selectors.EVENT_READ, place)

    def _end_silent_owner(self) -> None:
        """Kill an owner that has been ready and does nothing any more; its end is seen like any other."""
        owner, now = self._places[0], time.monotonic()
        if not owner.is_ready or self._board["owner_beats"] != self._owner_beats:
            self._owner_beats, self._silent_looks = self._board["owner_beats"], 0
        elif now - self._looked_at >= _LOOK_S:
            self._silent_looks, self._looked_at = self._silent_looks + 1, now
        if self._silent_looks > _MOST_SILENT_LOOKS:
            _log.error("the owner hangs and is killed")
            self._silent_looks = 0
            os.kill(owner.pid, signal.SIGKILL)

    def _hear(self, place: _Place) -> None:
        """Take a process's report, the only one that it makes before its pipe is closed."""
        content = os.read(place.report, 2**16)
        self._selector.unregister(place.report)
        os.close(place.report)
        place.report = -1
        said = json.loads(content) if content else {}
        place.is_ready, place.line, place.reason = "ready" in said, said.get("ready", ""), said.get("failed", "")
        self._count()
        if not self._has_served and all(place.is_ready for place in self._places):
            self._has_served = True
            say(f"{self._places[1].line}; {len(self._places) - 1} workers")

    def _bury(self, place: _Place) -> None:
        """Note that a process has ended, and when another one takes its place."""
        if place.report != -1:
            self._hear(place)
        if not place.is_owner:
            seat_of(place.name, self._family).leave()
        self._selector.unregister(place.pidfd)
        how, lived_s = _reap(place), time.monotonic() - place.started
        if not self._has_served:
            raise StartError(place.reason or f"the process {place.name} ended while it started: {how}")
        if lived_s >= _STEADY_S:
            place.delay_s = 0.0
        _log.error("process ended, another one takes its place", name=place.name, how=how, reason=place.reason)
        forget_gauges(self._family.counters, place.name)
        self._board["num_owner_restarts" if place.is_owner else "num_worker_restarts"] += 1
        place.wait_longer()
        self._count()

    def _count(self) -> None:
        ready = [place for place in self._places if place.is_ready]
        self._board["num_owners"] = sum(place.is_owner for place in ready)
        self._board["num_workers"] = sum(not place.is_owner for place in ready)

    def _stop(self) -> None:
        """End the workers in order, each with its requests in flight, then the owner."""
        self._family.listener.close()
        grace_s = self._family.settings.shutdown_grace_s + _STOP_S
        _end([place for place in self._places if place.pid and not place.is_owner], grace_s)
        _end([place for place in self._places if place.pid and place.is_owner], _STOP_S)
        self._selector.close()


def _end(places: list[_Place], limit_s: float) -> None:
    """Ask processes to end, and kill those that have not after a while."""
    deadline = time.monotonic() + limit_s
    for place in places:
        os.kill(place.pid, signal.SIGTERM)
    for place in places:
        if not select.select([place.pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            _log.error("process does not end and is killed", name=place.name)
            os.kill(place.pid, signal.SIGKILL)
        _reap(place)


def _reap(place: _Place) -> str:
    """Wait for a process that ends, and return how it did."""
    status = os.waitstatus_to_exitcode(os.waitpid(place.pid, 0)[1])
    os.close(place.pidfd)
    place.pid, place.pidfd, place.is_ready = 0, -1, False
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def _redis(settings: Settings, stack: contextlib.ExitStack) -> tuple[str, EmbeddedValkey | None]:
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value(), None
    valkey = EmbeddedValkey.start(settings.data_dir)
    stack.callback(valkey.stop)
    return valkey.url, valkey
