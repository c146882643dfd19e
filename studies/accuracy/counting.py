"""A device whose clock counts multiply-accumulates, as if each took the same time.

`measure` and `plan` then choose widths as pruning by FLOPs does, and everything else is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latprune.latency.devices.here import Here
from latprune.latency.sentinel import SENTINEL
from latprune.latency.table import LatencyTable
from latprune.latency.timing import Measurement
from latprune.report.counting import macs, network_macs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import nn

    import latprune as lp
    from latprune.graph.layers import LayerShape
    from latprune.latency.devices import Ready
    from latprune.latency.target import Target
    from latprune.latency.timing import Comparison

MS_PER_MAC = 1e-6
LEAST = 1e-3  # MACs of an operator without weights: a table holds no zeros


@dataclass(frozen=True)
class Counter(Here):
    """This process, with another clock."""

    graph: lp.PruningGraph

    def table(self, target: Target, *, folder: Path | None = None) -> LatencyTable:
        del folder  # counting again costs nothing
        return LatencyTable(target)

    def prepare(self, model: nn.Module, *_: object) -> nn.Module:
        return model

    def time(
        self,
        shapes: Sequence[LayerShape],
        networks: Sequence[tuple[str, Ready]],
        target: Target,
        *,
        reference: Measurement | None,
        apart: int = 0,
    ) -> Iterator[tuple[LayerShape | str, Measurement]]:
        del target, apart
        for shape in shapes if reference is not None else (SENTINEL, *shapes):
            yield shape, _as_time(macs(shape))
        for key, _ in networks:
            yield key, _as_time(network_macs(self.graph, self.graph.widths))

    def compare(self, *_: object, **__: object) -> Comparison:
        raise NotImplementedError("multiply-accumulates are counted, whole networks are timed")


def _as_time(count: int) -> Measurement:
    return Measurement(max(count, LEAST) * MS_PER_MAC, 0.0, 1)
