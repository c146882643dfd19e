"""A report for the terminal: the summary first, then where the channels went.

Made for 80 columns, readable in fewer, and as clear without colour.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latprune.errors import import_extra
from latprune.report.narrow import Fitting, add_row
from latprune.report.wording import percent, rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from rich.console import RenderableType
    from rich.text import Text

    from latprune.report.comparison import Report

SINGLE_ROWS = 16
BAR_CELLS = 20


def render(report: Report, *, also: Sequence[Report] = ()) -> RenderableType:
    """Give a report as something that a rich console prints.

    Args:
        report: Of the first target.
        also: Of the same networks on further targets.

    Raises:
        MissingExtra: If rich is not installed.
    """
    import_extra("rich", "report")
    from rich.console import Group
    from rich.text import Text

    proof = Text(
        f"proven gap {100 * report.gap:.3f} % (solver {report.plan.solver}, "
        f"saliency {report.plan.criterion})",
        style="dim",
    )
    return Group(
        _target(report),
        _summary(report),
        proof,
        widths_table(report.widths),
        *_verdict(report),
        *(part for other in also for part in _further(other)),
    )


def to_text(report: Report, *, also: Sequence[Report] = (), columns: int = 80) -> str:
    """Give a report, and those of further targets, as plain text, without colour.

    Raises:
        MissingExtra: If rich is not installed.
    """
    import_extra("rich", "report")
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=columns, no_color=True, force_terminal=False)
    console.print(render(report, also=also))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def widths_table(widths: Mapping[str, tuple[int, int]]) -> RenderableType:
    """Show widths before and after, one row per channel group.

    In a network of many groups, those of equal width that differ only by a number in the middle of
    their name (`layer3.*.conv1`) share a row.

    Args:
        widths: Per channel group, its width before and after.
    """
    import_extra("rich", "report")
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("channel group", overflow="fold")
    table.add_column("dense", justify="right")
    table.add_column("pruned", justify="right", no_wrap=True)
    table.add_column("kept", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in merged(widths):
        kept = f"{100 * row.kept:.0f} %"
        add_row(table, row.name, row.dense, row.pruned, kept, _bar(row.kept))
    return Fitting(table)


@dataclass(frozen=True)
class WidthRow:
    """One or more groups of equal dense width.

    Attributes:
        name: The group's, or what the groups' names have in common and how many there are.
        dense: Their width before.
        pruned: Their width after, or the least and the most of them, or that they are removed.
        kept: The share of their channels that stay.
    """

    name: str
    dense: str
    pruned: str
    kept: float


def merged(widths: Mapping[str, tuple[int, int]]) -> list[WidthRow]:
    """Give the rows of `widths_table`, in the network's order."""
    many = len(widths) > SINGLE_ROWS
    together: dict[tuple[str, int], dict[str, int]] = {}
    for name, (before, after) in widths.items():
        together.setdefault((_pattern(name) if many else name, before), {})[name] = after
    return [
        WidthRow(
            name=f"{pattern} ({len(afters)})" if len(afters) > 1 else next(iter(afters)),
            dense=str(before),
            pruned=_range(afters.values()),
            kept=sum(afters.values()) / (before * len(afters)),
        )
        for (pattern, before), afters in together.items()
    ]


def _target(report: Report) -> Text:
    from rich.text import Text

    return Text(f"latprune on {report.target.describe()}", style="bold")


def _verdict(report: Report) -> Iterator[Text]:
    from rich.text import Text

    yield Text(report.verdict, style="bold green" if report.met else "bold red")
    if report.unjudged:
        yield Text(report.unjudged)


def _further(report: Report) -> Iterator[RenderableType]:
    """Show what differs on a further target: the widths are the same."""
    yield ""
    yield _target(report)
    yield _summary(report)
    yield from _verdict(report)


def _summary(report: Report) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for heading in ("dense", "pruned", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows(report):
        add_row(table, *row)
    table.add_section()
    add_row(table, "budget", "", str(report.budget), f"{percent(report.used)} of it used")
    return Fitting(table)


def _pattern(name: str) -> str:
    """Replace the last number before the name's last part: `layer3.*.conv1`."""
    *path, last = name.split(".")
    for place in reversed(range(len(path))):
        starred = re.sub(r"\d+$", "*", path[place])
        if starred != path[place]:
            return ".".join([*path[:place], starred, *path[place + 1 :], last])
    return name


def _range(numbers: Collection[int]) -> str:
    low, high = min(numbers), max(numbers)
    if not high:
        return "removed"
    return str(low) if low == high else f"{low}–{high}"


def _bar(share: float) -> str:
    full = round(share * BAR_CELLS)
    return "█" * full + "░" * (BAR_CELLS - full)
