"""`latprune table`: look into latency tables, compare and join them, see if they still hold."""

from __future__ import annotations

import json
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from latprune.cli.options.output import AsJson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from latprune.latency.comparing import Difference, Pair, Ratios
    from latprune.latency.lines import Kernel
    from latprune.latency.merging import Merged
    from latprune.latency.rechecking import Recheck
    from latprune.latency.table import LatencyTable

MOST_SHOWN = 8  # of the layers that differ most

File = Annotated[Path, typer.Argument(help="A table, as `latprune measure` names it.")]

tables = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show, compare, join and check latency tables.",
)


@tables.command("show")
def show_command(
    file: File,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            metavar="NUMBER|PATTERN",
            help="Whose staircase to draw: a number from the list, or part of a name, * for any "
            "text. Default: the first that has one.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a table holds, and its staircases.

    A kernel is what layers of several widths and sizes have in common. Its staircase was measured
    at 16 narrow widths and 4 wider ones; planning sees every width by it.
    """
    from latprune.latency.lines import kernels
    from latprune.latency.table import LatencyTable

    table = LatencyTable.read(file)
    found = kernels(table)
    chosen = _chosen(found, layer)
    if as_json:
        numbered = [{"number": number, **found[number - 1].to_json()} for number in chosen]
        _show({**_facts(file, table), "kernels": _listed(found), "drawn": numbered})
        return
    drawn = [part for number in chosen for part in _drawn(number, found[number - 1])]
    _show(Group(*_header(file, table), _list(found), *drawn))


@tables.command("diff")
def diff_command(first: File, second: File, as_json: AsJson = False) -> None:
    """Compare two tables layer by layer.

    They are of two targets, or of one that was measured twice. Ratios are the second table's times
    over the first one's.
    """
    from latprune.latency.comparing import diff
    from latprune.latency.table import LatencyTable

    found = diff(LatencyTable.read(first), LatencyTable.read(second))
    _show(found.to_json() if as_json else _difference(found))


@tables.command("merge")
def merge_command(
    into: File,
    others: Annotated[
        list[Path], typer.Argument(help="Tables of the same target.", metavar="FROM...")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="A new file for the result; INTO then stays.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Join tables of one target.

    They are joined into the first, or into --out. Of what was measured several times, the
    measurement with the most runs stays. The file is replaced in one step: however this ends, no
    table is left half written.
    """
    from latprune.latency.merging import merge_files

    if out is not None and out.exists():
        sentence = f"{out} exists; to join into it: latprune table merge {out} {into} ..."
        raise typer.BadParameter(sentence, param_hint="--out")
    merged = merge_files([into, *others], out or into)
    _show(_merge_facts(merged, out or into) if as_json else _joined(merged, out or into))


@tables.command("check")
def check_command(
    file: File,
    sample: Annotated[int, typer.Option("--sample", min=1, help="How many layers to time.")] = 48,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draw of layers.")] = 0,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="How far the median may be off.")
    ] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Time some of a table's layers again.

    Leaves with 4 if the median ratio of the times is off by more than --tolerance.
    """
    from latprune.cli.live import working
    from latprune.cli.shown import NOT_MET
    from latprune.latency.rechecking import recheck
    from latprune.latency.table import LatencyTable

    table = LatencyTable.read(file)
    with working() as progress:
        progress.stage("check")
        found = recheck(
            table, sample=sample, seed=seed, tolerance=tolerance, progress=progress.step
        )
    _show({**found.to_json(), "seed": seed} if as_json else _rechecked(found, len(table)))
    raise typer.Exit(0 if found.met else NOT_MET)


def _show(result: dict[str, Any] | RenderableType) -> None:
    if isinstance(result, dict):
        print(json.dumps(result, indent=2))
    else:
        Console(highlight=False).print(result)


def _chosen(found: Sequence[Kernel], layer: str | None) -> list[int]:
    """The numbers, from 1, of the kernels that were asked for."""
    if layer is None:
        with_lines = (number for number, kernel in enumerate(found, 1) if kernel.lines)
        return [next(with_lines, 1)] if found else []
    if layer.isdecimal():
        numbers = [int(layer)] if 1 <= int(layer) <= len(found) else []
    else:
        pattern = f"*{layer}*"
        numbers = [n for n, kernel in enumerate(found, 1) if fnmatchcase(kernel.name, pattern)]
    if not numbers:
        known = ", ".join(f"{number} {kernel.name}" for number, kernel in enumerate(found, 1))
        sentence = f"{layer} is none of the table's kernels: {known or 'it holds no layers'}"
        raise typer.BadParameter(sentence, param_hint="--layer")
    return numbers


def _facts(file: Path, table: LatencyTable) -> dict[str, Any]:
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


def _header(file: Path, table: LatencyTable) -> Iterator[RenderableType]:
    facts = _facts(file, table)
    yield Text(f"latency table of {table.target.describe()}", style="bold")
    yield Text(f"{file}\nlast written {facts['written']}")
    yield Text(
        f"{_count(facts['layers'], 'layer')}, {_count(facts['networks'], 'whole network')}, "
        f"{_count(facts['cuts'], 'timing')} of pruned ones"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _listed(found: Sequence[Kernel]) -> list[dict[str, Any]]:
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


def _list(found: Sequence[Kernel]) -> RenderableType:
    heads = ("", "kernel", "layers", "least ms", "most ms", "IQR", "reads", "writes")
    table = _table(*heads, names=(1,))
    for row in _listed(found):
        times = (f"{row['fastest_ms']:.3f}", f"{row['slowest_ms']:.3f}", f"{row['noise']:.0%}")
        steps = (str(row["steps"].get(axis, "")) for axis in ("reads", "writes"))
        table.add_row(str(row["number"]), row["name"], str(row["layers"]), *times, *steps)
    note = "IQR: half of the layers have at most this share. Reads, writes: channels per step."
    return Group(table, Text(f"{note}\n", style="dim"))


def _table(*heads: str, names: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, head in enumerate(heads):
        table.add_column(head, justify="left" if column in names else "right")
    return table


def _drawn(number: int, kernel: Kernel) -> Iterator[RenderableType]:
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


def _difference(found: Difference) -> RenderableType:
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
        table.add_row(name.replace("_", "-"), str(ratios.count), *numbers)
    yield table


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
        table.add_row(name, *timings, f"{pair.ratio:.2f}")
    yield table
    yield Text("± is half the IQR.", style="dim")


def _merge_facts(merged: Merged, out: Path) -> dict[str, Any]:
    ratios = sorted(conflict.ratio for conflict in merged.conflicts)
    return {
        **_facts(out, merged.table),
        "paces": list(merged.paces),
        "conflicts": len(ratios),
        "conflict_median_ratio": ratios[len(ratios) // 2] if ratios else None,
        "conflict_worst_ratio": ratios[-1] if ratios else None,
    }


def _joined(merged: Merged, out: Path) -> RenderableType:
    facts = _merge_facts(merged, out)
    head = [*_header(out, merged.table), Text(_pace_words(merged.paces))]
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


def _rechecked(found: Recheck, held: int) -> RenderableType:
    ratios = found.ratios
    lines = [
        f"{ratios.count} of {_count(held, 'layer')} timed again on {found.target.describe()}",
        f"now ÷ table: median {ratios.median:.3f}, half of them {ratios.low:.3f} … "
        f"{ratios.high:.3f}, sum of times {ratios.total:.3f}",
    ]
    if found.sentinel is not None:
        lines.append(f"the sentinel, which tells the machine's pace: {found.sentinel.ratio:.3f}")
    return Group(*map(Text, lines), *_farthest(found.layers, ("table", "now")), Text(found.verdict))
