"""A processor whose times follow a formula, so that every answer is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from latprune.graph.groups import ChannelGroup, PruningGraph
from latprune.graph.layers import Layer, LayerShape, Width
from latprune.latency.sentinel import SENTINEL
from latprune.latency.table import LatencyTable
from latprune.latency.target import Target
from latprune.latency.timing import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor, nn

TARGET = Target("a formula, 1 core", "synthetic", "1.0")


class Killed(BaseException):
    """What stands in for `kill -9` here."""


@dataclass
class FakeClock:
    """Seconds that pass only when somebody says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds

        return run


@dataclass
class Processor:
    """Works on whole blocks of channels; a block takes its time however much of it is used.

    Attributes:
        reads_step: Channels read per block.
        writes_step: Channels written per block.
        noise: Relative, normal; the same shape is always off by the same.
        dies_after: Measurements until it is killed.
        asked: Every shape it has timed, in order, but for the sentinel.
        paces: By how much it is slower, from one use to the next; the last one stays.
    """

    reads_step: int = 8
    writes_step: int = 8
    noise: float = 0.0
    dies_after: int | None = None
    asked: list[LayerShape] = field(default_factory=list)
    aparts: set[int] = field(default_factory=set)
    paces: list[float] = field(default_factory=lambda: [1.0])
    time: FakeClock = field(default_factory=FakeClock)

    name = "synthetic"
    precisions = ("fp32",)

    def version(self) -> str:
        return "1.0"

    def device(self) -> str:
        return TARGET.device

    def clock(self, threads: int) -> FakeClock:
        assert threads == TARGET.threads
        return self.time

    def ms(self, shape: LayerShape) -> float:
        reads = -(-shape.in_channels // self.reads_step) * self.reads_step
        writes = -(-shape.out_channels // self.writes_step) * self.writes_step
        if shape.groups == shape.in_channels > 1:
            reads = 1
        work = 0.2 + 1e-3 * (reads + writes) + 1e-4 * reads * writes
        off = np.random.default_rng(crc32(repr(shape).encode())).normal(0, self.noise)
        return work * (1 + off) * float(np.prod(shape.size)) / 64

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target, *, apart: int = 0
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        assert target == TARGET
        if set(shapes) != {SENTINEL}:
            self.aparts.add(apart)
        pace = self.paces.pop(0) if len(self.paces) > 1 else self.paces[0]
        if SENTINEL in shapes:
            yield SENTINEL, Measurement(pace * self.ms(SENTINEL), 0.0, 10)
        for shape in shapes:
            if shape == SENTINEL:
                continue
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise Killed
            self.asked.append(shape)
            yield shape, Measurement(pace * self.ms(shape), 0.0, 10)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Callable[[], None]:
        assert target == TARGET

        def run() -> None:
            self.time.now += 0.05 * self.paces[0]

        return run

    def table(self, shapes: Iterable[LayerShape]) -> LatencyTable:
        """What measuring these shapes gives."""
        table = LatencyTable(TARGET)
        for shape in shapes:
            table.add(shape, Measurement(self.ms(shape), 0.0, 10))
        return table


def conv(reads: int, writes: int, *, size: int = 8, kernel: int = 3, groups: int = 1) -> LayerShape:
    """A 2-D convolution with norm and ReLU."""
    return LayerShape(
        kind="conv",
        in_channels=reads,
        out_channels=writes,
        size=(size, size),
        kernel=(kernel, kernel),
        stride=(1, 1),
        padding=(kernel // 2, kernel // 2),
        dilation=(1, 1),
        groups=groups,
        norm=True,
        activation="relu",
    )


def layer(name: str, shape: LayerShape, reads: str | None, writes: str | None) -> Layer:
    """A layer between two groups, or fixed channels where None."""
    return Layer(
        name,
        shape,
        reads=Width(0, ((reads, 1),)) if reads else Width(shape.in_channels),
        writes=Width(0, ((writes, 1),)) if writes else Width(shape.out_channels),
        groups_follow=shape.groups == shape.in_channels > 1,
    )


def network() -> PruningGraph:
    """Stem, expansion, depthwise, projection, depthwise, classifier: three groups."""
    classifier = LayerShape("linear", 64, 10, size=(1,), bias=True)
    return PruningGraph(
        layers=(
            layer("stem", conv(3, 64), None, "stem"),
            layer("expand", conv(64, 192, kernel=1), "stem", "expand"),
            layer("depthwise", conv(192, 192, groups=192), "expand", "expand"),
            layer("project", conv(192, 64, kernel=1), "expand", "project"),
            layer("smaller", conv(64, 64, groups=64, size=4), "project", "project"),
            layer("classifier", classifier, "project", None),
        ),
        groups=(
            ChannelGroup("stem", 64, ()),
            ChannelGroup("expand", 192, ()),
            ChannelGroup("project", 64, ()),
        ),
    )
