"""Progress bars on a terminal: loss, rows a second, time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_REDRAW_S = 0.2


class _RowsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- rows/s" if speed is None else f"{speed:,.0f} rows/s", style="progress.data.speed")


class Bar:
    """One phase of an epoch, counted in rows."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task, self._drawn_s = progress, task, 0.0

    def advance(self, num_rows: int, note: str | None = None) -> None:
        """Count rows that are done; `note`, such as the loss, stands beside the bar until there is another."""
        self._progress.update(self._task, advance=num_rows)
        if note is not None:
            self._progress.update(self._task, note=note)
        if time.monotonic() - self._drawn_s > _REDRAW_S:
            self._progress.refresh()
            self._drawn_s = time.monotonic()


class RunProgress:
    """The bars of one training run, and a line for each epoch that stays; bars need a terminal."""

    def __init__(self, console: Console, num_epochs: int) -> None:
        self._console, self._num_epochs = console, num_epochs
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            _RowsPerSecond(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            # No thread that redraws: the cores are for training, and `advance` is called often enough.
            auto_refresh=False,
            disable=not console.is_terminal,
        )

    @contextmanager
    def bar(self, phase: str, epoch: int, num_rows: int) -> Iterator[Bar]:
        """Show a bar while one phase of an epoch runs."""
        task = self._progress.add_task(f"{phase} {epoch}/{self._num_epochs}", total=num_rows, note="")
        try:
            yield Bar(self._progress, task)
        finally:
            self._progress.remove_task(task)

    def print(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
