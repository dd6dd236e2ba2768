"""A server while it runs: until it is ready, what it uses, and its end."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.bench.peers.errors import PeerError
from tests.bench.peers.servers import Place, Server

_READY_S = 300
_LOOK_S = 0.1
_STOP_S = 20
_LOG = "log"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready."""

    server: Server
    place: Place
    process: psutil.Process

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.place.port}"

    def cpu_s(self) -> float:
        """Return the processor time of all its processes so far."""
        return self._sum(lambda each: sum(each.cpu_times()[:2]))

    def memory(self) -> int:
        """Return the bytes that all its processes occupy; what several share counts once."""
        return int(self._sum(lambda each: each.memory_full_info().pss))

    def _sum(self, of: Callable[[psutil.Process], float]) -> float:
        total = 0.0
        for each in _family(self.process):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
                total += of(each)
        return total


@contextlib.contextmanager
def running(server: Server, place: Place) -> Iterator[Running]:
    """Run a server for as long as the block does; it and all its children have ended then.

    Raises
    ------
    PeerError
        It ended, or was not ready in time.
    """
    launch, log = server.launch(place), place.folder / _LOG
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("QIN_", "PYTHON"))}
    with log.open("w") as output:
        process = subprocess.Popen(
            launch.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=inherited | dict(launch.variables),
            cwd=place.folder,
            start_new_session=True,
        )
    # Children outlive a parent that is killed, and are then nobody's: they are noted while it lives.
    family = {process.pid: psutil.Process(process.pid)}
    try:
        up = Running(server, place, family[process.pid])
        _await_ready(up, process, log)
        family |= {each.pid: each for each in _family(up.process)}
        yield up
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family |= {each.pid: each for each in _family(family[process.pid])}
        _end(process, list(family.values()))


def _await_ready(up: Running, process: "subprocess.Popen[bytes]", log: Path) -> None:
    stop = time.monotonic() + _READY_S
    while not (_is_ready(up) and _have_loaded(up.place)):
        if process.poll() is not None:
            raise PeerError(f"{up.server.name} ended with status {process.returncode}\n{_tail(log)}")
        if time.monotonic() > stop:
            raise PeerError(f"{up.server.name} was not ready within {_READY_S} s\n{_tail(log)}")
        time.sleep(_LOOK_S)


def _is_ready(up: Running) -> bool:
    try:
        return httpx.get(f"{up.url}{up.server.ready}", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def _have_loaded(place: Place) -> bool:
    """Tell whether every process of a peer has its model: some answer for all of them as soon as one has."""
    return not place.loaded.exists() or len(list(place.loaded.iterdir())) >= place.setup.processes


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _end(process: "subprocess.Popen[bytes]", family: list[psutil.Process]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(family, timeout=_STOP_S)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:]
