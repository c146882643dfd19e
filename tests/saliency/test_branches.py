"""What it costs that a branch is gone: what the loss rises by without it, in the values' unit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latprune.errors import DataError, NotFinite
from latprune.graph.removing import remove_branches
from latprune.graph.shortcuts import settle
from latprune.graph.slicing import slice_model
from latprune.graph.tracing import trace
from latprune.progress import Quiet
from latprune.saliency import (
    Saliency,
    branches,
    fisher,
    magnitude,
    price_branches,
    relative,
    scored,
)
from latprune.saliency.masking import MaskedTrial
from latprune.tuning import distillation
from tests import blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from latprune.graph.groups import Branch, PruningGraph

EXAMPLE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def answering() -> tuple[nn.Module, PruningGraph, list[tuple[Tensor, Tensor]]]:
    """Give a network with three branches, and batches whose labels are what it answers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = blocks.Residuals()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        inputs = torch.randn(3, 32, 3, 12, 12)
    model.train()
    batches = [(batch, model(batch).detach().argmax(dim=1)) for batch in inputs]
    return model.eval(), trace(model, EXAMPLE, branches=True), batches


MODEL, GRAPH, BATCHES = answering()
VALUES = relative(magnitude(MODEL, GRAPH), GRAPH)


Judged = Callable[[nn.Module, int], float]


@torch.no_grad()
def answers(model: nn.Module, count: int) -> list[Tensor]:
    """Give what a network answers to the first batches, its norms using their statistics."""
    model = copy.deepcopy(model).train()
    return [model(inputs) for inputs, _ in BATCHES[:count]]


def loss_of(small: nn.Module, count: int = 3) -> float:
    """Give a network's loss on the first batches."""
    labels = [labels for _, labels in BATCHES[:count]]
    return float(np.mean([*map(F.cross_entropy, answers(small, count), labels)]))


def distance_of(small: nn.Module, count: int = 3) -> float:
    """Give how far a network's answers are from the whole one's: 4 KL at temperature 2."""
    pairs = [
        [(logits / 2).log_softmax(dim=1) for logits in pair]
        for pair in zip(answers(MODEL, count), answers(small, count), strict=True)
    ]
    return float(np.mean([4 * (p.exp() * (p - q)).sum(dim=1).mean() for p, q in pairs]))


WHOLE = {group.name: list(range(group.channels)) for group in GRAPH.groups}


def without(branches: Iterable[Branch]) -> nn.Module:
    """Cut branches out of the network."""
    small = copy.deepcopy(MODEL)
    kept: dict[str, list[int]] = {name: [] for branch in branches for name in branch.groups}
    remove_branches(small, GRAPH.groups, GRAPH.branches, WHOLE | kept)
    settle(small)
    return small


def in_turn(judged: Judged, few: int) -> dict[Branch, float]:
    """Give what every branch costs by itself, and the more that it adds to those gone before it."""

    def worse(branches: Iterable[Branch], count: int) -> float:
        return judged(without(branches), count) - judged(MODEL, count)

    gone: list[Branch] = []
    prices, price = {}, 0.0
    while len(gone) < len(GRAPH.branches):
        left = [branch for branch in GRAPH.branches if branch not in gone]
        before = worse(gone, few)
        adds = {branch: worse([*gone, branch], few) - before for branch in left}
        branch = min(adds, key=lambda one: adds[one])
        more = max(adds[branch] - worse([branch], few), 0)
        price = max(price, max(worse([branch], 3), 0) + more)
        prices[branch] = price
        gone.append(branch)
    return prices


def costs(saliency: Saliency, graph: PruningGraph = GRAPH) -> list[float]:
    """Give what every branch costs, by its groups."""
    return [
        sum(float(saliency.values(name)[-1] - saliency.worth(name)[0]) for name in branch.groups)
        for branch in graph.branches
    ]


