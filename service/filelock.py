"""A lock on a file that ends with the process that holds it, however that process ends."""

import fcntl
import os
from pathlib import Path


class FileLock:
    """An exclusive lock; its file tells who holds it.

    Parameters
    ----------
    path
        The lock's file; created if it is not there, never removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self) -> bool:
        """Take the lock and note this process in the file; returns whether it was free."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, str(os.getpid()).encode(), 0)
        return True

    def holder(self) -> int | None:
        """Return the process id that the holder noted, None where it has not yet."""
        noted = os.pread(self.descriptor, 32, 0)
        return int(noted) if noted.isdigit() else None

    def is_taken(self) -> bool:
        """Whether another process holds the lock now; closes this one."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            self.close()
        return False

    def release(self) -> None:
        """Give the lock up."""
        os.ftruncate(self.descriptor, 0)
        self.close()

    def close(self) -> None:
        """Close this process's hold; a child that inherited the lock keeps it."""
        os.close(self.descriptor)
