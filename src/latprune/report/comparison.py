"""A pruned network beside the dense one: what was promised, what the clock says, what it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from latprune.errors import ModelMismatch
from latprune.latency.devices import CutName
from latprune.latency.devices.here import HERE
from latprune.latency.foreign import BUSY_CORES
from latprune.latency.measuring import compare
from latprune.latency.shipping import as_shipped
from latprune.modes import evaluating
from latprune.outputs import as_numbers
from latprune.report.counting import network_macs, parameters
from latprune.report.wording import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor, nn

    from latprune.graph.groups import PruningGraph
    from latprune.graph.layers import LayerShape
    from latprune.latency.devices import Device, Ready
    from latprune.latency.target import Target
    from latprune.latency.timing import Comparison, Measurement
    from latprune.planning import Budget, Plan

    Inputs = Tensor | tuple[Tensor, ...]

UNDER_USED = 0.97
PROVEN = 1e-3
"""The gap up to which a plan counts as the best one."""

CHECK_LIMIT_S = 20.0
OPENINGS = 4
KNOWN = 0.002
"""The standard error of a ratio, relative, at which its timing may end."""


@dataclass(frozen=True)
class Facts:
    """What is known of one network.

    Attributes:
        latency: Measured on the target.
        parameters: How many it holds.
        macs: Multiply-accumulates of its convolutions and linear layers, for one sample.
        accuracy: By the metric's name, shares in [0, 1]; empty if it was not judged. Of the network
            in fp32, as torch runs it.
        shipped: The same of what the target runs, where that is not fp32; empty if not judged.
    """

    latency: Measurement
    parameters: int
    macs: int
    accuracy: Mapping[str, float] = field(default_factory=dict)
    shipped: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return {
            **self.latency.to_json(),
            "parameters": self.parameters,
            "macs": self.macs,
            "accuracy": dict(self.accuracy),
            "accuracy_as_shipped": dict(self.shipped),
        }


@dataclass(frozen=True, eq=False)
class Report:
    """A pruned network beside the dense one.

    Attributes:
        plan: What was cut, for which budget and target, and what was predicted.
        graph: The dense network's.
        dense: The network as it was.
        small: The pruned one.
        ratio: Median over interleaved rounds of the pruned network's time over the dense one's.
        ratio_iqr: Its interquartile range.
        remark: Why the budget was not met or not used, where more is known of it than this; else
            empty.
        foreign_cores: How many cores others kept busy while the networks were timed.
    """

    plan: Plan
    graph: PruningGraph
    dense: Facts
    small: Facts
    ratio: float
    ratio_iqr: float
    remark: str = ""
    foreign_cores: float = 0.0

    @property
    def target(self) -> Target:
        """Where the networks were measured."""
        return self.plan.target

    @property
    def budget(self) -> Budget:
        """What was asked for."""
        return self.plan.budget

    @property
    def budget_ms(self) -> float:
        """The budget in ms, a share being one of the dense latency measured here."""
        return self.budget.in_ms(self.dense.latency.median_ms)

    @property
    def predicted_ms(self) -> float:
        """What the plan promised."""
        return self.plan.predicted_ms

    @property
    def gap(self) -> float:
        """The share of the saliency's bound that the plan is not proven to reach."""
        return self.plan.gap

    @property
    def speedup(self) -> float:
        """How many times as fast as the dense network."""
        return 1 / self.ratio

    @property
    def used(self) -> float:
        """The share of the budget that was used; above 1 the budget is not met."""
        return self.budget.used(ratio=self.ratio, ms=self.small.latency.median_ms)

    @property
    def spread(self) -> float:
        """The interquartile range of what `used` is computed from, as a share of it."""
        if self.budget.fraction is not None:
            return self.ratio_iqr / self.ratio
        return self.small.latency.iqr_ms / self.small.latency.median_ms

    @property
    def met(self) -> bool:
        """Whether the pruned network is within its budget."""
        return self.used <= 1

    @property
    def verdict(self) -> str:
        """Whether the budget was met, how closely, and if not closely, why: in words."""
        if self.foreign_cores < BUSY_CORES:
            return self._judgement
        return (
            f"{self._judgement} The machine was busy: others used {self.foreign_cores:.1f} of its "
            f"cores while the networks were timed."
        )

    @property
    def _judgement(self) -> str:
        within = f"{_taken(self)}, {_percent(self.used)} of the budget of {self.budget}"
        if not self.met:
            return f"Not met: {within}. {self.remark or self._why_not_met()}"
        if self.used < UNDER_USED:
            return f"Met, with time to spare: {within}. {self.remark or self._why_under_used()}"
        return f"Met: {within}." + (f" {self.remark}" if self.remark else "")

    @property
    def unjudged(self) -> str:
        """What the accuracies do not say, in words: empty where they say everything."""
        precision = self.target.precision
        if precision == "fp32" or self.small.shipped:
            return ""
        return (
            f"The accuracy in {precision} was not measured"
            f"{': that takes data to calibrate and to judge with' if precision == 'int8' else ''}."
        )

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Per channel group its width before and after."""
        after = self.plan.widths
        return {name: (before, after[name]) for name, before in self.graph.widths.items()}

    @property
    def layers(self) -> dict[str, tuple[LayerShape, LayerShape | None]]:
        """Per layer its shape before and after; None where it went with a branch."""
        after = self.graph.shapes_at(self.plan.widths)
        return {layer.name: (layer.shape, after.get(layer.name)) for layer in self.graph.layers}

    def to_json(self) -> dict[str, Any]:
        """Give everything as JSON values; times in ms, shares in [0, 1]."""
        return {
            "target": self.target.to_json(),
            "budget": self.budget.to_json(),
            "budget_ms": self.budget_ms,
            "met": self.met,
            "used": self.used,
            "verdict": self.verdict,
            "unjudged": self.unjudged,
            "ratio": self.ratio,
            "ratio_iqr": self.ratio_iqr,
            "foreign_cores": self.foreign_cores,
            "speedup": self.speedup,
            "predicted_ms": self.predicted_ms,
            "gap": self.gap,
            "solver": self.plan.solver,
            "criterion": self.plan.criterion,
            "dense": self.dense.to_json(),
            "small": self.small.to_json(),
            "widths": {name: list(pair) for name, pair in self.widths.items()},
            "layers": {
                name: {
                    "in_channels": [before.in_channels, after.in_channels if after else 0],
                    "out_channels": [before.out_channels, after.out_channels if after else 0],
                }
                for name, (before, after) in self.layers.items()
            },
            "removed": [
                branch.name for branch in self.graph.branches if branch.is_removed(self.plan.widths)
            ],
            "frozen": [
                {"where": frozen.where, "channels": frozen.channels, "reason": frozen.reason}
                for frozen in self.graph.frozen
            ],
        }

    def __repr__(self) -> str:
        return (
            f"<Report: takes {self.used:.1%} of its budget of {self.budget}, "
            f"{self.small.latency.median_ms:.4g} of {self.dense.latency.median_ms:.4g} ms>"
        )

    def __str__(self) -> str:
        return summary(self)

    def _why_not_met(self) -> str:
        if self.used - 1 <= self.spread:
            return (
                f"The miss is within the spread of the measurement (interquartile range "
                f"{_percent(self.spread)}): check again on a quieter machine."
            )
        return (
            f"The miss is beyond the spread of the measurement (interquartile range "
            f"{_percent(self.spread)}); {self.predicted_ms:.3f} ms were predicted. Plan again "
            f"with a smaller budget."
        )

    def _why_under_used(self) -> str:
        if all(before == after for before, after in self.widths.values()):
            return "Nothing was cut: the dense network fits."
        if UNDER_USED - self.used <= self.spread:
            return (
                f"The spread of the measurement (interquartile range {_percent(self.spread)}) is "
                f"as large as what is missing: check again on a quieter machine."
            )
        if math.isclose(self.plan.value, self.plan.dense_value):
            return (
                f"By their scores ({self.plan.criterion}) the channels that went are worth "
                "nothing. If that cannot be, score a trained network, on more data, or by another "
                "criterion."
            )
        predicted = f"{self.predicted_ms:.3f} ms were predicted"
        if self.predicted_ms < UNDER_USED * self.plan.budget_ms and self.gap < PROVEN:
            return f"{predicted}, and no network that keeps more was predicted to fit."
        return f"{predicted}: a new plan could keep more channels."


def check(
    dense: nn.Module,
    small: nn.Module,
    plan: Plan,
    example: Inputs,
    *,
    graph: PruningGraph,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    calibration: Iterable[Inputs] | None = None,
    comparison: Comparison | None = None,
    device: Device = HERE,
    ready: Ready | None = None,
) -> Report:
    """Measure a pruned network beside the dense one, interleaved, on the plan's target.

    Args:
        dense: The network that `graph` was traced from.
        small: What `plan` made of it.
        plan: Says the target and the budget.
        example: An input of both.
        graph: The dense network's. Groups of it that the plan does not name, as those of layers
            that had to stay when it was made, count as whole.
        evaluate: Judges a network, in eval mode: shares in [0, 1] by the metric's name. Where the
            target does not run in fp32 it also judges what ships, called like a module; an empty
            result means not judged.
        calibration: For a target in int8: batches of inputs like `example`, of any number of
            samples, without labels. Without them what ships is not judged.
        comparison: Times of the two, where they were taken already.
        device: Where to measure.
        ready: What `prepare` made of the dense network, where somebody has it already: exporting
            or compiling it takes as long as the pruned one.

    Raises:
        ModelMismatch: If the plan is not one for the graph, before anything is measured.
        CannotQuantise: If the target runs in int8 and the quantiser fails on the network.
        MissingExtra: If the target's runtime is not installed.
        DeviceError: If the device fails.
    """
    plan = _of_all_groups(plan, graph)
    batches = list(calibration or ())
    if comparison is None:
        comparison = compare(
            dense if ready is None else ready,
            small,
            example,
            plan.target,
            enough=partial(_decided, plan.budget),
            tolerance=KNOWN,
            limit_s=CHECK_LIMIT_S,
            openings=OPENINGS,
            device=device,
            cut=CutName(graph.key, plan.widths),
        )

    def facts(model: nn.Module, latency: Measurement, widths: Mapping[str, int]) -> Facts:
        with evaluating(model):  # batch norms would learn from what they are shown
            accuracy = as_numbers(evaluate(model)) if evaluate is not None else {}
        shipped = as_shipped(model, example, plan.target, batches) if accuracy else None
        return Facts(
            latency,
            parameters(model),
            network_macs(graph, widths),
            accuracy,
            {} if shipped is None or evaluate is None else as_numbers(evaluate(shipped)),
        )

    return Report(
        plan=plan,
        graph=graph,
        dense=facts(dense, comparison.dense, graph.widths),
        small=facts(small, comparison.small, plan.widths),
        ratio=comparison.ratio,
        ratio_iqr=comparison.ratio_iqr,
        foreign_cores=comparison.foreign_cores,
    )


def _of_all_groups(plan: Plan, graph: PruningGraph) -> Plan:
    """Give a plan with the graph's groups that it does not name as whole ones.

    Raises:
        ModelMismatch: If it is not one for the graph.
    """
    whole = {group.name: tuple(range(group.channels)) for group in graph.groups}
    full = replace(plan, kept={**whole, **plan.kept})
    foreign = plan.kept.keys() - whole.keys()
    if foreign:
        raise ModelMismatch(
            f"the plan cuts {min(foreign)}, which has to stay in the graph: trace the network as "
            f"it was traced to be pruned, or check another"
        )
    larger = (name for name, kept in plan.kept.items() if not set(kept) <= set(whole[name]))
    if name := next(larger, None):
        raise ModelMismatch(f"the plan is for a network with more channels in {name}")
    if not graph.allows(full.widths):
        gone = ", ".join(name for name, width in plan.widths.items() if not width)
        raise ModelMismatch(
            f"the plan keeps no channels of {gone}, which the graph does not allow: trace the "
            f"network with branches=True, or check another"
            if gone
            else "the plan keeps widths that the graph does not allow: it is another network's"
        )
    return full


def _decided(budget: Budget, compared: Comparison) -> bool:
    """Whether it is clear that a budget is met and used, or is not, or all is known exactly."""
    used = budget.used(ratio=compared.ratio, ms=compared.small.median_ms)
    error = compared.ratio_error / compared.ratio
    clear = min(abs(used - UNDER_USED), abs(used - 1)) >= 4 * error * used
    return clear or error <= KNOWN


def _taken(report: Report) -> str:
    """Say in the budget's own unit what the pruned network takes."""
    if report.budget.fraction is None:
        return f"{report.small.latency.median_ms:.3f} ms"
    return f"{_percent(report.ratio)} of the dense network's time"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
