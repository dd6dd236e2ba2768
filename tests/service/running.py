"""A service that really runs, in a thread of the test or in a process of its own."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvloop

from contract.client import ONCE, Client
from service.replica import Replica, open_replica
from service.server import Server
from service.settings import Settings, read_settings

T = TypeVar("T")


def make_settings(store: Path, redis_url: str | None, **others: Any) -> Settings:
    """Return settings under which a slow machine sheds and degrades nothing, and random models may replace others."""
    defaults = {
        "port": 0,
        "device": "cpu",
        "num_threads": 1,
        "history_timeout_ms": 5000,
        "max_item_lag_ms": 60_000,
        "max_queue_ms": 60_000,
        "redis_timeout_s": 5,
        "gate_max_psi": 100,
    }
    return read_settings(store=store, redis_url=redis_url, **{**defaults, **others})


@dataclass
class Running:
    """A service in a thread, and ways to talk to it."""

    url: str
    replica: Replica
    loop: asyncio.AbstractEventLoop
    client: Client
    http: httpx.Client

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the service runs."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[Running]:
    """Run the service in a thread for as long as the block runs."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    started: Future[tuple[Replica, asyncio.AbstractEventLoop, Server]] = Future()

    async def main() -> None:
        async with open_replica(settings) as replica:
            server = Server(replica)
            started.set_result((replica, asyncio.get_running_loop(), server))
            await server.serve([listener])

    def run() -> None:
        try:
            uvloop.run(main())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        replica, loop, server = started.result(30)
        key = settings.admin_key.get_secret_value() if settings.admin_key else None
        with Client(url, key, timeout_s=30, retry=ONCE) as client, httpx.Client(base_url=url, timeout=30) as http:
            wait_until(lambda: server.started)
            yield Running(url, replica, loop, client, http)
            server.should_exit = True
    finally:
        if started.done() and not started.exception():
            started.result()[2].should_exit = True
        thread.join(30)
        listener.close()


def wait_until(condition: Callable[[], object], timeout_s: float = 15) -> None:
    """Wait until a condition holds; fails where it does not come to hold."""
    stop = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < stop, "the condition did not come to hold"
        time.sleep(0.005)


@contextlib.contextmanager
def serving_process(log: Path, **settings: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run `serve` in a process of its own; it is killed at the block's end if it still runs."""
    given = {"port": 0, "device": "cpu", "num_threads": 1, "max_queue_ms": 60_000, **settings}
    arguments = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    code = f"import sys; from service.server import serve; sys.exit(serve(**{arguments!r}))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QIN_")}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def await_ready(process: "subprocess.Popen[str]") -> str:
    """Return the URL of a process that says it is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready on http"), line
    return line.split()[2].rstrip(":")
