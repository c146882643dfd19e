"""Of several plans the one whose network does best on held-out images comes first."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import latprune as lp
from latprune.reranking import mean_loss
from tests.networks import Residual
from tests.test_surgery import a_plan

Batch = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Residual().eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(2.0)  # far from what a cut network's norms will see
    return model


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> lp.PruningGraph:
    return lp.trace(model, torch.zeros(1, 3, 12, 12))


def images(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (count,), generator=generator)
    return TensorDataset(torch.randn(count, 3, 12, 12, generator=generator), labels)


CALIBRATION = DataLoader(images(48, seed=1), batch_size=16, shuffle=True)
HELD_OUT: list[Batch] = [(x, y) for x, y in DataLoader(images(20, seed=2), batch_size=8)]


def ranked(
    model: nn.Module, graph: lp.PruningGraph, plans: list[lp.Plan], **options: object
) -> list[lp.Candidate]:
    return lp.rerank(
        model,
        graph,
        plans,
        calibration=CALIBRATION,
        held_out=HELD_OUT,
        **options,  # type: ignore[arg-type]
    )


def plans_of(graph: lp.PruningGraph) -> list[lp.Plan]:
    return [replace(a_plan(graph, seed=seed), criterion=f"plan {seed}") for seed in range(4)]


@torch.no_grad()
def by_hand(model: nn.Module, graph: lp.PruningGraph, plan: lp.Plan) -> float:
    """Cut, re-estimate and judge with plain torch, all images of a pass at once."""
    small = lp.cut(model, graph, plan)
    lp.recalibrate(small, [(x, y) for x, y in DataLoader(CALIBRATION.dataset, batch_size=48)])
    inputs, labels = (torch.cat(parts) for parts in zip(*HELD_OUT, strict=True))
    return float(F.cross_entropy(small.eval()(inputs), labels))


def test_plans_come_in_the_order_of_their_losses(model: nn.Module, graph: lp.PruningGraph) -> None:
    plans = plans_of(graph)
    found = ranked(model, graph, plans)

    assert {c.plan.criterion for c in found} == {plan.criterion for plan in plans}
    assert [c.loss for c in found] == sorted(c.loss for c in found)
    assert len({c.loss for c in found}) == 4
    for candidate in found:
        # Statistics of three batches' and of one batch's average differ a little.
        assert candidate.loss == pytest.approx(by_hand(model, graph, candidate.plan), rel=0.02)


def test_a_candidate_is_the_network_that_was_judged(
    model: nn.Module, graph: lp.PruningGraph
) -> None:
    before = copy.deepcopy(model.state_dict())
    for candidate in ranked(model, graph, plans_of(graph)):
        assert mean_loss(candidate.model, HELD_OUT, lp.cross_entropy) == candidate.loss
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_every_plan_sees_the_same_images(model: nn.Module, graph: lp.PruningGraph) -> None:
    plans = plans_of(graph)
    once = {c.plan.criterion: c.loss for c in ranked(model, graph, plans)}
    again = {c.plan.criterion: c.loss for c in ranked(model, graph, plans[::-1])}

    assert once == again


def test_equal_plans_are_tried_once_and_keep_their_order(
    model: nn.Module, graph: lp.PruningGraph
) -> None:
    first, *_ = plans_of(graph)
    found = ranked(model, graph, [first, replace(first, criterion="twin")])

    assert [c.plan.criterion for c in found] == ["plan 0", "twin"]
    assert found[0].model is found[1].model


def test_a_network_without_a_finite_loss_comes_last(
    model: nn.Module, graph: lp.PruningGraph
) -> None:
    plans = plans_of(graph)
    worst = ranked(model, graph, plans)[0].model

    def breaks(outputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs, labels)
        with torch.no_grad():
            same = any(
                len(x) == len(outputs) and torch.equal(worst(x), outputs) for x, _ in HELD_OUT
            )
        return loss * torch.nan if same else loss

    found = ranked(model, graph, plans, loss=breaks)
    assert found[-1].loss == float("inf")
    assert all(c.loss < float("inf") for c in found[:-1])


def test_no_finite_loss_at_all_is_an_error(model: nn.Module, graph: lp.PruningGraph) -> None:
    with pytest.raises(lp.NotFinite, match="none of 4 networks"):
        ranked(model, graph, plans_of(graph), loss=lambda outputs, _: outputs.sum() * torch.nan)


def test_no_plans_and_no_images_are_errors(model: nn.Module, graph: lp.PruningGraph) -> None:
    with pytest.raises(ValueError, match="at least one plan"):
        ranked(model, graph, [])
    with pytest.raises(lp.DataError, match="no batch was held out"):
        lp.rerank(model, graph, plans_of(graph), calibration=CALIBRATION, held_out=[])


def test_networks_are_judged_after_what_a_tuner_does_to_them(
    model: nn.Module, graph: lp.PruningGraph
) -> None:
    plans = plans_of(graph)
    best, *others = ranked(model, graph, plans)
    tuned: list[nn.Module] = []

    def spoil_the_best(small: nn.Module) -> None:
        tuned.append(small)
        if mean_loss(small, HELD_OUT, lp.cross_entropy) == best.loss:
            with torch.no_grad():
                for weight in small.parameters():
                    weight.mul_(10)

    found = ranked(model, graph, [*plans, plans[0]], tuner=spoil_the_best)

    assert len(tuned) == 4  # a plan that comes again is not tuned again
    assert found[-1].plan is best.plan
    assert found[-1].loss > best.loss
    assert found[0].plan.criterion == others[0].plan.criterion


def test_progress_is_told_of_every_plan(model: nn.Module, graph: lp.PruningGraph) -> None:
    told: list[tuple[int, int | None, str]] = []

    class Listener:
        def stage(self, name: str) -> None:
            raise AssertionError(name)

        def step(self, done: int, total: int | None, what: str) -> None:
            told.append((done, total, what))

    ranked(model, graph, plans_of(graph), progress=Listener())
    assert [(done, total) for done, total, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert told[0][2].startswith("plan 0 has a loss of ")
