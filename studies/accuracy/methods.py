"""Who chooses the widths: each way gives a network that was measured to be within the budget.

A way is a function of the bench, the method's settings in `config.json` and a budget.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

import latprune as lp
from latprune import knapsack
from latprune.batches import last
from latprune.errors import BudgetTooSmall
from latprune.fitting import AIM, refine
from latprune.knapsack.greedy import greedy
from latprune.knapsack.halp import halp
from latprune.reranking import mean_loss
from latprune.trial import Trial
from studies import cifar_resnet, cifar_resnet18
from studies.accuracy import lessons
from studies.accuracy.counting import Counter
from studies.accuracy.networks import load_network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from latprune.knapsack import Solver
    from latprune.latency.timing import Comparison
    from studies.accuracy.bench import Bench

Stages = tuple[int, ...]
SOLVERS: Mapping[str, Solver] = {
    "joint": knapsack.joint,
    "halp": halp,
    "greedy": greedy,
    "uniform": knapsack.uniform,
}
BUILT: Mapping[str, tuple[Stages, Callable[[Stages], nn.Module]]] = {  # of any widths
    "cifar_resnet18": (cifar_resnet18.STAGES, cifar_resnet18.resnet18),
    "cifar_resnet56": (cifar_resnet.STAGES, cifar_resnet.resnet56),
}
NOT_CALIBRATED = ("scratch", "another", "trial", "gradual")  # new, calibrated before, or dense
HALVINGS = 6  # of a range of MACs
RECONSTRUCTED_ON = 128  # pictures of those that score


@dataclass(frozen=True)
class Made:
    """A network, not tuned yet.

    Attributes:
        model: The network.
        facts: How it was found, as JSON values.
    """

    model: nn.Module
    facts: dict[str, Any] = field(default_factory=dict)


def make(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> Made:
    """Make a method's network.

    Raises:
        BudgetTooSmall: If the method has none within the budget.
    """
    made = WAYS[settings["by"]](bench, settings, budget)
    if settings["by"] not in NOT_CALIBRATED:
        bench.recalibrated(made.model)
    return made


def by_latprune(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> Made:
    """The product: plan, time the network, correct, plan again."""
    graph, saliency = bench.graph_for(settings), bench.saliency(settings)
    fitted = lp.fit(
        bench.dense,
        graph,
        bench.example,
        bench.table_for(graph),
        saliency,
        budget,
        solver=SOLVERS[settings["solver"]],
        folder=bench.runs,
    )
    return Made(fitted.model, {"used": fitted.used, **_of(fitted.plan)})


def by_open_loop(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> Made:
    """The same without timing a network: the sum of the layers is believed."""
    plan = _by_tables(bench, settings, budget)
    return Made(lp.cut(bench.dense, bench.graph_for(settings), plan), _of(plan))


def _by_tables(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> lp.Plan:
    graph, saliency = bench.graph_for(settings), bench.saliency(settings)
    plan, _ = refine(
        bench.dense,
        graph,
        bench.example,
        bench.table_for(graph),
        saliency,
        budget,
        solver=SOLVERS[settings["solver"]],
        aim=AIM,
        folder=bench.runs,
    )
    return plan


def by_macs(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> Made:
    """Widths by multiply-accumulates: the largest share of them that is quick enough."""
    graph = bench.graph_for(settings)
    table = lp.measure(bench.dense, graph, bench.example, bench.target, device=Counter(graph))
    saliency = bench.saliency(settings)

    def cut(share: float) -> Made:
        plan = lp.plan(graph, table, saliency, lp.Budget(fraction=share))
        return Made(lp.cut(bench.dense, graph, plan), {"macs_share": share, **_of(plan)})

    low, high, best = 0.0, 1.0, None
    for _ in range(HALVINGS):
        share = (low + high) / 2
        try:
            tried = cut(share)
        except BudgetTooSmall:
            low = share
            continue
        if budget.used(ratio=bench.compare(tried.model).ratio, ms=0.0) <= 1:
            low, best = share, tried
        else:
            high = share
    if best is None:
        raise BudgetTooSmall(budget.in_ms(1.0), high)
    return best


def by_torch_pruning(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> Made:
    """Torch-Pruning, told to remove more and more until the measured time is within the budget."""
    del settings
    ordered = sorted(bench.others, key=lambda candidate: (-candidate.most, candidate.ratio))
    chosen = ordered[first_within(bench, [one.model for one in ordered], budget)]
    facts = {"ratio_told": chosen.ratio, "most": chosen.most, "candidates": len(ordered)}
    return Made(copy.deepcopy(chosen.model), facts)


def by_scratch(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> Made:
    """One width factor for the whole network, and new weights."""
    torch.manual_seed(bench.seed)
    dense, build = BUILT[bench.config["network"]]
    stages = narrower(dense, settings["multiple"], factors=settings.get("factors", 8))
    models = [build(each).eval() for each in stages]
    found = largest_within(bench, models, budget)
    return Made(models[found], {"stages": list(stages[found])})


def by_another(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> Made:
    """The very network of another method, cut before: what differs is how it is tuned."""
    path = bench.path("cut", settings["method"], str(budget))
    return Made(load_network(path), {"network_of": settings["method"]})


def by_reconstruction(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> Made:
    """The very network of another method, whoever cut it, with its layers reconstructed."""
    other = settings["method"]
    small = load_network(bench.path("cut", other, str(budget)))
    graph = bench.graph_for(bench.config["methods"][other])
    kept = lp.kept_channels(graph, bench.dense, small)
    lp.reconstruct(small, bench.dense, graph, kept, bench.subject.scoring, images=RECONSTRUCTED_ON)
    widths = {group: len(channels) for group, channels in kept.items()}
    return Made(small, {"network_of": other, "widths": widths})


def by_trial(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> Made:
    """Of other methods' networks, cut before, the one that is best after some steps of tuning."""
    recipe = lp.Recipe(**{**bench.config["recipe"], "seed": bench.seed})
    loss = partial(lessons.loss, recipe=recipe)
    loader = lessons.batches(bench.lessons, batch_size=bench.config["batch_size"])
    held_out = settings["held_out_batches"]
    tune = Trial(settings["steps"], recipe, loss).tuner(
        bench.dense, loader, held_out=held_out, seed=bench.seed, progress=lambda _: None
    )
    tried: dict[str, dict[str, float]] = {}
    for method in settings["of"]:
        model = load_network(bench.path("cut", method, str(budget)))
        tried[method] = {"as_cut": _held_out(model, loader, held_out, bench.seed)}
        tune(model)
        tried[method]["on_trial"] = _held_out(model, loader, held_out, bench.seed)
    chosen = min(tried, key=lambda method: tried[method]["on_trial"])
    model = load_network(bench.path("cut", chosen, str(budget)))
    return Made(model, {"network_of": chosen, "tried": tried})


