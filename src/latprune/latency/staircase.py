"""Latency climbs in stairs: where they are, by measurement, and which widths are worth having.

A *line* is one layer measured at 16 narrow widths along one axis: narrow, because there a step is
a large part of the time. Its curve, repeated for wider layers, gives every width its *effective*
width, in which time is nearly straight; equal effective widths are one step. A few wider points
tell what repeats from what comes once, such as the start of the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import gcd, lcm
from typing import TYPE_CHECKING, Literal

import numpy as np

from latprune.errors import NotMeasured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from latprune.graph.groups import ChannelGroup, PruningGraph
    from latprune.graph.layers import Layer, LayerShape, Width
    from latprune.latency.table import LatencyTable

Axis = Literal["reads", "writes"]

_POINTS = 16
_REPEATS = (1, 2, 4, 8)  # these points come again, one period wider
_UNIT = 4
_MOST_OPTIONS = 64
_MOST_CROSSING = 16  # their products are options too
_SHARE_FINER = 0.2  # of a group's time; layers with less of it do not make its options finer
_SHARE_INSIDE = 0.15  # of a line's rise that may lie inside what is still taken for one step


@dataclass(frozen=True, eq=False)
class Stairs:
    """How time grows with the width of one axis.

    Attributes:
        unit: Channels between two points of the line.
        step: Channels per step; a multiple of `unit`.
        heights: Effective widths at unit, 2 unit, …, 16 unit; float, ascending, the last 16 unit.
    """

    unit: int
    step: int
    heights: np.ndarray

    def effective(self, widths: np.ndarray) -> np.ndarray:
        """Give effective widths: float, of the shape of `widths`."""
        period = self.unit * _POINTS
        whole, rest = np.divmod(np.asarray(widths, dtype=np.int64), period)
        points = -(-rest // self.unit)
        return whole * float(period) + np.where(points > 0, self.heights[points - 1], 0.0)


_LINE = (*range(1, _POINTS + 1), *(_POINTS + point for point in _REPEATS))


def moving_axes(layer: Layer) -> tuple[Axis, ...]:
    """Give the axes whose width can change; one where both are tied, as in a depthwise layer."""
    if layer.tied:
        return ("writes",) if layer.writes.names else ()
    axes: list[Axis] = ["reads"] if layer.reads.names else []
    return (*axes, "writes") if layer.writes.names else tuple(axes)


def line_of(layer: Layer, axis: Axis) -> tuple[LayerShape, ...]:
    """Give the shapes to measure for the stairs of a layer's axis; the other axis stays full."""
    shape = layer.shape
    widths = [_unit(layer) * point for point in _LINE]
    if layer.groups_follow:
        return tuple(layer.shape_of(w * shape.in_channels // shape.out_channels, w) for w in widths)
    if axis == "reads":
        return tuple(layer.shape_of(width, shape.out_channels) for width in widths)
    return tuple(layer.shape_of(shape.in_channels, width) for width in widths)


def _unit(layer: Layer) -> int:
    """The finest width step to tell apart: 4, or what keeps a grouped convolution whole."""
    if layer.groups_follow:
        per_group = layer.shape.out_channels // layer.shape.groups
        return lcm(per_group, _UNIT)
    return layer.shape.groups if layer.shape.groups > 1 else _UNIT


def lines_needed(graph: PruningGraph) -> tuple[LayerShape, ...]:
    """Give the shapes that find a network's stairs: one line per axis of every kind of kernel."""
    kinds: dict[tuple[object, ...], list[tuple[Layer, Axis]]] = {}
    for layer in _with_weights(graph):
        for axis in moving_axes(layer):
            kinds.setdefault((*_kernel(layer), axis), []).append((layer, axis))
    lines = (line_of(*_typical(alike)) for alike in kinds.values())
    return tuple(dict.fromkeys(shape for line in lines for shape in line))


def _with_weights(graph: PruningGraph) -> Iterator[Layer]:
    """The layers that have stairs: an operator without weights takes time by the channel."""
    return (layer for layer in graph.layers if layer.shape.has_weights)


def _kernel(layer: Layer) -> tuple[object, ...]:
    shape = layer.shape
    grouping = _per_group(shape) if layer.groups_follow else shape.groups
    return (
        *(shape.kind, shape.kernel, shape.stride, shape.dilation, shape.transposed),
        *(layer.groups_follow, grouping),
    )


def _per_group(shape: LayerShape) -> tuple[int, int]:
    return shape.in_channels // shape.groups, shape.out_channels // shape.groups


def _typical(layers: Sequence[tuple[Layer, Axis]]) -> tuple[Layer, Axis]:
    """The layer of median work."""

    def work(entry: tuple[Layer, Axis]) -> int:
        shape = entry[0].shape
        return shape.in_channels * shape.out_channels // shape.groups * int(np.prod(shape.size))

    return sorted(layers, key=work)[len(layers) // 2]


def stairs(table: LatencyTable, layer: Layer, axis: Axis) -> Stairs:
    """Find the stairs of a layer's axis in every line of its kernel that the table holds.

    Args:
        table: Holds at least one line of such a kernel; `measure` sees to it.
        layer: The layer.
        axis: One of `moving_axes(layer)`.

    Returns:
        The stairs, averaged over the lines.

    Raises:
        NotMeasured: If there is no such line.
    """
    key = ("stairs", axis, *_kernel(layer))
    return table.derived(layer.shape, key, partial(_stairs, table, layer, axis))


def _stairs(table: LatencyTable, layer: Layer, axis: Axis) -> Stairs:
    lines = [
        np.array([table[shape].median_ms for shape in line])
        for line in lines_in(table, layer, axis)
    ]
    if not lines:
        raise NotMeasured(
            f"{layer.name}: no line of {len(_LINE)} widths that it {axis} was measured on "
            f"{table.target.describe()}; measure() does it"
        )
    return _fit(np.mean([line / line[_POINTS - 1] for line in lines], axis=0), unit=_unit(layer))


def lines_in(table: LatencyTable, layer: Layer, axis: Axis) -> Iterator[tuple[LayerShape, ...]]:
    """Give every line of the layer's kernel that the table holds in full, narrowest width first."""
    unit = _unit(layer)
    measured: dict[tuple[object, ...], dict[int, LayerShape]] = {}
    for shape in table.alike(layer.shape):
        if not _same_grouping(layer, shape):
            continue
        width = shape.in_channels if axis == "reads" else shape.out_channels
        if width % unit == 0 and width // unit in _LINE:
            line = measured.setdefault(_all_but(layer, axis, shape), {})
            line[width // unit] = shape
    for line in measured.values():
        if len(line) == len(_LINE):
            yield tuple(line[point] for point in _LINE)


def _same_grouping(layer: Layer, shape: LayerShape) -> bool:
    if layer.groups_follow:
        return _per_group(shape) == _per_group(layer.shape)
    return shape.groups == layer.shape.groups


def _all_but(layer: Layer, axis: Axis, shape: LayerShape) -> tuple[object, ...]:
    other = shape.out_channels if axis == "reads" else shape.in_channels
    return shape.setting if layer.tied else (other, *shape.setting)


def _fit(line: np.ndarray, *, unit: int) -> Stairs:
    once, repeating = _once(line), line[:_POINTS]
    points = _step(repeating)
    blocks = repeating.reshape(-1, points).mean(axis=1)
    heights = np.repeat(_isotonic(blocks), points) - once
    period = unit * _POINTS
    return Stairs(unit=unit, step=unit * points, heights=heights / heights[-1] * period)


def _once(line: np.ndarray) -> float:
    """The part of a line's time that does not come again with every period."""
    first, last = line[[point - 1 for point in _REPEATS]], line[_POINTS - 1]
    once = float(np.median(first - (line[_POINTS:] - last)))
    return min(max(once, 0.0), 0.9 * float(line[:_POINTS].min()))


def _step(line: np.ndarray) -> int:
    """The most points in one step, such that hardly any of the rise lies inside the steps."""
    rise = line[-2:].mean() - line[:2].mean()
    for points in (8, 4, 2):
        blocks = line.reshape(-1, points)
        inside = float(np.median(blocks[:, -1] - blocks[:, 0]))
        if inside <= _SHARE_INSIDE * rise / len(blocks):
            return points
    return 1


def _isotonic(values: np.ndarray) -> np.ndarray:
    """The ascending sequence nearest in least squares (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while pools and pools[-1][0] >= mean:
            before, many = pools.pop()
            mean = (mean * count + before * many) / (count + many)
            count += many
        pools.append((mean, count))
    return np.concatenate([np.full(count, mean) for mean, count in pools])


def options(graph: PruningGraph, table: LatencyTable) -> dict[str, np.ndarray]:
    """Give the widths that are worth having, by the stairs of the layers that they touch.

    A width is left out if a wider one is no slower in any layer.

    Args:
        graph: The network.
        table: Holds its lines and the layers of the dense network.

    Returns:
        Per group at most 64 widths, 16 if it crosses another: int, ascending, multiples of the
        group's `multiple`; the last, the full width, always is one. Those of tied groups are all
        that they can have, in the order in which they go together.

    Raises:
        NotMeasured: If the table lacks a line or a layer of the dense network.
    """
    dense = graph.widths
    touching: dict[str, list[_Touch]] = {name: [] for name in dense}
    for layer in _with_weights(graph):
        for axis in moving_axes(layer):
            found, cost_ms = stairs(table, layer, axis), _dense_cost(table, layer)
            width: Width = getattr(layer, axis)
            for name in width.names:
                count = width.per_channel(name, dense)
                others = width.at(dense) - count * dense[name]
                touching[name].append(_Touch(found, count=count, others=others, cost_ms=cost_ms))
    most = dict.fromkeys(dense, _MOST_OPTIONS) | dict.fromkeys(_crossing(graph), _MOST_CROSSING)
    tied = {g: tie.widths[:, i] for tie in graph.ties for i, g in enumerate(tie.groups)}
    return {
        group.name: tied[group.name]
        if group.name in tied
        else _options(group, touching[group.name], most=most[group.name])
        for group in graph.groups
    }


def _dense_cost(table: LatencyTable, layer: Layer) -> float:
    if layer.shape not in table:
        raise NotMeasured(
            f"{layer.name} of the dense network was not measured on {table.target.describe()}; "
            "measure() does it"
        )
    return table[layer.shape].median_ms


@dataclass(frozen=True)
class _Touch:
    """An axis that a group lies on: its stairs, its other channels, the dense layer's cost."""

    stairs: Stairs
    count: int
    others: int
    cost_ms: float

    @property
    def pitch(self) -> int:
        """Channels of the group per step of the axis."""
        return self.stairs.step // gcd(self.stairs.step, self.count)

    def effective(self, widths: np.ndarray) -> np.ndarray:
        return self.stairs.effective(self.others + self.count * widths)


def _crossing(graph: PruningGraph) -> set[str]:
    """The groups within whose channels others lie, and those others."""
    axes = (width for layer in graph.layers for width in (layer.reads, layer.writes))
    return {name for width in axes for *both, _ in width.products for name in both}


def _options(group: ChannelGroup, touches: Sequence[_Touch], *, most: int) -> np.ndarray:
    pitch = lcm(group.multiple, _pitch(touches))
    while group.channels > pitch * most:
        pitch *= 2
    widths = np.unique(np.append(np.arange(pitch, group.channels, pitch), group.channels))
    if not touches:
        return widths
    costs = np.stack([touch.effective(widths) for touch in touches])
    # What the next wider widths cost at best, per axis: a width must beat it somewhere to stay.
    wider = np.minimum.accumulate(costs[:, ::-1], axis=1)[:, ::-1]
    useful = (costs[:, :-1] < wider[:, 1:] * (1 - 1e-9)).any(axis=0)
    kept: np.ndarray = widths[np.append(useful, True)]
    return kept


def _pitch(touches: Sequence[_Touch]) -> int:
    """The finest step that layers with a fair share of the time on this group can see."""
    total_ms = sum(touch.cost_ms for touch in touches)
    seen_ms = 0.0
    for touch in sorted(touches, key=lambda touch: touch.pitch):
        seen_ms += touch.cost_ms
        if seen_ms >= _SHARE_FINER * total_ms:
            return touch.pitch
    return 1
