"""Histograms of scores by version, of all processes together, at a few microseconds for a thousand scores.

prometheus_client counts one value at a time, and never forgets a label in files that several processes share;
versions come and go.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

BOUNDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    *(0.95, 0.99, 1.0),
)
"""Scores are click probabilities, most of which are small."""
MOST_VERSIONS = 4
"""How many versions one process keeps: those that it counted last."""

_NUM_COUNTS = len(BOUNDS) + 1
_LE = [*map(str, BOUNDS), "+Inf"]

Numbers = NDArray[np.float64]
"""(buckets + 1,) scores in each bucket, and their sum."""


class ScoreCounts(Collector):
    """Counts the scores of each version.

    Parameters
    ----------
    folder
        Where all processes count, a folder for each version and a file for each process; None where there is but one
        process.
    process
        Names this one among them. One of the same name goes on with its files; one without a name only reads.
    """

    def __init__(self, folder: Path | None = None, process: str = "") -> None:
        self._folder, self._process = folder, process
        self._bounds = np.array(BOUNDS, dtype=np.float32)
        self._numbers: dict[str, Numbers] = {}
        if folder is not None and process:
            for left in sorted(folder.glob(f"*/{process}"), key=lambda path: path.stat().st_mtime):
                self._add(left.parent.name)

    def count(self, version: str, scores: NDArray[np.float32]) -> None:
        """Count (N,) scores."""
        assert self._process or self._folder is None
        numbers = self._numbers.get(version)
        if numbers is None:
            numbers = self._add(version)
        numbers[:-1] += np.bincount(self._bounds.searchsorted(scores), minlength=_NUM_COUNTS)
        numbers[-1] += scores.sum(dtype=np.float64)

    def collect(self) -> Iterator[Metric]:
        """Add up what all processes counted."""
        family = HistogramMetricFamily("qin_score", "Scores that were answered, by version", labels=["version"])
        for version, numbers in sorted(self._totals().items()):
            counts = np.cumsum(numbers[:-1]).tolist()
            family.add_metric([version], list(zip(_LE, counts, strict=True)), float(numbers[-1]))
        yield family

    def _totals(self) -> dict[str, Numbers]:
        if self._folder is None:
            return dict(self._numbers)
        totals: dict[str, Numbers] = {}
        for folder in self._folder.glob("*"):
            with contextlib.suppress(OSError):  # forgotten in this moment
                for path in folder.iterdir():
                    totals[folder.name] = totals.get(folder.name, 0) + _read(path)
        return totals

    def _add(self, version: str) -> Numbers:
        """Begin to count a version, and forget the one that was begun longest ago where there are too many."""
        while len(self._numbers) >= MOST_VERSIONS:
            self._forget(next(iter(self._numbers)))
        self._numbers[version] = numbers = self._open(version)
        return numbers

    def _open(self, version: str) -> Numbers:
        if self._folder is None:
            return np.zeros(_NUM_COUNTS + 1)
        path = self._folder / version / self._process
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # A file that is left as it is keeps its time, which tells those of the last versions from the others.
            if os.fstat(file).st_size != 8 * (_NUM_COUNTS + 1):
                os.ftruncate(file, 8 * (_NUM_COUNTS + 1))
            return np.frombuffer(mmap.mmap(file, 0), np.float64)
        finally:
            os.close(file)

    def _forget(self, version: str) -> None:
        del self._numbers[version]
        if self._folder is not None:
            with contextlib.suppress(OSError):  # other processes still count it
                (self._folder / version / self._process).unlink()
                (self._folder / version).rmdir()


def _read(path: Path) -> Numbers:
    """Return what a process counted; nothing where it has just begun, or has just forgotten."""
    numbers: Numbers = np.zeros(0)
    with contextlib.suppress(FileNotFoundError):
        numbers = np.fromfile(path, np.float64)
    return numbers if len(numbers) == _NUM_COUNTS + 1 else np.zeros(_NUM_COUNTS + 1)
