"""`latprune table`: look into latency tables, compare and join them, see if they still hold."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group

from latprune.cli.options.output import AsJson
from latprune.cli.options.usage import finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from latprune.latency.lines import Kernel

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
    from latprune.cli.table_views import drawn, header, kernel_list, listed, table_facts
    from latprune.latency.lines import kernels
    from latprune.latency.table import LatencyTable

    table = LatencyTable.read(file)
    found = kernels(table)
    chosen = _chosen(found, layer)
    if as_json:
        numbered = [{"number": number, **found[number - 1].to_json()} for number in chosen]
        _show({**table_facts(file, table), "kernels": listed(found), "drawn": numbered})
        return
    stairs = [part for number in chosen for part in drawn(number, found[number - 1])]
    _show(Group(*header(file, table), kernel_list(found), *stairs))


@tables.command("diff")
def diff_command(first: File, second: File, as_json: AsJson = False) -> None:
    """Compare two tables layer by layer.

    They are of two targets, or of one that was measured twice. Ratios are the second table's times
    over the first one's.
    """
    from latprune.cli.table_views import difference
    from latprune.latency.comparing import diff
    from latprune.latency.table import LatencyTable

    found = diff(LatencyTable.read(first), LatencyTable.read(second))
    _show(found.to_json() if as_json else difference(found))


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
    from latprune.cli.table_views import joined, merge_facts
    from latprune.latency.merging import merge_files

    if out is not None and out.exists():
        sentence = f"{out} exists; to join into it: latprune table merge {out} {into} ..."
        raise typer.BadParameter(sentence, param_hint="--out")
    merged = merge_files([into, *others], out or into)
    _show(merge_facts(merged, out or into) if as_json else joined(merged, out or into))


@tables.command("check")
def check_command(
    file: File,
    sample: Annotated[int, typer.Option("--sample", min=1, help="How many layers to time.")] = 48,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draw of layers.")] = 0,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", min=0.0, callback=finite, help="How far the median may be off."
        ),
    ] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Time some of a table's layers again.

    Leaves with 4 if the median ratio of the times is off by more than --tolerance.
    """
    from latprune.cli.live import working
    from latprune.cli.shown import NOT_MET
    from latprune.cli.table_views import rechecked
    from latprune.latency.rechecking import recheck
    from latprune.latency.table import LatencyTable

    table = LatencyTable.read(file)
    with working() as progress:
        progress.stage("check")
        found = recheck(
            table, sample=sample, seed=seed, tolerance=tolerance, progress=progress.step
        )
    _show({**found.to_json(), "seed": seed} if as_json else rechecked(found, len(table)))
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
