"""Progress on stderr: bars in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, TextIO

from rich import progress as rich_progress
from rich.console import Console
from rich.table import Column

from latprune.report.narrow import NARROW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.text import Text

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
        # Over a descriptor of its own: exporters' is shut off now and then.
        encoding, mine = sys.stderr.encoding, os.dup(sys.stderr.fileno())
        with (
            os.fdopen(mine, "w", encoding=encoding, errors="replace") as own,
            bars_on(Console(file=own)) as shown,
        ):
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
    """Give the display that `Bars` moves; a context manager.

    Each is one line: words are cut off, and numbers stay. A narrow terminal has no bars.
    """
    counted = rich_progress.MofNCompleteColumn(table_column=_whole())
    elapsed = rich_progress.TimeElapsedColumn(table_column=_whole())
    bar = rich_progress.BarColumn(bar_width=20, table_column=_whole())
    left = rich_progress.TimeRemainingColumn(table_column=_whole())
    numbers = (counted, elapsed) if console.width < NARROW else (bar, counted, elapsed, left)
    return rich_progress.Progress(
        _Words("{task.description}"),
        *numbers,
        _Words("{task.fields[what]}", style="dim"),
        console=console,
    )


def _whole() -> Column:
    """Give a column that keeps its width."""
    return Column(no_wrap=True)


class _Words(rich_progress.TextColumn):
    """Words that are cut off where there is no room."""

    def __init__(self, text: str, *, style: str = "none") -> None:
        super().__init__(text, style=style, markup=False, table_column=Column(overflow="ellipsis"))

    def render(self, task: rich_progress.Task) -> Text:
        """Give the words as one line."""
        words = super().render(task)
        words.no_wrap, words.overflow = True, "ellipsis"
        return words
