"""What the commands of `latprune table` show: as text, and as JSON values."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from latprune.report.narrow import Fitting, add_row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from latprune.latency.comparing import Difference, Pair, Ratios
    from latprune.latency.lines import Kernel
    from latprune.latency.merging import Merged
    from latprune.latency.rechecking import Recheck
    from latprune.latency.table import LatencyTable

MOST_SHOWN = 8  # of the layers that differ most


def table_facts(file: Path, table: LatencyTable) -> dict[str, Any]:
    """Give as JSON values what a table is of, and how much it holds."""
    return {
        "file": str(file),
        "written": _written(file),
        "target": table.target.to_json(),
        "layers": len(table),
        "networks": len(table.networks),
        "cuts": sum(map(len, table.every_cut.values())),
    }


def _written(file: Path) -> str:
    return datetime.fromtimestamp(file.stat().st_mtime).astimezone().isoformat(timespec="seconds")


def header(file: Path, table: LatencyTable) -> Iterator[RenderableType]:
    """Say what a table is of, and how much it holds."""
    facts = table_facts(file, table)
    yield Text(f"latency table of {table.target.describe()}", style="bold")
    yield Text(f"{file}\nlast written {facts['written']}")
    yield Text(
        f"{_count(facts['layers'], 'layer')}, {_count(facts['networks'], 'whole network')}, "
        f"{_count(facts['cuts'], 'timing')} of pruned ones"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def listed(found: Sequence[Kernel]) -> list[dict[str, Any]]:
    """Give kernels as JSON values."""
    return [
        {
            "number": number,
            "name": kernel.name,
            "layers": len(kernel.layers),
            "fastest_ms": kernel.fastest_ms,
            "slowest_ms": kernel.slowest_ms,
            "noise": kernel.noise,
            "steps": _steps(kernel),
        }
        for number, kernel in enumerate(found, 1)
    ]


def _steps(kernel: Kernel) -> dict[str, int]:
    """Per axis its channels per step; where both axes are one, it is called the one it writes."""
    return {
        "writes" if line.axis == "both" else line.axis: line.stairs.step
        for line in kernel.lines
        if line.stairs is not None
    }


def kernel_list(found: Sequence[Kernel]) -> RenderableType:
    """List kernels, with the steps of their widths."""
    heads = ("", "kernel", "layers", "least ms", "most ms", "IQR", "reads", "writes")
    table = _table(*heads, names=(1,))
    for row in listed(found):
        times = (f"{row['fastest_ms']:.3f}", f"{row['slowest_ms']:.3f}", f"{row['noise']:.0%}")
        steps = (str(row["steps"].get(axis, "")) for axis in ("reads", "writes"))
        add_row(table, str(row["number"]), row["name"], str(row["layers"]), *times, *steps)
    note = "IQR: half of the layers have at most this share. Reads, writes: channels per step."
    return Group(Fitting(table), Text(f"{note}\n", style="dim"))


def _table(*heads: str, names: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, head in enumerate(heads):
        table.add_column(head, justify="left" if column in names else "right")
    return table


def drawn(number: int, kernel: Kernel) -> Iterator[RenderableType]:
    """Draw the staircases of a kernel."""
    from latprune.cli.stairway import LEGEND, picture

    yield Text(f"{number}  {kernel.name}", style="bold")
    if not kernel.lines:
        yield Text(f"{_why_no_lines(kernel)}\n")
        return
    yield Text(f"{LEGEND}\n", style="dim")
    for line in kernel.lines:
        yield from picture(line, columns=Console().width)
        yield Text("")


def _why_no_lines(kernel: Kernel) -> str:
    from latprune.latency.sentinel import SENTINEL

    if kernel.layers.keys() == {SENTINEL}:
        return "only the sentinel, which tells the machine's pace: no staircase"
    return "no staircase: no line of its widths was measured to the end; `latprune measure` goes on"


def difference(found: Difference) -> RenderableType:
    """Show how two tables differ: by kind of layer, and where most."""
    first, second = found.targets
    lines = [
        f"A  {first.describe()}",
        f"B  {second.describe()}" if second != first else "B  the same",
    ]
    counts = (
        f"{_count(len(found.layers), 'layer')} in both, {found.only_first} only in A, "
        f"{found.only_second} only in B"
    )
    head = [*map(Text, lines), Text(counts)]
    if not found.layers:
        return Group(*head)
    return Group(*head, *_ratios(found.by_kind, found), *_farthest(found.layers, ("A", "B")))


def _ratios(kinds: Mapping[str, Ratios], found: Difference) -> Iterator[RenderableType]:
    from latprune.latency.comparing import Ratios

    table = _table("B ÷ A", "count", "median", "quartiles", "of their sum", names=(0,))
    rows = {**kinds, "all layers": Ratios.of(found.layers)}
    if found.networks:
        rows["networks"] = Ratios.of(found.networks)
    for name, ratios in rows.items():
        quartiles = f"{ratios.low:.3f} … {ratios.high:.3f}"
        numbers = (f"{ratios.median:.3f}", quartiles, f"{ratios.total:.3f}")
        add_row(table, name.replace("_", "-"), str(ratios.count), *numbers)
    yield Fitting(table)


def _farthest(layers: Sequence[Pair], sides: tuple[str, str]) -> Iterator[RenderableType]:
    """The layers whose ratio is farthest from the median ratio."""
    from latprune.latency.comparing import most_different
    from latprune.latency.describing import shape_words

    shown = most_different(layers)[:MOST_SHOWN]
    heads = (f"the {len(shown)} farthest from the median", *(f"{side} ms" for side in sides))
    table = _table(*heads, "ratio", names=(0,))
    for pair in shown:
        name = pair.what if isinstance(pair.what, str) else shape_words(pair.what)
        timings = (
            f"{one.median_ms:.3f} ± {one.iqr_ms / 2:.3f}" for one in (pair.first, pair.second)
        )
        add_row(table, name, *timings, f"{pair.ratio:.2f}")
    yield Fitting(table)
    yield Text("± is half the IQR.", style="dim")


def merge_facts(merged: Merged, out: Path) -> dict[str, Any]:
    """Give as JSON values what joining tables came to."""
    ratios = sorted(conflict.ratio for conflict in merged.conflicts)
    return {
        **table_facts(out, merged.table),
        "paces": list(merged.paces),
        "conflicts": len(ratios),
        "conflict_median_ratio": ratios[len(ratios) // 2] if ratios else None,
        "conflict_worst_ratio": ratios[-1] if ratios else None,
    }


def joined(merged: Merged, out: Path) -> RenderableType:
    """Say what joining tables came to."""
    facts = merge_facts(merged, out)
    head = [*header(out, merged.table), Text(_pace_words(merged.paces))]
    if not merged.conflicts:
        return Group(*head, Text("nothing was measured twice differently"))
    said = (
        f"{_count(facts['conflicts'], 'measurement')} had a rival; those with more runs stayed. "
        f"They differed by a factor of {facts['conflict_median_ratio']:.2f} in the median and "
        f"{facts['conflict_worst_ratio']:.2f} at worst."
    )
    return Group(*head, Text(said))


def _pace_words(paces: Sequence[float | None]) -> str:
    factors = ", ".join("1 (no sentinel)" if pace is None else f"{pace:.3f}" for pace in paces)
    return f"brought to one pace by their sentinels: times multiplied by {factors}"


def rechecked(found: Recheck, held: int) -> RenderableType:
    """Show how far a table is off."""
    ratios = found.ratios
    lines = [
        f"{ratios.count} of {_count(held, 'layer')} timed again on {found.target.describe()}",
        f"now ÷ table: median {ratios.median:.3f}, half of them {ratios.low:.3f} … "
        f"{ratios.high:.3f}, sum of times {ratios.total:.3f}",
    ]
    if found.sentinel is not None:
        lines.append(f"the sentinel, which tells the machine's pace: {found.sentinel.ratio:.3f}")
    return Group(*map(Text, lines), *_farthest(found.layers, ("table", "now")), Text(found.verdict))
