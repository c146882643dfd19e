"""Knapsack problems shaped like well-known networks, with costs that rise in stairs of 16."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from latprune.knapsack import Problem, Table

STAIR = 16


@dataclass
class Sketch:
    """Collects groups and layers; a layer may read several groups side by side."""

    seed: int = 0
    channels: list[int] = field(default_factory=list)
    layers: list[tuple[tuple[int, ...], int, int, int]] = field(default_factory=list)

    def conv(self, reads: tuple[int, ...], channels: int, *, size: int, kernel: int = 1) -> int:
        """Add a layer that writes a group of its own."""
        self.channels.append(channels)
        return self.conv_into(reads, len(self.channels) - 1, size=size, kernel=kernel)

    def conv_into(self, reads: tuple[int, ...], group: int, *, size: int, kernel: int = 1) -> int:
        """Add a layer that writes an existing group."""
        self.layers.append((reads, group, size, kernel))
        return group

    def problem(self, share: float) -> Problem:
        """Draw values and costs; allow this share of the dense network's cost."""
        rng = np.random.default_rng(self.seed)
        widths = [np.unique(np.r_[np.arange(STAIR, n, STAIR), n]) for n in self.channels]
        values = []
        for n, kept in zip(self.channels, widths, strict=True):
            scores = np.sort(rng.lognormal(0, 1.2, n) * rng.lognormal(0, 0.7))[::-1]
            values.append(np.cumsum(scores)[kept - 1])
        tables: list[Table] = []
        sums: dict[tuple[int, ...], int] = {}

        def variable(groups: tuple[int, ...]) -> int:
            if len(groups) == 1:
                return groups[0]
            if groups not in sums:
                first, last = variable(groups[:-1]), groups[-1]
                totals = np.add.outer(widths[first], widths[last])
                every = np.unique(totals)
                sums[groups] = len(widths)
                allowed = np.where(totals[..., None] == every, 0.0, np.inf)
                tables.append(Table((first, last, len(widths)), allowed))
                widths.append(every)
                values.append(np.zeros(len(every)))
            return sums[groups]

        for reads, writes, size, kernel in self.layers:
            read_by = variable(reads) if reads else None
            inputs = np.array([3]) if read_by is None else widths[read_by]
            stairs = np.ceil(np.outer(inputs, widths[writes]) / STAIR**2)
            cost = stairs * (size * kernel) ** 2 / 2e5 * (1 + 0.1 * rng.random(stairs.shape)) + 0.01
            scope = tuple(v for v in (read_by, writes) if v is not None)
            tables.append(Table(scope, cost.reshape([len(widths[v]) for v in scope])))
        dense = Problem(values, tables, np.inf)
        return Problem(values, tables, share * dense.cost_of([n - 1 for n in dense.sizes]))


def resnet50() -> Sketch:
    """Bottleneck blocks: 37 groups, 53 layers."""
    net = Sketch()
    source, size = net.conv((), 64, size=112, kernel=7), 56
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            inner = net.conv((source,), width, size=size)
            size //= 2 if block == 0 and stage else 1
            middle = net.conv((inner,), width, size=size, kernel=3)
            if block == 0:
                trunk = net.conv((middle,), 4 * width, size=size)
            net.conv_into((source if block == 0 else middle,), trunk, size=size)
            source = trunk
    return net


def densenet() -> Sketch:
    """Two dense blocks of twelve layers: each reads all before it."""
    net = Sketch()
    features: tuple[int, ...] = (net.conv((), 64, size=112, kernel=7),)
    size = 56
    for _ in range(2):
        for _ in range(12):
            bottleneck = net.conv(features, 128, size=size)
            features = (*features, net.conv((bottleneck,), 32, size=size, kernel=3))
        features = (net.conv(features, 224, size=size),)
        size //= 2
    return net


def googlenet() -> Sketch:
    """Four blocks of four branches; each is read, side by side, by four layers of the next."""
    net = Sketch()
    features: tuple[int, ...] = (net.conv((), 64, size=56, kernel=7),)
    for size, widths in ((28, (64, 96, 128, 16, 32, 32)), (14, (192, 96, 208, 16, 48, 64))) * 2:
        first, reduce3, branch3, reduce5, branch5, pooled = widths
        features = (
            net.conv(features, first, size=size),
            net.conv((net.conv(features, reduce3, size=size),), branch3, size=size, kernel=3),
            net.conv((net.conv(features, reduce5, size=size),), branch5, size=size, kernel=3),
            net.conv(features, pooled, size=size),
        )
    return net
