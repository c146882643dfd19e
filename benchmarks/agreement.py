"""How far the scores that one half of the pictures give agree with those of the other.

    python -m benchmarks.agreement [--case resnet56 …] [--json FILE]

Published networks are scored twice, on pictures of which none is in both halves. Correlations are
Pearson's, between the channels of a group, the median and the tenth percentile over groups; sums
are those of whole groups, and how far they differ is the standard deviation of the logarithms of
their ratios. "Drawn" is `fisher` with labels that are drawn from the network's own answers. Data
and weights come from the folder that LATPRUNE_DATA names.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from studies.subjects import to_score

import latprune as lp
from benchmarks._result import origin, write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    Batches = Sequence[tuple[Tensor, Any]]
    Criterion = Callable[[nn.Module, lp.PruningGraph, Batches], lp.Saliency]

SEED = 0
FEW = 4  # channels, of which no correlation tells anything
CASES = {
    "resnet56": ("cifar_resnet56", 1024),
    "lite0": ("efficientnet_lite0", 256),
    "resnet50": ("resnet50", 256),
}


def drawn(temperature: float) -> Criterion:
    """Give `fisher` with labels that the network's own answers draw."""

    def score(model: nn.Module, graph: lp.PruningGraph, batches: Batches) -> lp.Saliency:
        generator = torch.Generator().manual_seed(0)

        def loss(logits: Tensor, _: Any) -> Tensor:
            scaled = logits / temperature
            answers = scaled.detach().softmax(dim=1)
            labels = torch.multinomial(answers, 1, generator=generator)[:, 0]
            return F.cross_entropy(scaled, labels) * temperature

        return lp.fisher(model, graph, batches, loss)

    return score


def labelled(criterion: Callable[..., lp.Saliency]) -> Criterion:
    """Give a criterion of the cross entropy."""
    return lambda model, graph, batches: criterion(model, graph, batches, lp.cross_entropy)


CRITERIA: dict[str, Criterion] = {
    "taylor": labelled(lp.taylor),
    "taylor_squared": labelled(lp.taylor_squared),
    "fisher": labelled(lp.fisher),
    "drawn, T = 1": drawn(1.0),
    "drawn, T = 2": drawn(2.0),
    "gauss_newton, T = 1": lambda m, g, b: lp.gauss_newton(m, g, b, temperature=1.0),
    "gauss_newton": lp.gauss_newton,
}


def agreement(first: lp.Saliency, second: lp.Saliency) -> dict[str, float]:
    """Compare two scorings of one network."""
    pairs = [(first.scores[name], second.scores[name]) for name in first.scores]
    alike = [np.corrcoef(a, b)[0, 1] for a, b in pairs if len(a) > FEW]
    ratios = [np.log(a.sum() / b.sum()) for a, b in pairs]
    return {
        "correlation": float(np.median(alike)),
        "correlation_low": float(np.percentile(alike, 10)),
        "sums_differ": float(np.std(ratios)),
    }


def compare(case: str) -> dict[str, Any]:
    """Score both halves by every criterion."""
    name, images = CASES[case]
    found = to_score(name, images=images, batch_size=32, seed=SEED)
    graph = lp.trace(found.model, found.example)
    batches = list(found.scoring)
    halves = batches[::2], batches[1::2]
    rows = {}
    for criterion, score in CRITERIA.items():
        began = time.perf_counter()
        rows[criterion] = agreement(*(score(found.model, graph, half) for half in halves))
        rows[criterion]["seconds"] = time.perf_counter() - began
        print(case, criterion, {k: round(v, 3) for k, v in rows[criterion].items()}, flush=True)
    return {"images": images, "groups": len(graph.groups), "criteria": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = {**origin("agreement", "torch", "timm"), "device": lp.Target.here("eager").device}
    found = {}
    for case in arguments.case:
        found[case] = compare(case)
        write(arguments.json, {**made, "seed": SEED, "cases": found})


if __name__ == "__main__":
    main()
