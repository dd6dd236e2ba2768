"""Files that survive a crash, files that are read from folders nobody vouches for, and where caches lie."""

import os
import stat
import sys
from pathlib import Path


class UnfitFileError(OSError):
    """A file that is there and is not read: it is no plain file, lies elsewhere, or is too large."""


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last: a rename is on disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def default_cache() -> Path:
    """Return the user's folder for what can be made again."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "qin"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qin"


def read_inside(folder: Path, name: str, most_bytes: int) -> bytes:
    """Return what a file in a folder holds, whatever stands there by that name.

    A link that leads out of the folder is not followed, and neither a pipe nor a device is waited for.

    Raises
    ------
    UnfitFileError
        It is no plain file of at most `most_bytes` in this folder.
    OSError
        It cannot be read.
    """
    path = folder / name
    # Not Path.resolve, which has an error of its own for links that lead to themselves.
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UnfitFileError("it is a link that leads out of its folder")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnfitFileError("it is no plain file")
        if status.st_size > most_bytes:
            raise UnfitFileError(f"its {status.st_size} bytes are more than the {most_bytes} that it may have")
        return file.read(status.st_size)
