"""What residual branches cost one by one, added up, and what they cost when they go together.

    python -m benchmarks.together [--case resnet56 …] [--json FILE]

Of a published network branches are masked, one after the other: those first that cost least by
themselves, and in the order of `price_branches`, found on a quarter of the pictures. What they cost
is how far its answers move (T² KL at temperature 2, in nats, batch norms using the statistics of
the batch), on all pictures. Data and weights come from the folder that LATPRUNE_DATA names.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from studies.subjects import to_score

import latprune as lp
from benchmarks._result import origin, write
from latprune.saliency.branches import FEW, IMAGES, TEMPERATURE, enough, in_turn, loss_without
from latprune.saliency.masking import MaskedTrial
from latprune.tuning import distillation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.graph.groups import Branch

SEED = 0
STEP = 5  # branches
ORDERS = ("cheapest first", "in turn")
CASES = {
    "resnet56": ("cifar_resnet56", 64),
    "lite0": ("efficientnet_lite0", 32),
    "resnet50": ("resnet50", 32),
}


def compare(case: str) -> dict[str, Any]:
    """Mask a network's branches in both orders."""
    name, batch = CASES[case]
    found = to_score(name, images=IMAGES, batch_size=batch, seed=SEED)
    graph = lp.trace(found.model, found.example, branches=True)
    samples = enough(found.scoring, IMAGES)
    trial = MaskedTrial.of(found.model, samples, lp.cross_entropy)
    trial = trial.against_itself(partial(distillation, temperature=TEMPERATURE))
    few = trial.on(enough(trial.samples, IMAGES // FEW))

    def together(order: Sequence[Branch]) -> list[float]:
        counts = range(1, len(order) + 1)
        return [loss_without(order[:count], graph, trial) for count in counts]

    alone = {branch: loss_without([branch], graph, trial) for branch in graph.branches}
    cheapest = sorted(alone, key=lambda branch: alone[branch])
    singly = {branch: loss_without([branch], graph, few) for branch in graph.branches}
    turns = [branch for branch, _ in in_turn(graph, few, 0.0, singly)]
    rows: dict[str, Any] = {"images": sum(len(inputs) for inputs, _ in samples)}
    for what, order in zip(ORDERS, (cheapest, turns), strict=True):
        rows[what] = {
            "branches": [branch.name for branch in order],
            "added_up": list(accumulate(alone[branch] for branch in order)),
            "together": together(order),
        }
    return rows


def tell(what: str, branches: Sequence[str], added_up: list[float], together: list[float]) -> None:
    """Say what every so many branches cost."""
    for count in range(STEP, len(branches) + 1, STEP):
        costs = f"{added_up[count - 1]:.2f} added up, {together[count - 1]:.2f} together"
        print(f"{what}: {count} of {len(branches)} branches cost {costs}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = {**origin("together", "torch", "timm"), "device": lp.Target.here("eager").device}
    found = {}
    for case in arguments.case:
        found[case] = compare(case)
        for order in ORDERS:
            tell(f"{case}, {order}", **found[case][order])
        write(arguments.json, {**made, "seed": SEED, "cases": found})


if __name__ == "__main__":
    main()
