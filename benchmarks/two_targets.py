"""One network, two budgets at once: on one thread and on two threads of this machine.

    python -m benchmarks.two_targets [--network resnet50] [--one 60%] [--two 65%] [--json FILE]

Fits the network to both budgets in ONNX Runtime, batch 1, 224 x 224, and times it anew on both
targets beside the dense network; then to each budget by itself, to see what the other one costs in
saliency. Weights are random and seeded, since they do not change the time.

Exits 1 if a budget is not met, or if neither is used to 0.97 of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import latprune as lp
from benchmarks._result import origin, write
from benchmarks.budget import build

SEED = 0
LOWEST = 0.97


def main() -> int:
    arguments = _arguments()
    torch.manual_seed(SEED)
    model, example = build(arguments.network).eval(), torch.randn(1, 3, 224, 224)
    budgets = [lp.Budget.parse(text) for text in (arguments.one, arguments.two)]
    targets = [lp.Target.here("onnxruntime", batch=1, threads=threads) for threads in (1, 2)]
    both, alone = fitted(model, example, dict(zip(targets, budgets, strict=True)))
    cases = [
        _case(
            target, budget, lp.compare(model, both.model, example, target, limit_s=32, openings=8)
        )
        for target, budget in zip(targets, budgets, strict=True)
    ]
    kept, kept_alone = _kept(both.plan), list(map(_kept, alone))
    for case, share in zip(cases, kept_alone, strict=True):
        print(f"{_line(case)}; saliency {share:.2%} for this budget alone")
    print(f"saliency {kept:.2%} for both at once, proven gap {both.plan.gap:.4%}")
    found = {
        **origin("two_targets", "torch"),
        "network": arguments.network,
        "seed": SEED,
        "cases": cases,
        "saliency": kept,
        "saliency_alone": kept_alone,
        "gap": both.plan.gap,
        "rounds": both.rounds,
    }
    write(arguments.json, found)
    used = [case["used"] for case in cases]
    return 0 if LOWEST <= max(used) <= 1 else 1


def fitted(
    model: torch.nn.Module, example: torch.Tensor, budgets: dict[lp.Target, lp.Budget]
) -> tuple[lp.Fitted, list[lp.Plan]]:
    """Fit a network to both budgets; plan for each by itself, with the rest that was found."""
    graph = lp.trace(model, example)
    saliency = lp.magnitude(model, graph)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, *also = (
            lp.Demand(lp.measure(model, graph, example, target, folder=folder), budget)
            for target, budget in budgets.items()
        )
        network = (model, graph, example)
        both = lp.fit(*network, first.table, saliency, first.budget, also=also, folder=folder)
    rests_ms = [both.plan.rest_ms, *(promise.rest_ms for promise in both.plan.also)]
    alone = [
        lp.plan(graph, demand.table, saliency, demand.budget, rest_ms=rest_ms)
        for demand, rest_ms in zip([first, *also], rests_ms, strict=True)
    ]
    return both, alone


def _case(target: lp.Target, budget: lp.Budget, found: Any) -> dict[str, Any]:
    assert budget.fraction is not None
    return {
        "target": target.to_json(),
        "budget": str(budget),
        "dense_ms": found.dense.to_json(),
        "small_ms": found.small.to_json(),
        "ratio": found.ratio,
        "used": found.ratio / budget.fraction,
        "error": found.ratio_error / budget.fraction,
    }


def _kept(plan: lp.Plan) -> float:
    return plan.value / plan.dense_value


def _line(case: dict[str, Any]) -> str:
    return (
        f"{case['target']['threads']} threads, {case['budget']}: "
        f"{case['dense_ms']['median_ms']:.2f} → {case['small_ms']['median_ms']:.2f} ms, "
        f"{case['used']:.3f} of the budget (± {case['error']:.3f})"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="resnet50", help="of torchvision")
    parser.add_argument("--one", default="60%", help="the budget on one thread")
    parser.add_argument("--two", default="65%", help="the budget on two threads")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
