"""What removing whole residual branches does to accuracy before tuning, at the same latency.

    python -m benchmarks.branches [--case NAME] [--budget 50%] ...

Published networks are planned twice, with and without branches that may go, from the same scores
and the same table, cut, their batch norms re-estimated, and judged on pictures of ImageNet's
validation set. Latencies are those predicted. Results go to `benchmarks/results/branches.json`;
what is there already is kept. Data and weights come from the folder that LATPRUNE_DATA names.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.subjects import Subject, subject

import latprune as lp
from benchmarks._result import origin
from latprune.errors import BudgetTooSmall
from latprune.saliency import scored
from latprune.tuning import distillation

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results" / "branches.json"
IMAGES = {"score_images": 128, "calibration_images": 256, "held_out_images": 0, "batch_size": 32}
CASES = {
    "lite0": ("efficientnet_lite0", {**IMAGES, "test_images": 500}),
    "resnet50": ("resnet50", {**IMAGES, "test_images": 500}),
    "resnet56": (
        "cifar_resnet56",
        {**IMAGES, "score_images": 1024, "calibration_images": 1024, "test_images": 2000},
    ),
}
CRITERIA = ("relative_gauss_newton", "relative_fisher", "taylor", "fisher")


def compare(case: str, criteria: Sequence[str], budgets: Sequence[str]) -> None:
    """Judge both networks of every budget and criterion."""
    name, settings = CASES[case]
    found = subject(name, settings, seed=0)
    graph = lp.trace(found.model, found.example, branches=True)
    target = lp.Target.here(runtime="onnxruntime")
    table = lp.measure(found.model, graph, found.example, target)
    made = origin("branches", "torch", "timm", "onnxruntime") | {"target": target.describe()}
    keep(case, "dense", {"branches": len(graph.branches), **found.judge(found.model), **made})
    graphs = {"branches": graph, "channels": lp.trace(found.model, found.example)}
    for criterion in criteria:
        for what, allowed in graphs.items():
            saliency = scored(
                criterion,
                found.model,
                allowed,
                found.scoring,
                lp.cross_entropy,
                distil=distillation,
            )
            for budget in budgets:
                facts = planned_and_judged(found, allowed, table, saliency, budget)
                keep(case, f"{budget} {criterion} {what}", facts)


def planned_and_judged(
    found: Subject,
    graph: lp.PruningGraph,
    table: lp.LatencyTable,
    saliency: lp.Saliency,
    budget: str,
) -> dict[str, Any]:
    """Plan for a budget, and judge the network."""
    try:
        planned = lp.plan(graph, table, saliency, lp.Budget.parse(budget))
    except BudgetTooSmall as error:
        return {"impossible": str(error)}
    facts = told(graph, planned)
    if graph.branches and not facts["removed"]:
        return facts  # the network is the other one
    return facts | judged(found, graph, planned)


def judged(found: Subject, graph: lp.PruningGraph, planned: lp.Plan) -> dict[str, float]:
    """Cut a network, re-estimate its batch norms, and judge it."""
    small = lp.cut(found.model, graph, planned)
    lp.recalibrate(small, found.calibration)
    return found.judge(small)


def told(graph: lp.PruningGraph, planned: lp.Plan) -> dict[str, Any]:
    """Say what was planned."""
    removed = [branch.name for branch in graph.branches if branch.is_removed(planned.widths)]
    return {
        "removed": removed,
        "predicted_ms": round(planned.predicted_ms, 3),
        "saliency_kept": round(planned.value / planned.dense_value, 5),
        "gap": planned.gap,
    }


def keep(case: str, row: str, facts: dict[str, Any]) -> None:
    """Write a row to the results."""
    document = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in facts.items()}
    document.setdefault(case, {})[row] = rounded
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(case, row, rounded, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--budget", action="append")
    parser.add_argument("--criterion", choices=CRITERIA, action="append")
    asked = parser.parse_args()
    for case in asked.case or CASES:
        compare(case, asked.criterion or list(CRITERIA), asked.budget or ["70%", "50%"])


if __name__ == "__main__":
    main()
