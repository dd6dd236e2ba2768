"""Progress bars on a terminal: loss, rows a second, time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _RowsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- rows/s" if speed is None else f"{speed:,.0f} rows/s", style="progress.data.speed")


class Bar:
    """One phase of an epoch, counted in rows."""

    def __init__(self, progress: Progress, description: str, num_rows: int) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=num_rows, note="")

    def advance(self, num_rows: int, note: str = "") -> None:
        """Count rows that are done; `note`, such as the loss, stands beside the bar."""
        self._progress.update(self._task, advance=num_rows, note=note)


class RunProgress:
    """The bars of one training run, and a line for each epoch that stays."""

    def __init__(self, console: Console, num_epochs: int) -> None:
        self._num_epochs = num_epochs
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            _RowsPerSecond(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    @contextmanager
    def bar(self, phase: str, epoch: int, num_rows: int) -> Iterator[Bar]:
        """Show a bar while one phase of an epoch runs."""
        bar = Bar(self._progress, f"{phase} {epoch}/{self._num_epochs}", num_rows)
        with self._progress:
            try:
                yield bar
            finally:
                self._progress.remove_task(bar._task)

    def print(self, line: str) -> None:
        """Print a line that stays."""
        self._progress.console.print(line, highlight=False, soft_wrap=True)
