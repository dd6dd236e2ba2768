"""Files that survive a crash."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last: a rename is on disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
