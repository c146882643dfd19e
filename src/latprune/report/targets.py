"""A pruned network beside the dense one on every target that its plan was made for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from latprune.report.comparison import UNDER_USED, check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.graph.groups import PruningGraph
    from latprune.latency.devices import Device, Ready
    from latprune.latency.target import Target
    from latprune.planning import Plan
    from latprune.report.comparison import Report


def check_everywhere(
    dense: nn.Module,
    small: nn.Module,
    plan: Plan,
    example: Tensor | tuple[Tensor, ...],
    *,
    graph: PruningGraph,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
    calibration: Sequence[Tensor],
    device: Device,
    ready: Mapping[Target, Ready] | None = None,
) -> tuple[Report, ...]:
    """Measure both networks on all targets of a plan; judge them on the first, and in int8.

    Args and errors are those of `check`; the dense network may be ready on any of the targets.

    Returns:
        A report per target, the plan's own first.
    """
    reports = [
        check(
            dense,
            small,
            promised,
            example,
            graph=graph,
            evaluate=evaluate if promised is plan or promised.target.precision == "int8" else None,
            calibration=calibration,
            device=device,
            ready=(ready or {}).get(promised.target),
        )
        for promised in (plan, *map(plan.on, plan.also))
    ]
    return tuple(_explained(report, max(reports, key=_used)) for report in reports)


def _explained(report: Report, tightest: Report) -> Report:
    """Say of a budget that is not used up which other one is."""
    if report is tightest or not report.met or report.used >= UNDER_USED:
        return report
    setting = tightest.target
    return replace(
        report,
        remark=f"Tighter is the budget of {tightest.budget} in {setting.runtime}, "
        f"{setting.precision}, {setting.threads} thread{'s' if setting.threads > 1 else ''}.",
    )


def _used(report: Report) -> float:
    return report.used
