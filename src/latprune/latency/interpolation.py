"""Between measured widths time follows a + b·in + c·out + d·in·out, in effective widths.

These are what a layer's time is made of: what it always does, what it does per channel read, per
channel written, and per weight. What measurements add to that is carried over to their neighbours.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from latprune.errors import NotMeasured
from latprune.latency.staircase import moving_axes, stairs

if TYPE_CHECKING:
    from collections.abc import Callable

    from latprune.graph.groups import PruningGraph
    from latprune.graph.layers import Layer, LayerShape
    from latprune.latency.table import LatencyTable

_AS_GOOD_AS_NONE = 1e-12  # a squared distance that keeps the weight of a measured point finite


def layer_cost(
    table: LatencyTable, layer: Layer, reads: np.ndarray, writes: np.ndarray
) -> np.ndarray:
    """Give a layer's latency at widths that need not be measured.

    Args:
        table: Holds the layer at some widths, and the lines of its kernel.
        layer: The layer.
        reads: Widths read, int [r].
        writes: Widths written, int [w].

    Returns:
        Milliseconds, float [r, w]: the measured median where there is one. Where the axes are
        tied, as in a depthwise layer, a pair that cannot be costs infinity.

    Raises:
        NotMeasured: For widths outside the convex hull of the measured ones.
    """
    points = _Points.of(table, layer)
    i, o = np.meshgrid(np.asarray(reads), np.asarray(writes), indexing="ij")
    possible = np.ones(i.shape, dtype=bool)
    if layer.tied:
        possible = i * layer.shape.out_channels == o * layer.shape.in_channels
    costs = np.full(i.shape, np.inf)
    costs[possible] = points.interpolate(i[possible], o[possible])
    return costs


def held_out_errors(table: LatencyTable, layer: Layer) -> np.ndarray:
    """Say how far interpolation is off, by points that it is not shown.

    Args:
        table: Holds the layer at some widths, and the lines of its kernel.
        layer: The layer.

    Returns:
        Interpolated over measured time, less 1; float [n], one for every measured point that lies
        between others, none where there are no such points.

    Raises:
        NotMeasured: If the table lacks the layer, or a line of its kernel.
    """
    points = _Points.of(table, layer)
    errors = (points.without(index) for index in range(points.count))
    return np.array([error for error in errors if error is not None])


def held_out(table: LatencyTable, graph: PruningGraph) -> np.ndarray:
    """Give `held_out_errors` of all layers of a network, those that are alike once; float [n]."""
    different = {table.key(layer.shape): layer for layer in graph.layers if layer.reads.names}
    errors = [held_out_errors(table, layer) for layer in different.values()]
    return np.concatenate([np.zeros(0), *errors])


class _Points:
    """What the table holds of one layer."""

    def __init__(
        self, table: LatencyTable, layer: Layer, widths: np.ndarray, times_ms: np.ndarray
    ) -> None:
        self._table, self._layer = table, layer
        self._where = f"{layer.name} on {table.target.describe()}"
        self._widths = widths
        self._times_ms = times_ms
        axes = moving_axes(layer)
        self._effective: list[Callable[[np.ndarray], np.ndarray]] = [
            stairs(table, layer, axis).effective if layer.shape.has_weights else np.asarray
            for axis in axes
        ]
        self._columns = [0 if axis == "reads" else 1 for axis in axes]
        self._model = _fit(self._features(widths), times_ms)
        self._residuals = np.log(times_ms / self._predict(widths))

    @classmethod
    def of(cls, table: LatencyTable, layer: Layer) -> _Points:
        setting = table.key(layer.shape).setting
        shapes = [
            shape
            for shape in table.alike(layer.shape)
            if shape.setting == setting and _is_grouped_so(layer, shape)
        ]
        if not shapes:
            raise NotMeasured(
                f"{layer.name} was not measured at any width on {table.target.describe()}; "
                "measure() does it"
            )
        widths = np.array([(shape.in_channels, shape.out_channels) for shape in shapes])
        times_ms = np.array([table[shape].median_ms for shape in shapes])
        return cls(table, layer, widths, times_ms)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._widths)

    def without(self, index: int) -> float | None:
        """Interpolate at one point from the others: over what was measured, less 1.

        None where they do not enclose it, or it decides alone which way time grows.
        """
        others = np.arange(self.count) != index
        asked, widths = self._widths[index : index + 1], self._widths[others]
        if len(widths) <= len(self._model) or not inside_hull(widths, asked).all():
            return None
        rest = _Points(self._table, self._layer, widths, self._times_ms[others])
        return float(rest.interpolate(*asked.T)[0] / self._times_ms[index] - 1)

    def interpolate(self, reads: np.ndarray, writes: np.ndarray) -> np.ndarray:
        """Milliseconds at pairs of widths, both int [n]."""
        asked = np.stack([reads, writes], axis=-1)
        self._check_inside(asked)
        nearness = 1 / (_distances(asked, self._widths) + _AS_GOOD_AS_NONE)
        carried = nearness @ self._residuals / nearness.sum(axis=-1)
        costs: np.ndarray = self._predict(asked) * np.exp(carried)
        for widths, time_ms in zip(self._widths, self._times_ms, strict=True):  # a few, of many
            costs[(asked == widths).all(axis=1)] = time_ms
        return costs

    def _check_inside(self, asked: np.ndarray) -> None:
        outside = ~inside_hull(self._widths, asked)
        if outside.any():
            reads, writes = asked[outside][0]
            low, high = self._widths.min(axis=0), self._widths.max(axis=0)
            raise NotMeasured(
                f"{self._where}: {reads} → {writes} channels lies outside what was measured, "
                f"{low[0]} to {high[0]} → {low[1]} to {high[1]}; measure() with these widths "
                "adds it"
            )

    def _features(self, widths: np.ndarray) -> np.ndarray:
        effective = [
            stretch(widths[:, column])
            for stretch, column in zip(self._effective, self._columns, strict=True)
        ]
        columns = [np.ones(len(widths)), *effective]
        if len(effective) == 2:
            columns.append(effective[0] * effective[1])
        return np.stack(columns, axis=-1)

    def _predict(self, widths: np.ndarray) -> np.ndarray:
        predicted: np.ndarray = self._features(widths) @ self._model
        return predicted


def _is_grouped_so(layer: Layer, shape: LayerShape) -> bool:
    own = layer.shape
    if not layer.groups_follow:
        return shape.groups == own.groups
    return (
        shape.groups * own.out_channels == own.groups * shape.out_channels
        and shape.groups * own.in_channels == own.groups * shape.in_channels
    )


def _fit(features: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
    """Coefficients >= 0 with the least squared relative error, by trying every support."""
    scaled = features / times_ms[:, None]
    target = np.ones(len(times_ms))
    count = features.shape[1]
    best, least = np.zeros(count), np.inf
    for size in range(1, count + 1):
        for support in map(list, combinations(range(count), size)):
            found = np.linalg.lstsq(scaled[:, support], target, rcond=None)[0]
            error = float(((scaled[:, support] @ found - target) ** 2).sum())
            if (found >= 0).all() and error < least - 1e-12:
                best, least = np.zeros(count), error
                best[support] = found
    return best


def _distances(asked: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Squared distances [asked, points], in logarithms: what counts are ratios of widths."""
    here, there = np.log(asked), np.log(points)
    squared: np.ndarray = np.subtract.outer(here[:, 0], there[:, 0]) ** 2
    squared += np.subtract.outer(here[:, 1], there[:, 1]) ** 2
    return squared


def inside_hull(points: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Tell which of `asked` lie in the convex hull of `points`; int [n, 2] both, bool [asked]."""
    corners = _hull(sorted({(int(x), int(y)) for x, y in points}))
    inside: np.ndarray = np.ones(len(asked), dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        inside &= (x1 - x0) * (asked[:, 1] - y0) >= (y1 - y0) * (asked[:, 0] - x0)
    low, high = points.min(axis=0), points.max(axis=0)
    inside &= (asked >= low).all(axis=1) & (asked <= high).all(axis=1)
    return inside


def _hull(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Corners of the convex hull, counter-clockwise (Andrew's monotone chain)."""
    if len(points) <= 2:
        return points
    return _chain(points)[:-1] + _chain(points[::-1])[:-1]


def _chain(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    chain: list[tuple[int, int]] = []
    for x, y in points:
        while len(chain) >= 2:
            (x0, y0), (x1, y1) = chain[-2:]
            if (x1 - x0) * (y - y0) > (y1 - y0) * (x - x0):
                break
            chain.pop()
        chain.append((x, y))
    return chain
