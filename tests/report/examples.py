"""Reports with figures written down by hand."""

from __future__ import annotations

from typing import Any

from latprune.graph.groups import ChannelGroup, PruningGraph
from latprune.graph.layers import Layer, LayerShape, Width
from latprune.latency.target import Target
from latprune.latency.timing import Measurement
from latprune.planning import Budget, Plan
from latprune.report import Facts, Report

TARGET = Target(device="a test's CPU", runtime="onnxruntime", runtime_version="1.0")


def conv(in_channels: int, out_channels: int, **fields: Any) -> LayerShape:
    """A 3x3 convolution over 8x8 pixels, padded, unless said otherwise."""
    usual = {"size": (8, 8), "kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}
    return LayerShape("conv", in_channels, out_channels, **(usual | {"dilation": (1, 1)} | fields))


def chain(*widths: int) -> PruningGraph:
    """A chain of convolutions over 3 input channels, one group each, and a classifier of 10."""
    names = [f"conv{position}" for position in range(len(widths))]
    reads = [Width(3), *(Width(0, ((name, 1),)) for name in names)]
    ins = [3, *widths]
    layers = [
        Layer(name, conv(ins[place], width), reads[place], Width(0, ((name, 1),)))
        for place, (name, width) in enumerate(zip(names, widths, strict=True))
    ]
    head = LayerShape("linear", widths[-1], 10, size=(1,))
    groups = tuple(ChannelGroup(n, w, members=()) for n, w in zip(names, widths, strict=True))
    return PruningGraph((*layers, Layer("fc", head, reads[-1], Width(10))), groups)


def plan_for(graph: PruningGraph, kept: dict[str, int], budget: Budget) -> Plan:
    """A plan that keeps the first channels of each group."""
    return Plan(
        kept={name: tuple(range(kept.get(name, full))) for name, full in graph.widths.items()},
        target=TARGET,
        budget=budget,
        budget_ms=budget.in_ms(10.0),
        baseline_ms=10.0,
        rest_ms=1.0,
        predicted_ms=4.9,
        value=99.0,
        bound=100.0,
        dense_value=200.0,
        solver="joint",
        criterion="taylor",
    )


def report(
    *,
    budget: Budget,
    dense_ms: float = 10.0,
    small_ms: float = 4.95,
    iqr_ms: float = 0.05,
    kept: dict[str, int] | None = None,
    remark: str = "",
) -> Report:
    """A report on a chain of two convolutions, the second cut to half unless said otherwise."""
    graph = chain(8, 16)
    ratio = small_ms / dense_ms
    return Report(
        plan=plan_for(graph, {"conv1": 8} if kept is None else kept, budget),
        graph=graph,
        dense=Facts(Measurement(dense_ms, 0.1, 20), 1000, 2_000_000, {"top1": 0.98}),
        small=Facts(Measurement(small_ms, iqr_ms, 20), 400, 900_000, {"top1": 0.975}),
        ratio=ratio,
        ratio_iqr=iqr_ms / dense_ms,
        remark=remark,
    )