def by_training(bench: Bench, settings: Mapping[str, Any], budget: lp.Budget) -> Made:
    """Gradual pruning begins with the dense network."""
    del settings, budget
    return Made(copy.deepcopy(bench.dense))


WAYS: Mapping[str, Callable[[Bench, Mapping[str, Any], lp.Budget], Made]] = {
    "latprune": by_latprune,
    "open_loop": by_open_loop,
    "macs": by_macs,
    "torch_pruning": by_torch_pruning,
    "reconstructed": by_reconstruction,
    "scratch": by_scratch,
    "another": by_another,
    "trial": by_trial,
    "gradual": by_training,
}


def narrower(dense: Stages, multiple: int, *, factors: int) -> list[Stages]:
    """Give the stages' widths at every factor, in multiples, the narrowest first."""
    found: dict[Stages, None] = {}
    for factor in range(1, factors + 1):
        widths = (width * factor // factors // multiple * multiple for width in dense)
        found[tuple(max(multiple, width) for width in widths)] = None
    return list(found)


def largest_within(bench: Bench, models: Sequence[nn.Module], budget: lp.Budget) -> int:
    """Give the number of the last network within a budget; they are ordered, the quickest first.

    Raises:
        BudgetTooSmall: If the first one takes too long.
    """
    low, high = -1, len(models)
    times: dict[int, Comparison] = {}
    while high - low > 1:
        middle = (low + high) // 2
        times[middle] = bench.compare(models[middle])
        if budget.used(ratio=times[middle].ratio, ms=0.0) <= 1:
            low = middle
        else:
            high = middle
    if low < 0:
        dense_ms = times[0].dense.median_ms
        raise BudgetTooSmall(budget.in_ms(dense_ms), times[0].small.median_ms)
    return low


def first_within(bench: Bench, models: Sequence[nn.Module], budget: lp.Budget) -> int:
    """Give the number of the first network within a budget, whatever those behind it take.

    Raises:
        BudgetTooSmall: If all of them take too long.
    """
    tried = []
    for number, model in enumerate(models):
        tried.append(compared := bench.compare(model))
        if budget.used(ratio=compared.ratio, ms=0.0) <= 1:
            return number
    dense_ms = tried[0].dense.median_ms
    raise BudgetTooSmall(budget.in_ms(dense_ms), dense_ms * min(one.ratio for one in tried))


def _of(plan: lp.Plan) -> dict[str, Any]:
    return {
        "predicted_share": plan.predicted_ms / plan.baseline_ms,
        "value_share": plan.value / plan.dense_value,
        "gap": plan.gap,
        "widths": plan.widths,
    }


def _held_out(model: nn.Module, loader: DataLoader[Any], count: int, seed: int) -> float:
    """What `prune` decides by: the labels alone, whoever teaches."""
    return mean_loss(model, last(loader, count, seed=seed), _labelled)


def _labelled(outputs: Tensor, taught: Mapping[str, Tensor]) -> Tensor:
    return lp.cross_entropy(outputs, taught["labels"])
