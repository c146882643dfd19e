"""`latprune trace`: what of a network can be cut, what cannot, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from latprune.cli.options import spread
from latprune.cli.options.choice import Keep, check_kept
from latprune.cli.options.network import Architecture
from latprune.cli.options.output import AsJson
from latprune.cli.shown import show

if TYPE_CHECKING:
    from latprune.graph.groups import PruningGraph


@spread
def trace_command(
    *,
    network: Architecture,
    keep: Keep = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Keep channels that a norm takes statistics over."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what of a network can be cut, what cannot, and why. Nothing is measured."""
    from latprune.cli.live import working
    from latprune.graph.tracing import trace

    source = network.source()
    with working() as progress:
        dense = source.open()
        check_kept(dense.model, keep or ())
        progress.stage("trace")
        graph = trace(
            dense.model, dense.example(1), keep=tuple(keep or ()), exact=exact, branches=True
        )
    show(_facts(graph) if as_json else graph.describe())


def _facts(graph: PruningGraph) -> dict[str, Any]:
    return {
        "groups": [
            {
                "name": group.name,
                "channels": group.channels,
                "multiple": group.multiple,
                "approximate": group.approximate,
                "members": [[member.parameter, member.axis] for member in group.members],
            }
            for group in graph.groups
        ],
        "ties": [{"groups": list(tie.groups), "widths": tie.widths.tolist()} for tie in graph.ties],
        "branches": [
            {"name": branch.name, "groups": list(branch.groups)} for branch in graph.branches
        ],
        "frozen": [vars(frozen) for frozen in graph.frozen],
        "unpriced": list(graph.unpriced),
    }
