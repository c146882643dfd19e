"""Say in words what of a network can be cut, what cannot, and why."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latprune.graph.groups import ChannelGroup, Frozen, PruningGraph
    from latprune.graph.layers import Layer


def describe(graph: PruningGraph) -> str:
    """Give a text of several lines: groups with their members, branches, and what is frozen.

    A layer counts as prunable if the channels that it reads or writes belong to a group, at least
    some of them. Reasons that several places share are listed once.
    """
    parts = (_summary, _groups, _ties, _branches, _frozen)
    return "\n".join(line for part in parts for line in part(graph))


def _summary(graph: PruningGraph) -> Iterator[str]:
    layers = [layer for layer in graph.layers if layer.shape.has_weights]
    free = [layer for layer in layers if layer.reads.names or layer.writes.names]
    channels = sum(group.channels for group in graph.groups)
    yield f"{channels} channels in {len(graph.groups)} groups can be cut"
    yield (
        f"prunable: {len(_names(free))} of {len(_names(layers))} convolutions and linear layers, "
        f"{_share(free, layers)} of the multiply-accumulates"
    )


def _share(free: list[Layer], layers: list[Layer]) -> str:
    total = sum(layer.shape.macs for layer in layers)
    return f"{sum(layer.shape.macs for layer in free) / total:.1%}" if total else "none"


def _names(layers: list[Layer]) -> set[str]:
    """The layers' names, those called several times once."""
    return {layer.name.partition("@")[0] for layer in layers}


def _groups(graph: PruningGraph) -> Iterator[str]:
    crossed = _crossed(graph)
    for group in graph.groups:
        outer = crossed.get(group.name, ())
        within = f" within each of {', '.join(outer)}" if outer else ""
        yield ""
        yield f"{group.name}: {group.channels} channels{within}{_terms(group)}"
        for member in group.members:
            entries = member.positions.shape[1]
            each = f", {entries} entries each" if entries > 1 else ""
            yield f"  {member.role} {member.parameter}, axis {member.axis}{each}"
        for count in group.counts:
            place = count.attribute + ("" if count.index is None else f"[{count.index}]")
            yield f"  counted by {count.module or 'the model'}: {place}"


def _crossed(graph: PruningGraph) -> dict[str, list[str]]:
    """The groups within whose channels others lie, by those others."""
    found: dict[str, dict[str, None]] = {}
    for layer in graph.layers:
        for outer, inner, _ in (*layer.reads.products, *layer.writes.products):
            found.setdefault(inner, {})[outer] = None
    return {inner: list(outer) for inner, outer in found.items()}


def _terms(group: ChannelGroup) -> str:
    multiple = f", in multiples of {group.multiple}" if group.multiple > 1 else ""
    return multiple + (f"; approximate: {group.approximate}" if group.approximate else "")


def _ties(graph: PruningGraph) -> Iterator[str]:
    for tie in graph.ties:
        yield ""
        yield f"these follow one width, in {len(tie.widths)} steps: {', '.join(tie.groups)}"


def _branches(graph: PruningGraph) -> Iterator[str]:
    if not graph.branches:
        return
    yield ""
    yield "branches that can go as a whole:"
    for branch in graph.branches:
        yield f"  {branch.name}: with {', '.join(branch.groups)}"


def _frozen(graph: PruningGraph) -> Iterator[str]:
    if not graph.frozen:
        return
    yield ""
    yield "frozen:"
    by_reason = sorted(graph.frozen, key=_reason)
    for reason, alike in groupby(by_reason, key=_reason):
        places = list(alike)
        yield f"  {reason}"
        for frozen in places:
            yield f"    {frozen.where}" + (f": {frozen.channels} channels" * bool(frozen.channels))


def _reason(frozen: Frozen) -> str:
    return frozen.reason
