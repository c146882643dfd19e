"""Progress on stderr: bars in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, TextIO

from rich import progress as rich_progress
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from latprune.progress import Progress

LINE_EVERY_S = 10.0


@contextmanager
def working() -> Iterator[Progress]:
    """Show progress on stderr, and send there whatever libraries print meanwhile.

    So stdout holds nothing but results.
    """
    with redirect_stdout(sys.stderr):
        console = Console(stderr=True)
        if not console.is_terminal:
            yield Lines(sys.stderr)
            return
        with bars_on(console) as shown:
            yield Bars(shown)


class Bars:
    """A bar for every stage; those that are over stay."""

    def __init__(self, shown: rich_progress.Progress) -> None:
        self._shown = shown
        self._task: rich_progress.TaskID | None = None

    def stage(self, name: str) -> None:
        """Begin a bar."""
        self._finish()
        self._task = self._shown.add_task(name, total=None, what="")

    def step(self, done: int, total: int | None, what: str) -> None:
        """Move the bar."""
        if self._task is None:
            self.stage("work")
        assert self._task is not None
        self._shown.update(self._task, completed=done, total=total, what=what)

    def _finish(self) -> None:
        if self._task is None:
            return
        task = self._shown.tasks[self._task]
        whole = task.total or task.completed or 1
        self._shown.update(self._task, total=whole, completed=whole, what="")
        self._shown.stop_task(self._task)


class Lines:
    """A line when a stage begins, and then one every few seconds."""

    def __init__(
        self,
        file: TextIO,
        *,
        every_s: float = LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._every_s, self._clock = file, every_s, clock
        self._stage, self._last = "", clock()

    def stage(self, name: str) -> None:
        """Write the stage's name."""
        self._stage, self._last = name, self._clock()
        print(name, file=self._file, flush=True)

    def step(self, done: int, total: int | None, what: str) -> None:
        """Write a line if the last one is old."""
        if self._clock() - self._last < self._every_s:
            return
        self._last = self._clock()
        of = "" if total is None else f"/{total}"
        print(f"{self._stage}: {done}{of} {what}", file=self._file, flush=True)


def bars_on(console: Console) -> rich_progress.Progress:
    """Give the display that `Bars` moves; a context manager."""
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(bar_width=20),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[what]}", style="dim"),
        console=console,
    )
