"""A sampled log of what was answered and from what, so that training can learn from what serving saw.

The layout is `contract.requestlog`; `qin prepare --served` reads it.
"""

import contextlib
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import pyarrow as pa
import structlog

from service.background import lower_priority
from service.observers import Served
from service.request_log_file import Entry, RequestLogFile, remove_abandoned, rows_of

_MOST_GATHERED = 1024
"""Requests that are made into rows at once."""
_BYTES_A_REQUEST, _BYTES_A_USER = 600, 1000

_log = structlog.get_logger(__name__)

Count = Callable[[str, int], None]
"""Told of users' rows that were "written", "dropped" for there was too much to do, or "failed" to be written."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is waited for, held and put into one file; bytes are those of answers and of rows in memory."""

    waiting_bytes: int = 2**26
    gather_s: float = 0.5
    group_bytes: int = 2**24
    file_rows: int = 1_000_000
    file_bytes: int = 2**28
    file_s: float = 300.0


class RequestLog:
    """An observer that hands a sample of answers to a thread, which writes them.

    Nothing that goes wrong with it is felt by whoever is answered: what cannot be taken or written is counted.

    Parameters
    ----------
    folder, model
        Where files appear, and what stands in them as the model.
    rate
        The share of requests that is logged.
    count
        See `Count`; called in the loop and in the thread.
    limits
        When a file ends.
    """

    def __init__(self, folder: Path, model: str, rate: float, count: Count, limits: Limits | None = None) -> None:
        self._folder, self._model, self._rate, self._count = folder, model, rate, count
        self._limits = limits or Limits()
        self._waiting: SimpleQueue[Entry | None] = SimpleQueue()
        # Each is written by one thread alone: what was put in, and what was taken out.
        self._put_bytes, self._taken_bytes = 0, 0
        self._batches: list[pa.RecordBatch] = []
        self._file: RequestLogFile | None = None
        self._num_bytes, self._num_rows, self._ends_s = 0, 0, math.inf
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="request log")
        self._thread.start()

    def note(self, served: Served) -> None:
        """Take an answer into the sample, or not; takes a microsecond."""
        if self._rate < 1 and random.random() >= self._rate:  # noqa: S311 - a sample, not a secret
            return
        num_bytes = _num_bytes(served)
        if self._put_bytes - self._taken_bytes + num_bytes > self._limits.waiting_bytes:
            self._count("dropped", len(served.rankings))
            return
        self._put_bytes += num_bytes
        self._waiting.put(Entry(time.time_ns() // 1000, served))

    def close(self) -> None:
        """Write what was taken, and end; blocks for as long as that takes."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        lower_priority()
        ended = False
        while not ended:
            entries, ended = self._gather()
            try:
                self._take(entries)
                if ended or self._is_full():
                    self._finish()
            except Exception as error:
                self._give_up(error)

    def _gather(self) -> tuple[list[Entry], bool]:
        """Wait for answers, or until the file is to end; return what has come, and whether no more will."""
        entries: list[Entry] = []
        stop_s = self._ends_s
        while len(entries) < _MOST_GATHERED:
            try:
                entry = self._waiting.get(timeout=_until(stop_s))
            except Empty:
                break
            if entry is None:
                return entries, True
            if not entries:
                stop_s = min(stop_s, time.monotonic() + self._limits.gather_s)
            entries.append(entry)
            self._taken_bytes += _num_bytes(entry.served)
            if time.monotonic() >= stop_s:
                break
        return entries, False

    def _take(self, entries: list[Entry]) -> None:
        if entries:
            self._num_rows += sum(len(entry.served.rankings) for entry in entries)
            self._ends_s = min(self._ends_s, time.monotonic() + self._limits.file_s)
            batch = rows_of(entries, self._model)
            self._batches.append(batch)
            self._num_bytes += batch.nbytes
        if sum(batch.nbytes for batch in self._batches) >= self._limits.group_bytes:
            self._write()

    def _is_full(self) -> bool:
        limits = self._limits
        return (
            self._num_rows >= limits.file_rows
            or self._num_bytes >= limits.file_bytes
            or time.monotonic() >= self._ends_s
        )

    def _write(self) -> None:
        if self._file is None:
            remove_abandoned(self._folder)
            self._file = RequestLogFile(self._folder)
        self._file.write(self._batches)
        self._batches.clear()

    def _finish(self) -> None:
        if self._batches:
            self._write()
        if self._file is not None:
            self._file.finish()
            self._count("written", self._num_rows)
            if self._failing:
                _log.info("the request log is written again")
        self._failing = False
        self._begin()

    def _give_up(self, error: Exception) -> None:
        """Let go of what cannot be written; the next rows are tried anew."""
        self._count("failed", self._num_rows)
        if not self._failing:
            _log.warning("the request log cannot be written", error=str(error), num_rows=self._num_rows)
        self._failing = True
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.abandon()
        self._begin()

    def _begin(self) -> None:
        self._file, self._ends_s = None, math.inf
        self._num_rows, self._num_bytes = 0, 0
        self._batches.clear()


def _until(moment_s: float) -> float | None:
    return None if moment_s == math.inf else max(0.0, moment_s - time.monotonic())


def _num_bytes(served: Served) -> int:
    """Return about how much memory an answer takes, which for few candidates is mostly that of objects."""
    return _BYTES_A_REQUEST + sum(
        _BYTES_A_USER
        + ranking.query.candidates.nbytes
        + ranking.scores.nbytes
        + ranking.levels.nbytes
        + ranking.history.nbytes
        + (0 if ranking.weights is None else ranking.weights.nbytes)
        for ranking in served.rankings
    )
