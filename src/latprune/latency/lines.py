"""What a table knows of each kernel: how many layers, and the lines that its stairs come from.

A table knows layers, but not the networks that they come from: which of a layer's widths move is
read from the lines that were measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import NotMeasured
from latprune.graph.layers import Layer, Width
from latprune.latency.describing import kernel_words, setting_words
from latprune.latency.interpolation import layer_cost
from latprune.latency.staircase import lines_in, moving_axes, stairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from latprune.graph.layers import LayerShape
    from latprune.latency.staircase import Axis, Stairs
    from latprune.latency.table import LatencyTable
    from latprune.latency.timing import Measurement


@dataclass(frozen=True)
class Point:
    """A width of a line.

    Attributes:
        width: Channels.
        expected_ms: By the stairs, within the line; by interpolation beyond it.
        measured: None: it was not.
    """

    width: int
    expected_ms: float
    measured: Measurement | None

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        measured = self.measured.to_json() if self.measured else None
        return {"width": self.width, "expected_ms": self.expected_ms, "measured": measured}


@dataclass(frozen=True, eq=False)
class Line:
    """One layer at many widths along one axis, and the stairs that planning sees in them.

    Attributes:
        shape: The layer at the line's widest point.
        axis: Whose width changes; `both` where they are one.
        stairs: Averaged over every line of the kernel that the table holds; None: of an operator
            without weights, whose time goes by the channel.
        points: Of the line, narrowest first.
        wider: Beyond the line, up to the widest that was measured.
    """

    shape: LayerShape
    axis: Axis | str
    stairs: Stairs | None
    points: tuple[Point, ...]
    wider: tuple[Point, ...]

    @property
    def step_ms(self) -> float:
        """How high a step is, on average over the line's period; 0 without stairs."""
        if self.stairs is None:
            return 0.0
        count = len(self.stairs.heights) * self.stairs.unit // self.stairs.step
        first, last = self.points[0], self.points[len(self.stairs.heights) - 1]
        return (last.expected_ms - first.expected_ms) / max(1, count - 1)

    @property
    def noise_ms(self) -> float:
        """Half of the points have at most this interquartile range."""
        return float(np.median([point.measured.iqr_ms for point in self.points if point.measured]))

    def to_json(self) -> dict[str, Any]:
        """Give everything as JSON values."""
        return {
            "axis": self.axis,
            "shape": self.shape.to_json(),
            "unit": self.stairs.unit if self.stairs else None,
            "step": self.stairs.step if self.stairs else None,
            "step_ms": self.step_ms,
            "noise_ms": self.noise_ms,
            "points": [point.to_json() for point in self.points],
            "wider": [point.to_json() for point in self.wider],
        }


@dataclass(frozen=True, eq=False)
class Kernel:
    """All layers of a table that run one kernel, at whatever widths and sizes.

    Attributes:
        name: In a few words.
        layers: Their measurements.
        lines: Those that the table holds in full; the longest per axis.
    """

    name: str
    layers: Mapping[LayerShape, Measurement]
    lines: tuple[Line, ...]

    @property
    def slowest_ms(self) -> float:
        """What the slowest of the layers takes."""
        return max(found.median_ms for found in self.layers.values())

    @property
    def fastest_ms(self) -> float:
        """What the fastest of them takes."""
        return min(found.median_ms for found in self.layers.values())

    @property
    def noise(self) -> float:
        """Half of the layers have at most this interquartile range, relative to their median."""
        found = self.layers.values()
        return float(np.median([one.iqr_ms / one.median_ms for one in found]))

    def to_json(self) -> dict[str, Any]:
        """Give everything but the single layers as JSON values."""
        return {
            "name": self.name,
            "layers": len(self.layers),
            "fastest_ms": self.fastest_ms,
            "slowest_ms": self.slowest_ms,
            "noise": self.noise,
            "lines": [line.to_json() for line in self.lines],
        }


def kernels(table: LatencyTable) -> tuple[Kernel, ...]:
    """Sort a table's layers by their kernels; the one with the slowest layer comes first."""
    alike: dict[tuple[object, ...], list[LayerShape]] = {}
    for shape in table:
        alike.setdefault(_kernel(table, shape), []).append(shape)
    found = (_kernel_of(table, shapes) for shapes in alike.values())
    return tuple(sorted(found, key=lambda kernel: -kernel.slowest_ms))


def _kernel(table: LatencyTable, shape: LayerShape) -> tuple[object, ...]:
    follows = _groups_follow(table, shape)
    grouping = _per_group(shape) if follows else shape.groups
    own = (shape.kind, shape.kernel, shape.stride, shape.dilation, shape.transposed)
    return (*own, follows, grouping)


def _groups_follow(table: LatencyTable, shape: LayerShape) -> bool:
    """Whether a grouped convolution lost whole groups, by what else was measured of it."""
    if shape.groups == 1:
        return False
    alike = [other for other in table.alike(shape) if other.groups > 1]
    counts = {other.groups for other in alike if _per_group(other) == _per_group(shape)}
    sizes = {_per_group(other) for other in alike if other.groups == shape.groups}
    return shape.is_depthwise or len(counts) > len(sizes)


def _per_group(shape: LayerShape) -> tuple[int, int]:
    return shape.in_channels // shape.groups, shape.out_channels // shape.groups


def _kernel_of(table: LatencyTable, shapes: Sequence[LayerShape]) -> Kernel:
    layers = {shape: table[shape] for shape in shapes}
    widest = max(shapes, key=lambda shape: shape.in_channels * shape.out_channels)
    grouped = widest.groups > 1 and widest.groups != widest.in_channels
    name = f"{kernel_words(widest)} {_grouping(table, widest)}" if grouped else kernel_words(widest)
    return Kernel(name, layers, tuple(_lines(table, shapes)))


