"""Does it pay to prune for int8 itself, instead of pruning for fp32 and quantising afterwards?

    python -m benchmarks.int8 [--networks resnet50,mobilenet_v2] [--budget 60%] [--input 3x224x224]
                              [--json FILE]

Every network is fitted twice to the same share of its dense time: in int8, and in fp32. Then the
dense network, both pruned ones, all quantised, are timed in turns in int8. ONNX Runtime, batch 1,
one thread; weights are random and seeded, since they do not change the time; channels are scored
by magnitude.

The share of int8 time that each takes says whether the budget holds where the network runs. Which
of the two *chose* better is told twice. By the clock: a third network is fitted to the int8 time
that the one pruned for fp32 takes, and timed in turns with it; since the times are only about
equal, what a millisecond is worth by the plan (its price) makes up for the difference. By the
tables: the plan for int8 whose layers take as long as those of the plan for fp32, both in int8; the
choice being optimal, that is all that knowing int8 can bring. How alike both precisions' costs are
is told by the dense network's layers: the quartiles of their times in int8 over those in fp32.

Exits 1 if the network pruned for int8 misses its budget, or if at the other's int8 time the plan
for int8 keeps less saliency than the one for fp32 by more than two standard errors of the times.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import latprune as lp
from benchmarks._result import origin, verdict, write
from benchmarks.budget import build
from latprune.fitting import AIM, refine
from latprune.latency.comparing import Ratios, diff
from latprune.latency.measuring import prepare
from latprune.latency.timing import Comparison, clock_for, time_interleaved

SEED = 0
LOWEST, HIGHEST = 0.97, 1.00
SURE = 0.002
TIMED_S = 30.0


def main() -> int:
    arguments = _arguments()
    budget = lp.Budget.parse(arguments.budget)
    size = tuple(map(int, arguments.input.split("x")))
    cases = [run_network(name, budget, size) for name in arguments.networks.split(",")]
    target = lp.Target.here("onnxruntime", precision="int8").to_json()
    made = origin("int8", "torch", "onnxruntime")
    write(arguments.json, {**made, "target": target, "seed": SEED, "cases": cases})
    return verdict([bar for case in cases for bar in case["missed"]])


@dataclass(frozen=True, eq=False)
class Work:
    """A network, and what its channels are worth."""

    model: nn.Module
    graph: lp.PruningGraph
    example: torch.Tensor
    saliency: lp.Saliency
    folder: Path
    opened: dict[tuple[nn.Module, lp.Target], Any] = field(default_factory=dict)

    def ready(self, model: nn.Module, target: lp.Target) -> Any:
        """Make a network ready once: in int8 that takes many seconds."""
        key = model, target
        if key not in self.opened:
            self.opened[key] = prepare(model, self.example, target)
        return self.opened[key]

    def fit(self, precision: str, budget: lp.Budget) -> lp.Fitted:
        target = lp.Target.here("onnxruntime", precision=precision)
        dense = self.ready(self.model, target)
        table = lp.measure(
            self.model, self.graph, self.example, target, folder=self.folder, ready=dense
        )
        return lp.fit(
            self.model,
            self.graph,
            self.example,
            table,
            self.saliency,
            budget,
            folder=self.folder,
            ready={target: dense},
        )

    def in_turns(self, *models: nn.Module) -> list[Comparison]:
        """Time networks in int8, all in turns; compare each with the first."""
        target = lp.Target.here("onnxruntime", precision="int8")
        dense, *others = time_interleaved(
            [self.ready(model, target) for model in models],
            clock=clock_for(target.threads),
            limit_s=TIMED_S,
            enough=lambda found: len(found[0]) % 10 == 0 and _all_known(found),
        )
        return [Comparison.of(dense, times_ms) for times_ms in others]

    def by_tables(self, for_fp32: lp.Plan) -> dict[str, Any]:
        """Plan for int8 what takes as long there, layer by layer, as a plan for fp32 does."""
        target = lp.Target.here("onnxruntime", precision="int8")
        network, widths = (self.model, self.graph, self.example), for_fp32.widths
        fp32 = lp.measure(*network, for_fp32.target, folder=self.folder)
        table = lp.measure(*network, target, widths=widths, folder=self.folder)
        layers_ms = table.layers_ms(self.graph, widths)
        plan, table = refine(
            *network,
            table,
            self.saliency,
            lp.Budget(ms=layers_ms),
            rest_ms=0.0,
            folder=self.folder,
        )
        dense = {layer.shape for layer in self.graph.layers}
        pairs = [pair for pair in diff(fp32, table).layers if pair.what in dense]
        return {
            "layers_ms": layers_ms,
            "for_int8": plan.value / plan.dense_value,
            "for_fp32": for_fp32.value / for_fp32.dense_value,
            "layers_int8_to_fp32": Ratios.of(pairs).to_json(),
        }


def run_network(name: str, budget: lp.Budget, size: tuple[int, ...]) -> dict[str, Any]:
    torch.manual_seed(SEED)
    model, example = build(name).eval(), torch.randn(1, *size)
    graph = lp.trace(model, example)
    saliency = lp.magnitude(model, graph)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(model, graph, example, saliency, Path(folder))
        for_int8, for_fp32 = (work.fit(precision, budget) for precision in ("int8", "fp32"))
        int8, fp32 = work.in_turns(model, for_int8.model, for_fp32.model)
        equal = work.fit("int8", lp.Budget(fraction=min(fp32.ratio / AIM, 1.0)))
        equal_time, again = work.in_turns(model, equal.model, for_fp32.model)
        by_tables = work.by_tables(for_fp32.plan)
    case = _case(name, budget, {"int8": (for_int8, int8), "fp32": (for_fp32, fp32)})
    price = equal.plan.price_ms * equal_time.dense.median_ms / equal.plan.dense_value
    behind = _kept(for_fp32) - _kept(equal) - price * (again.ratio - equal_time.ratio)
    case["at_equal_time"] = {
        "for_int8": {**_share(equal_time), "saliency": _kept(equal)},
        "for_fp32": {**_share(again), "saliency": _kept(for_fp32)},
        "saliency_per_share_of_time": price,
        "saliency_that_int8_is_behind": behind,
        "error": price * math.hypot(equal_time.ratio_error, again.ratio_error),
    }
    case["by_tables"] = by_tables
    case["missed"] = _missed(case, budget)
    print("\n".join(_lines(case)), flush=True)
    return case


def _all_known(samples: list[list[float]]) -> bool:
    dense, *others = samples
    found = [Comparison.of(dense, times_ms) for times_ms in others]
    return sum(dense) >= 1500 and all(one.ratio_error <= SURE * one.ratio for one in found)


def _case(
    name: str, budget: lp.Budget, fitted: dict[str, tuple[lp.Fitted, Comparison]]
) -> dict[str, Any]:
    case: dict[str, Any] = {"network": name, "budget": str(budget)}
    for precision, (found, timed) in fitted.items():
        case[f"for_{precision}"] = {
            **_share(timed),
            "dense_ms": timed.dense.to_json(),
            "small_ms": timed.small.to_json(),
            "used_where_it_was_fitted": found.used,
            "saliency": _kept(found),
            "gap": found.plan.gap,
            "rounds": found.rounds,
        }
    return case


def _share(timed: Comparison) -> dict[str, float]:
    return {
        "share_in_int8": timed.ratio,
        "share_iqr": timed.ratio_iqr,
        "share_error": timed.ratio_error,
    }


def _kept(fitted: lp.Fitted) -> float:
    return fitted.plan.value / fitted.plan.dense_value


def _missed(case: dict[str, Any], budget: lp.Budget) -> list[str]:
    missed = []
    assert budget.fraction is not None
    used = case["for_int8"]["share_in_int8"] / budget.fraction
    if not LOWEST <= used <= HIGHEST:
        missed.append(f"{case['network']}: {used:.3f} of the budget in int8")
    equal = case["at_equal_time"]
    if equal["saliency_that_int8_is_behind"] > 2 * equal["error"]:
        missed.append(
            f"{case['network']}: at equal int8 time the plan for int8 keeps "
            f"{equal['saliency_that_int8_is_behind']:.2%} (± {equal['error']:.2%}) less saliency "
            "than the one for fp32"
        )
    return missed


def _lines(case: dict[str, Any]) -> list[str]:
    dense_ms = case["for_int8"]["dense_ms"]["median_ms"]
    lines = [f"{case['network']} to {case['budget']}, in int8: dense {dense_ms:.2f} ms"]
    for precision in ("int8", "fp32"):
        found = case[f"for_{precision}"]
        lines.append(
            f"  pruned for {precision}: {found['small_ms']['median_ms']:.2f} ms, {_spread(found)}, "
            f"saliency {found['saliency']:.2%}"
        )
    one, other = (case["at_equal_time"][f"for_{precision}"] for precision in ("int8", "fp32"))
    lines.append(
        f"  at equal time: for int8 {_spread(one)}, saliency {one['saliency']:.2%}; "
        f"for fp32 {_spread(other)}, saliency {other['saliency']:.2%}; the one for int8 is "
        f"{-case['at_equal_time']['saliency_that_int8_is_behind']:+.2%} ahead "
        f"(± {case['at_equal_time']['error']:.2%})"
    )
    tables, layers = case["by_tables"], case["by_tables"]["layers_int8_to_fp32"]
    lines.append(
        f"  by the tables, layers of {tables['layers_ms']:.2f} ms in int8: saliency "
        f"{tables['for_int8']:.2%} for int8, {tables['for_fp32']:.2%} for fp32; the dense layers "
        f"take {layers['median']:.2f} of their time in fp32 (quartiles {layers['low']:.2f} to "
        f"{layers['high']:.2f})"
    )
    return lines


def _spread(found: dict[str, float]) -> str:
    return (
        f"{found['share_in_int8']:.2%} of dense (IQR {found['share_iqr']:.2%}, "
        f"± {found['share_error']:.2%})"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default="resnet50,mobilenet_v2", help="of torchvision")
    parser.add_argument("--budget", default="60%", help="a share of the dense network's time")
    parser.add_argument("--input", default="3x224x224", help="channels, height and width")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
