"""A process of the service: how it is forked, and how it ends."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import structlog
import uvloop

from service.board import Seat
from service.counters import count_in
from service.errors import StartError
from service.family import Family, Report
from service.owner import Owner
from service.server import on_signals, run
from service.worker import open_worker

OWNER = "owner"
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

_libc = ctypes.CDLL(None, use_errno=True)


def worker_name(number: int) -> str:
    """Return the name of a worker; numbers start at 1."""
    return f"worker-{number}"


def seat_of(name: str, family: Family) -> Seat:
    """Return where a worker notes its connections."""
    return family.board.seat(int(name.rpartition("-")[2]))


def fork(name: str, family: Family) -> tuple[int, int, int]:
    """Start the owner, or the worker of a name; return its id, a descriptor of it and where its report can be read.

    The child shares memory and descriptors, nothing else: it makes threads, loops, clients and sessions of its own.

    Raises
    ------
    OSError
        There is no room for another process or descriptor; nothing was started then.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _become(name, family, Report(writing), parent)
    except OSError:
        os.close(reading)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        os.close(writing)
    os.set_blocking(reading, False)
    try:
        return pid, os.pidfd_open(pid), reading
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        raise


def _become(name: str, family: Family, report: Report, parent: int) -> NoReturn:
    """Be a child until its end."""
    status = 1
    try:
        _end_with(parent)
        # For `ps` and `top`; the kernel keeps 15 bytes.
        _libc.prctl(_PR_SET_NAME, f"qin {name}".encode(), 0, 0, 0)
        # Whatever signals a terminal sends to all of its processes is for the supervisor to hear, and to pass on.
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        structlog.contextvars.bind_contextvars(process=name)
        count_in(family.counters, name)
        status = _run(_own(family, report) if name == OWNER else _work(family, report, seat_of(name, family)), report)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, however that comes."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def _run(main: Coroutine[Any, Any, None], report: Report) -> int:
    try:
        uvloop.run(main)
    except StartError as error:
        report.failed(str(error))
        return 1
    return 0


async def _work(family: Family, report: Report, seat: Seat) -> None:
    await run(open_worker(family), family.listener, report.ready, seat)


async def _own(family: Family, report: Report) -> None:
    family.listener.close()
    this = asyncio.current_task()
    assert this is not None
    stop: Callable[[int], object] = lambda _: this.cancelling() or this.cancel()  # noqa: E731
    with contextlib.suppress(asyncio.CancelledError), on_signals(stop):
        async with contextlib.AsyncExitStack() as stack:
            await Owner(family).open(stack)
            report.ready("")
            await asyncio.Event().wait()