@pytest.mark.parametrize(
    ("distil", "judged", "few", "chance"),
    [(None, loss_of, 3, 0.5), (distillation, distance_of, 1, 0.0)],
)
def test_a_branch_costs_what_it_does_to_the_network_that_it_is_gone(
    distil: Any, judged: Judged, few: int, chance: float
) -> None:
    ratios = []
    for group in GRAPH.groups:
        if group.name in GRAPH.in_branches:
            continue
        ranked = VALUES.ranked(group.name)
        sums = VALUES.scores[group.name][ranked].cumsum()
        width = int((sums < sums[-1] / 2).sum()) + 1
        small = copy.deepcopy(MODEL)
        slice_model(small, GRAPH.groups, WHOLE | {group.name: sorted(ranked[:width].tolist())})
        values = VALUES.values(group.name)
        ratios.append((judged(small, 3) - judged(MODEL, 3)) / (values[-1] - values[width]))
    assert min(ratios) > 0

    found = costs(price_branches(VALUES, MODEL, GRAPH, BATCHES, F.cross_entropy, distil=distil))

    turns = in_turn(judged, few)
    together = np.array([turns[branch] for branch in GRAPH.branches])
    singly = [judged(without([branch]), 3) for branch in GRAPH.branches]
    alone = np.maximum(np.array(singly) - judged(MODEL, 3), 0)
    assert (together > 1.05 * alone).any()  # else nothing below says what they do together
    prices = (together + chance * alone.mean()) / np.exp(np.mean(np.log(ratios)))
    most = costs(VALUES)
    assert (prices < most).any()  # else nothing below says anything
    np.testing.assert_allclose(found, np.minimum(prices, most), rtol=2e-3)


def test_progress_tells_of_every_group_and_of_every_branch_twice() -> None:
    told: list[tuple[int, int | None]] = []

    class Told(Quiet):
        def step(self, done: int, total: int | None, what: str) -> None:
            assert what == "widths and branches masked"
            told.append((done, total))

    price_branches(VALUES, MODEL, GRAPH, BATCHES, F.cross_entropy, progress=Told())

    outside = [group for group in GRAPH.groups if group.name not in GRAPH.in_branches]
    steps = len(outside) + 2 * len(GRAPH.branches)
    assert told == [(done, steps) for done in range(1, steps + 1)]


def test_a_branch_that_adds_nothing_is_the_cheapest() -> None:
    model = copy.deepcopy(MODEL)
    idle = GRAPH.branches[1]
    for module in idle.modules:
        for norm in model.get_submodule(module).modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.zeros_(norm.weight)

    found = costs(price_branches(VALUES, model, GRAPH, BATCHES, F.cross_entropy))

    assert found[1] == min(found) < max(found)


@pytest.mark.parametrize("factor", [1e-6, 1e3])
def test_the_unit_of_values_does_not_matter(factor: float) -> None:
    scaled = Saliency(
        {group: factor * scores for group, scores in VALUES.scores.items()},
        criterion="scaled",
        curves={group: factor * curve for group, curve in VALUES.curves.items()},
    )

    found = price_branches(scaled, MODEL, GRAPH, BATCHES, F.cross_entropy)

    expected = price_branches(VALUES, MODEL, GRAPH, BATCHES, F.cross_entropy)
    np.testing.assert_allclose(costs(found), factor * np.array(costs(expected)), rtol=1e-9)


def test_sums_are_priced_too() -> None:
    scores = magnitude(MODEL, GRAPH)

    found = price_branches(scores, MODEL, GRAPH, BATCHES, F.cross_entropy)

    assert (np.array(costs(found)) < costs(scores)).any()
    assert found.criterion == "magnitude"


def test_the_network_stays_as_it_is() -> None:
    model, before = copy.deepcopy(MODEL), copy.deepcopy(MODEL.state_dict())

    price_branches(VALUES, model, GRAPH, BATCHES, F.cross_entropy)

    assert not any(module.training for module in model.modules())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_a_network_that_no_cut_makes_worse_says_nothing() -> None:
    found = price_branches(VALUES, MODEL, GRAPH, BATCHES, lambda outputs, _: outputs.sum() * 0)

    assert found is VALUES


def test_without_branches_nothing_is_run() -> None:
    graph = replace(GRAPH, branches=())

    assert price_branches(VALUES, MODEL, graph, (), F.cross_entropy) is VALUES


def test_only_as_many_batches_are_taken_as_hold_the_images() -> None:
    taken: list[int] = []

    def told() -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(BATCHES):
            taken.append(number)
            yield batch

    price_branches(VALUES, MODEL, GRAPH, told(), F.cross_entropy, images=40)

    assert taken == [0, 1]


def test_without_batches_there_is_no_price() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        price_branches(VALUES, MODEL, GRAPH, [], F.cross_entropy)


