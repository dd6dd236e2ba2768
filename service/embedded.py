"""The embedded Valkey: a server process of our own on a Unix socket, its data in one folder.

Two locks guard the folder. `owner.lock` is held by the process that started Valkey, and holds its PID.
`valkey.lock` is inherited by Valkey itself: while it is taken, a Valkey runs on this data, though its owner may be
long dead; the next owner then ends it and starts its own, and nothing is lost. One that dies while its owner serves
is started again on its data.
"""

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import structlog

from service.errors import DataFolderError
from service.filelock import FileLock
from service.valkey_process import await_answer, last_words, launch, socket_path, start_if_free

_STOP_S = 10.0
_LOOK_S = 0.1
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0

_log = structlog.get_logger(__name__)


class EmbeddedValkey:
    """A Valkey that this process started and will stop. Made by `start`."""

    def __init__(self, folder: Path, owner: FileLock, process: subprocess.Popen[bytes]) -> None:
        self.folder, self._owner, self._process = folder, owner, process
        self._started_at, self._revive_at, self._pause_s = time.monotonic(), 0.0, _FIRST_PAUSE_S

    @property
    def url(self) -> str:
        """Where it listens, as a Redis URL."""
        return f"unix://{socket_path(self.folder)}"

    @property
    def pid(self) -> int:
        """The process id of the server that runs now, or ran last."""
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
            process = launch(folder)
        except BaseException:
            owner.release()
            raise
        _log.info("embedded Valkey started", folder=str(folder), note="a power loss may lose the last second")
        return cls(folder, owner, process)

    def revive(self) -> None:
        """Start the server again on its data if it has ended; returns at once, before the new one answers.

        One that keeps ending is given more and more time. Makes no thread, so that a process which forks may call it.
        """
        status, now = self._process.poll(), time.monotonic()
        if status is None or now < self._revive_at:
            return
        steady = now - self._started_at > _LONGEST_PAUSE_S
        self._pause_s = _FIRST_PAUSE_S if steady else min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._revive_at = now + self._pause_s
        _log.warning("embedded Valkey has ended", status=status, last_words=last_words(self.folder))
        try:
            process = start_if_free(self.folder)
        except DataFolderError as error:
            _log.warning("embedded Valkey does not start", reason=str(error))
            return
        if process is not None:
            self._process, self._started_at = process, now
            _log.info("embedded Valkey started again", folder=str(self.folder))

    async def keep(self) -> None:
        """Start the server again whenever it has ended, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.revive()

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
        await_answer(folder, None)
        yield f"unix://{socket_path(folder)}"
        return
    valkey = EmbeddedValkey.start(folder)
    try:
        yield valkey.url
    finally:
        valkey.stop()
