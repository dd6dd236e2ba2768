"""A service in a process of its own, as an operator would start it, and requests that never pause."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from contract.client import ONCE, Client

_START_S = 60


class DemoError(Exception):
    """The demonstration cannot go on."""


@contextmanager
def running(store: Path, data_dir: Path, log: Path) -> Iterator[str]:
    """Run `qin serve` on a free port of this machine for as long as the block runs, and give its URL."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "qin",
        "serve",
        "--store",
        str(store),
        "--data-dir",
        str(data_dir),
        "--port",
        str(port),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QIN_")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)  # noqa: S603
    try:
        _wait_until_ready(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise DemoError(f"the service did not stop; its log is {log}") from None
    if code != 0:
        raise DemoError(f"the service ended with code {code}; its log says: {log.read_text()[-2000:]}")


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the service did not start: {log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise DemoError(f"the service was not ready within {_START_S} s; its log is {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class SteadyRequests:
    """Ranks for one user after the other until told to stop, and counts who answered.

    A context manager: requests are under way from entry to exit.
    """

    def __init__(self, url: str, users: Sequence[int], candidates: Sequence[int]) -> None:
        self.answers: Counter[str] = Counter()  # by version
        self.failures: list[str] = []
        self._url, self._users, self._candidates = url, users, candidates
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        # A request that fails is a failure, though the next attempt may do better.
        with Client(self._url, retry=ONCE) as client:
            while not self._done.is_set():
                for user in self._users:
                    try:
                        self.answers[client.rank(user, self._candidates).version] += 1
                    except Exception as error:
                        self.failures.append(str(error))

    def __enter__(self) -> "SteadyRequests":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()
