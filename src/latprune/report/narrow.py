"""A table where the terminal is wide enough for it, and else the same row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latprune.errors import import_extra

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

NARROW = 60  # columns; in wider terminals names are folded, and tables stay tables


@dataclass(frozen=True, eq=False)
class Fitting:
    """A table that becomes a list in a terminal that would break its words and cut its numbers.

    Attributes:
        table: With rows of `add_row`. Columns without a heading, but for the first, are left out of
            the list: they hold bars.
    """

    table: Table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Give what there is room for."""
        measure = import_extra("rich.measure", "report").Measurement.get
        unbounded = options.update(max_width=10**4)
        is_wide = options.max_width >= NARROW
        if is_wide or measure(console, unbounded, self.table).maximum <= options.max_width:
            yield self.table
        else:
            yield from self._rows()

    def _rows(self) -> Iterator[RenderableType]:
        import_extra("rich", "report")
        from rich.padding import Padding
        from rich.text import Text

        first, *others = self.table.columns
        is_named = first.justify == "left"
        if is_named and first.header:
            yield Text(str(first.header), style="dim")
        heads = [column.header for column in others]
        for name, *cells in zip(*(column.cells for column in self.table.columns), strict=True):
            told = [
                f"{head} {cell}" for head, cell in zip(heads, cells, strict=True) if head and cell
            ]
            if is_named:
                yield Text(str(name), style="bold")
                yield Padding(Text(", ".join(told)), (0, 0, 0, 2))
            else:
                lead = f"{first.header} {name}" if first.header else str(name)
                yield Text(", ".join([lead, *told]))
        yield ""


def add_row(table: Table, *cells: str) -> None:
    """Add a row of text as it is: rich would take `[bold]` in a layer's name for its markup."""
    from rich.text import Text

    table.add_row(*map(Text, cells))