def _grouping(table: LatencyTable, shape: LayerShape) -> str:
    if _groups_follow(table, shape):
        reads, writes = _per_group(shape)
        return f"groups of {reads} → {writes}"
    return f"{shape.groups} groups"


def _lines(table: LatencyTable, shapes: Sequence[LayerShape]) -> Iterator[Line]:
    if not shapes[0].has_weights:
        yield _by_the_channel(table, shapes)
        return
    layer = _layer(table, shapes[0])
    for axis in moving_axes(layer):
        found = list(lines_in(table, layer, axis))
        if found:
            slowest = max(found, key=lambda line: table[line[-1]].median_ms)
            yield _line(table, slowest, axis)


def _layer(table: LatencyTable, shape: LayerShape, *, moving: Iterable[Axis] = ()) -> Layer:
    """Make a layer of a shape; without `moving`, both of its widths may change."""
    free = set(moving) or {"reads", "writes"}
    follows = _groups_follow(table, shape)
    counts = {"reads": shape.in_channels, "writes": shape.out_channels}
    reads, writes = (
        Width(0, ((side, 1),)) if side in free else Width(count) for side, count in counts.items()
    )
    return Layer(kernel_words(shape), shape, reads, writes, groups_follow=follows)


def _line(table: LatencyTable, line: Sequence[LayerShape], axis: Axis) -> Line:
    layer = _layer(table, line[-1])
    steps = stairs(table, layer, axis)
    widths = np.array([_width(shape, axis) for shape in line])
    times_ms = np.array([table[shape].median_ms for shape in line])
    expected_ms = _straight(steps.effective(widths), times_ms)
    return Line(
        shape=line[-1],
        axis="both" if layer.tied else axis,
        stairs=steps,
        points=_points(table, line, widths, expected_ms),
        wider=_wider(table, line[-1], axis),
    )


def _points(
    table: LatencyTable,
    shapes: Sequence[LayerShape],
    widths: np.ndarray,
    expected_ms: np.ndarray,
) -> tuple[Point, ...]:
    return tuple(
        Point(int(width), float(ms), table[shape])
        for shape, width, ms in zip(shapes, widths, expected_ms, strict=True)
    )


def _width(shape: LayerShape, axis: Axis) -> int:
    return shape.in_channels if axis == "reads" else shape.out_channels


def _straight(effective: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
    """The straight line in effective widths, of least relative error, at every point."""
    features = np.stack([np.ones(len(effective)), effective], axis=-1)
    found = np.linalg.lstsq(features / times_ms[:, None], np.ones(len(times_ms)), rcond=None)[0]
    expected: np.ndarray = np.maximum(features @ found, 0.0)
    return expected


def _wider(table: LatencyTable, widest: LayerShape, axis: Axis) -> tuple[Point, ...]:
    """Twice the line's end, four times, …, and what was measured; none where nothing was."""
    layer = _layer(table, widest, moving=_axes_with_lines(table, widest))
    end = _width(widest, axis)
    measured = {
        _width(shape, axis)
        for shape in table.alike(widest)
        if shape == layer.shape_of(*_at(layer, axis, _width(shape, axis)))
    }
    most = max(measured)
    doubled = (end * 2**power for power in range(1, 16))
    widths = {width for width in measured if width > end} | {w for w in doubled if w < most}
    points = (_interpolated(table, layer, axis, width) for width in sorted(widths))
    return tuple(point for point in points if point is not None)


def _axes_with_lines(table: LatencyTable, shape: LayerShape) -> list[Axis]:
    layer = _layer(table, shape)
    return [axis for axis in moving_axes(layer) if any(lines_in(table, layer, axis))]


def _at(layer: Layer, axis: Axis, width: int) -> tuple[int, int]:
    shape = layer.shape
    if layer.tied:
        return width * shape.in_channels // shape.out_channels, width
    return (width, shape.out_channels) if axis == "reads" else (shape.in_channels, width)


def _interpolated(table: LatencyTable, layer: Layer, axis: Axis, width: int) -> Point | None:
    reads, writes = _at(layer, axis, width)
    try:
        cost = layer_cost(table, layer, np.array([reads]), np.array([writes]))
    except NotMeasured:  # a corner that only some other network could have asked for
        return None
    return Point(width, float(cost[0, 0]), table.get(layer.shape_of(reads, writes)))


def _by_the_channel(table: LatencyTable, shapes: Sequence[LayerShape]) -> Line:
    """The setting of the slowest layer, at the widths that were measured."""
    slowest = max(shapes, key=lambda shape: table[shape].median_ms)
    own = sorted(
        (shape for shape in shapes if shape.setting == slowest.setting),
        key=lambda shape: shape.out_channels,
    )
    widths = np.array([shape.out_channels for shape in own])
    times_ms = np.array([table[shape].median_ms for shape in own])
    points = _points(table, own, widths, _straight(widths.astype(float), times_ms))
    return Line(own[-1], "both", None, points, ())


def line_words(line: Line) -> str:
    """Name a line: `64 → 4 … 96 at 16x16, norm, relu`."""
    low, high = line.points[0].width, line.points[-1].width
    moving = f"{low} … {high}"
    if line.axis == "both":
        widths = f"{moving} channels"
    elif line.axis == "reads":
        widths = f"{moving} → {line.shape.out_channels}"
    else:
        widths = f"{line.shape.in_channels} → {moving}"
    return f"{widths} {setting_words(line.shape)}"
