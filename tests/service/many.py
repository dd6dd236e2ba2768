"""A service of several processes that really runs, and ways to look into each of them."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.service.running import await_ready, serving_process, wait_until


@dataclass
class Many:
    """A supervisor with its children; they are told apart by the names that the kernel shows."""

    process: "subprocess.Popen[str]"
    url: str
    log: Path

    def children(self) -> dict[str, int]:
        """The process ids by name, such as `owner` and `worker-1`."""
        return {name.removeprefix("qin "): pid for pid, name in descendants(self.process.pid).items()}

    def workers(self) -> dict[str, int]:
        """The process ids of the workers by name."""
        return {name: pid for name, pid in self.children().items() if name.startswith("worker")}

    @contextlib.contextmanager
    def client_of(self, name: str) -> Iterator[httpx.Client]:
        """A client whose only connection leads to one worker, for as long as it is not idle for seconds."""
        others = [pid for other, pid in self.workers().items() if other != name]
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        with httpx.Client(base_url=self.url, timeout=30, limits=limits) as client:
            for pid in others:
                os.kill(pid, signal.SIGSTOP)
            try:
                client.get("/v2/health/live").raise_for_status()
            finally:
                for pid in others:
                    os.kill(pid, signal.SIGCONT)
            yield client

    def metrics(self, client: httpx.Client | None = None) -> dict[str, float]:
        """All samples by name and labels."""
        text = client.get("/metrics").text if client else httpx.get(f"{self.url}/metrics", timeout=30).text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def wait_whole(self, num_workers: int = 2) -> None:
        """Wait until every process is up."""

        def whole() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                metrics = self.metrics()
                up = [metrics[f'qin_processes{{role="{role}"}}'] for role in ("owner", "worker")]
                return up == [1, num_workers]
            return False

        wait_until(whole, 30)


def descendants(pid: int) -> dict[int, str]:
    """The children of a process, with their names; those that have ended and were not waited for are left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                text = (entry / "stat").read_text()
                name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
                if int(rest[1]) == pid and rest[0] != "Z":
                    found[int(entry.name)] = name
    return found


@contextlib.contextmanager
def many(folder: Path, **settings: Any) -> Iterator[Many]:
    """Run a service of two workers, unless told otherwise; it is killed at the block's end if it still runs."""
    log = folder / "log"
    defaults = {"workers": 2, "history_timeout_ms": 5000, "redis_timeout_s": 5, "gate_max_psi": 100}
    with serving_process(log, **{**defaults, **settings}) as process:
        yield Many(process, await_ready(process), log)


@dataclass
class Load:
    """Requests without a pause over one connection; `answers` and `errors` hold all that came of them."""

    url: str
    client: httpx.Client | None = None
    answers: list[httpx.Response] = field(default_factory=list)
    errors: list[httpx.HTTPError] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    body: dict[str, Any] = field(default_factory=lambda: {"user_id": 1, "candidates": [1, 2, 3]})

    def run(self) -> None:
        """Send requests until stopped, or until nobody listens any more."""
        with contextlib.ExitStack() as stack:
            client = self.client or stack.enter_context(httpx.Client(base_url=self.url, timeout=30))
            while not self.stop.is_set():
                try:
                    self.answers.append(client.post("/v1/rank", json=self.body))
                except httpx.HTTPError as error:
                    self.errors.append(error)
                    if isinstance(error, httpx.ConnectError):
                        return


@contextlib.contextmanager
def under_load(*loads: Load, for_s: float = 0.2) -> Iterator[None]:
    """Let requests run before, during and after the block."""
    threads = [threading.Thread(target=load.run) for load in loads]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: all(len(load.answers) > 5 for load in loads))
        yield
        time.sleep(for_s)
    finally:
        for load in loads:
            load.stop.set()
        for thread in threads:
            thread.join(30)