@pytest.mark.parametrize("distil", [None, distillation])
def test_batches_that_are_not_finite_are_left_out(distil: Any) -> None:
    damaged = (torch.full_like(BATCHES[0][0], torch.nan), BATCHES[0][1])

    found = price_branches(
        VALUES, MODEL, GRAPH, [damaged, *BATCHES], F.cross_entropy, distil=distil
    )

    expected = price_branches(VALUES, MODEL, GRAPH, BATCHES, F.cross_entropy, distil=distil)
    assert found.gone == expected.gone
    with pytest.raises(NotFinite, match="the whole network has a loss of nan"):
        price_branches(VALUES, MODEL, GRAPH, [damaged], F.cross_entropy, distil=distil)


def test_a_loss_that_is_not_finite_says_of_which_network() -> None:
    losses = iter([1.0] * 3 + [float("nan")] * 30)  # the whole network's first

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.sum() * 0 + next(losses)

    with pytest.raises(NotFinite, match=r"masked to \d+ channels has a loss of nan"):
        price_branches(VALUES, MODEL, GRAPH, BATCHES, loss)


def test_branches_that_break_the_network_together_cost_all_that_they_are_worth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the first may go: the loss is not finite without any two."""
    prices = partial(
        price_branches, VALUES, MODEL, GRAPH, BATCHES, F.cross_entropy, distil=distillation
    )
    intact = np.array(costs(prices()))
    measured = branches.loss_without

    def breaking(gone: Sequence[Branch], graph: PruningGraph, trial: MaskedTrial) -> float:
        if len(gone) > 1:
            raise NotFinite("the network without two branches has a loss of nan")
        return measured(gone, graph, trial)

    monkeypatch.setattr(branches, "loss_without", breaking)
    found = np.array(costs(prices()))

    first = int(intact.argmin())
    np.testing.assert_allclose(found[first], intact[first])
    rest = np.delete(found, first)
    np.testing.assert_allclose(rest, np.delete(costs(VALUES), first))
    assert (rest > 1.05 * np.delete(intact, first)).any()


def test_by_name_relative_values_are_priced_and_all_batches_score() -> None:
    found = scored("relative_fisher", MODEL, GRAPH, iter(BATCHES), F.cross_entropy)

    values = relative(fisher(MODEL, GRAPH, BATCHES, F.cross_entropy), GRAPH)
    expected = price_branches(values, MODEL, GRAPH, BATCHES, F.cross_entropy)
    np.testing.assert_allclose(costs(found), costs(expected), rtol=1e-6)
    assert found.gone
    assert not scored("fisher", MODEL, GRAPH, BATCHES, F.cross_entropy).gone
    assert not scored("relative_magnitude", MODEL, GRAPH, None, F.cross_entropy).gone


def test_where_all_groups_lie_in_branches_they_say_what_the_loss_is() -> None:
    inside = frozenset(group.name for group in GRAPH.groups)
    graph = replace(GRAPH, in_branches=inside)

    found = price_branches(VALUES, MODEL, graph, BATCHES, F.cross_entropy)

    assert found.gone


def test_a_lone_last_sample_is_left_out_unless_it_is_all_there_is() -> None:
    batch = torch.zeros(4, 3), torch.zeros(4)
    lone = torch.zeros(1, 3), torch.zeros(1)

    assert branches.enough([batch, lone], 128) == [batch]
    assert branches.enough([lone], 128) == [lone]


def test_a_batch_norm_of_one_value_says_what_it_needs() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    trial = MaskedTrial.of(model, [(torch.zeros(1, 3), torch.zeros(1, 4))], F.mse_loss)

    with pytest.raises(DataError, match="make batches larger"):
        trial.loss("the network")


def test_pictures_that_come_one_by_one_all_count() -> None:
    ones = [
        (x[None], y[None])
        for inputs, labels in BATCHES
        for x, y in zip(inputs, labels, strict=True)
    ]

    found = price_branches(VALUES, MODEL, GRAPH, iter(ones), F.cross_entropy)

    whole = price_branches(VALUES, MODEL, GRAPH, BATCHES, F.cross_entropy)
    assert costs(found) == pytest.approx(costs(whole), rel=1e-5)


def test_what_branches_are_not_judged_on_scores_all_the_same() -> None:
    batches = [*BATCHES[:2], (BATCHES[2][0][:1], BATCHES[2][1][:1])]

    found = scored("relative_fisher", MODEL, GRAPH, iter(batches), F.cross_entropy)

    expected = fisher(MODEL, GRAPH, batches, F.cross_entropy).scores
    for name, scores in expected.items():
        np.testing.assert_allclose(found.scores[name], scores)
