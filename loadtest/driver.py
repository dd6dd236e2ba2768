"""Several processes that send one schedule together, and one that may do something to the service meanwhile."""

import contextlib
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess

import numpy as np
from numpy.typing import NDArray

from loadtest.errors import GeneratorError
from loadtest.messages import Messages
from loadtest.samples import Samples, gathered
from loadtest.sender import Job, Sender
from loadtest.target import Target

_HEAD_START_S = 0.05
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is asked and when: (n,) moments in seconds, users and candidate lists; no moments for a closed loop."""

    times: NDArray[np.float64] | None
    users: NDArray[np.int64]
    lists: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Generators:
    """How requests are sent.

    Attributes
    ----------
    num_processes, num_connections
        Connections are those of all processes together, at most.
    timeout_s
        How long after its moment a request has failed.
    """

    num_processes: int = 2
    num_connections: int = 512
    timeout_s: float = 5


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of a run: 0 is the start of what is measured."""

    zero: float
    end_s: float

    def now_s(self) -> float:
        """Return how long what is measured goes on already."""
        return time.monotonic() - self.zero

    def wait_until(self, moment_s: float) -> None:
        """Wait until a moment of the run."""
        time.sleep(max(0.0, moment_s - self.now_s()))


During = Callable[[Clock], None]


def drive(
    target: Target,
    messages: Messages,
    schedule: Schedule,
    generators: Generators,
    during: During | None = None,
    closed_s: float = 0,
) -> Samples:
    """Send a schedule and return what became of it.

    Parameters
    ----------
    during
        Called in this process once sending begins, to do something to the service.
    closed_s
        For a schedule without moments: how long each connection asks again as soon as it is answered.

    Raises
    ------
    GeneratorError
        A process ended.
    """
    job = Job(
        target,
        messages,
        np.arange(len(schedule.users)),
        schedule.times,
        schedule.users,
        schedule.lists,
        generators.num_connections,
        generators.timeout_s,
        closed_s,
    )
    first_s = 0.0 if schedule.times is None or not len(schedule.times) else min(0.0, float(schedule.times[0]))
    end_s = closed_s if schedule.times is None or not len(schedule.times) else float(schedule.times[-1])
    with _started(_shares(job, generators.num_processes)) as pipes:
        for pipe in pipes:
            _received(pipe)  # its connections are open
        zero = time.monotonic() + _HEAD_START_S - first_s
        for pipe in pipes:
            pipe.send(zero)
        if during is not None:
            during(Clock(zero, end_s))
        parts = [_received(pipe) for pipe in pipes]
    rows = np.concatenate([part[0] for part in parts])
    return gathered(rows, schedule.users, messages.num_candidates[schedule.lists], sum(part[1] for part in parts))


def _shares(job: Job, num_processes: int) -> list[Job]:
    """Return the job in parts: requests in turn, connections evenly."""
    num_processes = max(1, min(num_processes, job.num_connections, len(job.index)))
    connections = [job.num_connections // num_processes] * num_processes
    for number in range(job.num_connections % num_processes):
        connections[number] += 1
    return [
        replace(
            job,
            index=job.index[number::num_processes],
            times=None if job.times is None else job.times[number::num_processes],
            users=job.users[number::num_processes],
            lists=job.lists[number::num_processes],
            num_connections=connections[number],
        )
        for number in range(num_processes)
    ]


@contextlib.contextmanager
def _started(jobs: list[Job]) -> Iterator[list["Pipe[object, object]"]]:
    """Run a process for each job; all are ended at the block's end."""
    processes: list[SpawnProcess] = []
    pipes: list[Pipe[object, object]] = []
    try:
        for job in jobs:
            here, there = _SPAWN.Pipe()
            process = _SPAWN.Process(target=_generate, args=(job, there), name="load generator", daemon=True)
            process.start()
            there.close()
            processes.append(process)
            pipes.append(here)
        yield pipes
    finally:
        for process in processes:
            process.join(1)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        for pipe in pipes:
            pipe.close()


def _received(pipe: "Pipe[object, object]") -> tuple[NDArray[np.float64], float]:
    try:
        said = pipe.recv()
    except (EOFError, ConnectionError):
        raise GeneratorError("a generator process ended before its requests did") from None
    if isinstance(said, str):
        raise GeneratorError(said)
    return said  # type: ignore[return-value]


def _generate(job: Job, pipe: "Pipe[object, object]") -> None:
    """Be a generator process: say when ready, hear when to start, send, tell what came of it."""
    try:
        sender = Sender(job)
        sender.prepare()
        pipe.send(None)
        start = pipe.recv()
        assert isinstance(start, float)
        before_s = _cpu_s()
        rows = sender.run(start)
        pipe.send((rows, _cpu_s() - before_s))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        pipe.send(f"a generator failed: {type(error).__name__}: {error}")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
