"""Folders on their way in or out among a model's versions, and what is left of them after a crash."""

import re
import shutil
import time
import uuid
from pathlib import Path

LEFTOVER_S = 86_400.0
"""What has not changed for so long belongs to nobody who still works on it."""

_OURS = re.compile(r"\.(staging|removed)-[0-9a-f]{32}")


def new_staging(folder: Path) -> Path:
    """Return a fresh name in a folder of versions, one that never counts as a version."""
    return folder / f".staging-{uuid.uuid4().hex}"


def take_away(version: Path) -> Path:
    """Give a version's folder a name that never counts as a version, in one step, and return that path."""
    removed = version.parent / f".removed-{uuid.uuid4().hex}"
    version.rename(removed)
    return removed


def remove_leftovers(folder: Path) -> list[str]:
    """Remove what crashed exports and removals left in a folder of versions, and return its names."""
    if not folder.is_dir():
        return []
    ours = [entry for entry in folder.iterdir() if _OURS.fullmatch(entry.name) and not entry.is_symlink()]
    old = [entry for entry in ours if entry.is_dir() and _age_s(entry) > LEFTOVER_S]
    for entry in old:
        shutil.rmtree(entry, ignore_errors=True)
    return sorted(entry.name for entry in old if not entry.exists())


def _age_s(folder: Path) -> float:
    """Return how long ago anything in a folder changed; nothing is old in one that vanishes meanwhile."""
    try:
        return time.time() - max(entry.lstat().st_mtime for entry in [folder, *folder.iterdir()])
    except OSError:
        return 0.0
