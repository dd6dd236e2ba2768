"""Counters that several processes add to, and any of them reads the sum of: prometheus_client's files.

Each process counts in a file of its own in one folder. A process that replaces another takes its name and goes on
with its file, so that no count is ever lost and no file is left over.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from prometheus_client import values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.filelock import FileLock

_PREFIX = "qin-metrics-"
_UNNAMED_PREFIX = "qin-new-metrics-"
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SUMMED: Final = "livesum"
"""The `multiprocess_mode` of gauges that are added up over the processes that run."""

_process = ""


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """Give a folder of counters for as long as the block runs; those that killed services left behind go first."""
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{_PREFIX}*/lock"):
        _remove_if_abandoned(left)
    unnamed = Path(tempfile.mkdtemp(prefix=_UNNAMED_PREFIX, dir=parent))
    lock = FileLock(unnamed / "lock")
    lock.acquire()
    # Only a folder whose lock is held has a name under which others look for abandoned ones.
    folder = unnamed.rename(parent / unnamed.name.replace(_UNNAMED_PREFIX, _PREFIX))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def count_in(folder: Path, process: str) -> None:
    """Let all counters and histograms that this process makes from now on count in a folder.

    `process` names it among those that run at the same time. Gauges stay in the process, but for those whose
    `multiprocess_mode` says that they are added up.
    """
    global _process
    _process = process
    in_file = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]

    def value(kind: str, *arguments: Any, **options: Any) -> Any:
        if kind == "gauge" and options.get("multiprocess_mode") != SUMMED:
            return values.MutexValue(kind, *arguments, **options)  # type: ignore[no-untyped-call]
        # Looked up when a file is opened; left in place it would make every gauge complain that it is cleared.
        os.environ[_FOLDER] = str(folder)
        folder.mkdir(exist_ok=True)  # whatever clears temporary folders may have been there
        try:
            return in_file(kind, *arguments, **options)
        finally:
            del os.environ[_FOLDER]

    values.ValueClass = value


def process_name() -> str:
    """Return the name under which this process counts; empty where it counts for itself."""
    return _process


class SharedCounts(Collector):
    """What all processes count in a folder.

    prometheus_client's own collector fails where a process has just made its file, or where one is cleared away.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Add up what all processes counted."""
        while True:
            with contextlib.suppress(FileNotFoundError):  # one that the next look does not find
                metrics: Iterable[Metric] = MultiProcessCollector.merge(self._files())  # type: ignore[no-untyped-call]
                return metrics

    def _files(self) -> list[str]:
        return [str(path) for path in self._folder.glob("*.db") if path.stat().st_size]


def forget_gauges(folder: Path, process: str) -> None:
    """Leave the gauges of a process that died out of what is added up; opens nothing, and never fails."""
    with contextlib.suppress(OSError):
        (folder / f"gauge_{SUMMED}_{process}.db").unlink()


def _remove_if_abandoned(path: Path) -> None:
    try:
        lock = FileLock(path)
    except OSError:  # somebody else's
        return
    if not lock.is_taken():
        shutil.rmtree(path.parent, ignore_errors=True)
