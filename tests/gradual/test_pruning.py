"""A network shrinks while it trains, and stays the user's own."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import latprune as lp
from latprune.gradual.course import GradualCriterion
from latprune.knapsack import greedy, halp, joint, uniform
from tests.gradual.training import EXAMPLE, batch, begun, measured, network, train
from tests.networks import ShuffledAgain

if TYPE_CHECKING:
    from pathlib import Path

    from latprune.knapsack import Problem

SOLVERS = [joint, greedy, uniform, partial(halp, steps=1)]


@pytest.mark.parametrize("solver", SOLVERS, ids=["joint", "greedy", "uniform", "halp"])
@pytest.mark.parametrize("soft", [False, True])
def test_the_budget_is_met_after_the_last_step(tmp_path: Path, solver: Any, soft: bool) -> None:
    model, optimizer, pruning = begun(tmp_path, "50%", solver=solver, soft=soft)

    plans = train(model, optimizer, pruning, range(8))

    assert len(plans) == 3
    assert pruning.done
    assert plans[-1].budget == lp.Budget(fraction=0.5)
    assert plans[-1].predicted_ms <= plans[-1].budget_ms
    assert pruning.kept == plans[-1].kept


def test_weights_of_a_second_optimizer_are_refused_before_anything_is_cut(tmp_path: Path) -> None:
    model = network()
    graph, table = measured(model, tmp_path)
    norms = torch.optim.SGD([p for p in model.parameters() if p.dim() == 1], lr=0.1)

    with pytest.raises(ValueError, match="the SGD given does not train it"):
        lp.prune_in_steps(model, graph, table, "50%", optimizer=norms)

    trained = [p for name, p in model.named_parameters() if p.dim() == 1 or "last" in name]
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is one for one in trained))
    optimizer = torch.optim.SGD(trained, lr=0.1)
    lp.prune_in_steps(model, graph, table, "50%", optimizer=optimizer)  # frozen ones are cut, too


@pytest.mark.parametrize("soft", [False, True])
def test_state_that_cannot_be_cut_is_refused_in_the_first_step(tmp_path: Path, soft: bool) -> None:
    timm = pytest.importorskip("timm.optim")
    model, optimizer, pruning = begun(tmp_path, optimizer=timm.Adafactor, soft=soft, start=1000)

    with pytest.raises(lp.ModelMismatch, match="Adafactor keeps 'exp_avg_sq_row' of shape"):
        train(model, optimizer, pruning, range(1))


@pytest.mark.parametrize("soft", [False, True])
def test_where_training_gives_no_gradients_nothing_is_cut(tmp_path: Path, soft: bool) -> None:
    model, optimizer, pruning = begun(tmp_path, "50%", soft=soft)
    for _ in range(2):
        optimizer.zero_grad()
        (0 * model(EXAMPLE.expand(4, -1, -1, -1)).sum()).backward()
        optimizer.step()

    with pytest.raises(lp.ZeroGradients, match="cut 1 was due") as caught:
        pruning.step()

    assert caught.value.step == 1
    assert pruning.taken == 0
    assert pruning.plan is None


def test_widths_are_worth_what_the_criterion_says(tmp_path: Path) -> None:
    plans = {}
    for criterion in get_args(GradualCriterion):
        model, optimizer, pruning = begun(tmp_path, "30%", criterion=criterion)
        plans[criterion] = train(model, optimizer, pruning, range(8))[-1]

    assert all(plan.predicted_ms <= plan.budget_ms for plan in plans.values())
    assert len({plan.value for plan in plans.values()}) == len(plans)


def test_relative_values_know_what_lies_in_a_branch(tmp_path: Path) -> None:
    posed: list[Problem] = []

    def solver(problem: Problem) -> Any:
        posed.append(problem)
        return joint(problem)

    begun(tmp_path, "50%", criterion="relative_taylor", solver=solver)

    spans = {
        max(widths): np.ptp(values)
        for values, widths in zip(posed[0].values, posed[0].widths, strict=True)
        if widths is not None
    }
    trunk, inner, last = spans[24], spans[32], spans[40]
    assert trunk > 5 * inner
    assert last > 5 * inner


def test_a_criterion_that_gradients_do_not_give_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"score by taylor, .* not by 'fisher'"):
        begun(tmp_path, criterion="fisher")


@pytest.mark.parametrize("solver", SOLVERS, ids=["joint", "greedy", "uniform", "halp"])
def test_a_shuffled_trunk_shrinks_by_numbers_of_channels_that_go_together(
    tmp_path: Path, solver: Any
) -> None:
    model = ShuffledAgain()
    graph, table = measured(model, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    pruning = lp.prune_in_steps(
        model, graph, table, "40%", optimizer=optimizer, every=2, steps=3, solver=solver
    )

    plans = train(model, optimizer, pruning, range(8))

    assert [graph.allows(plan.widths) for plan in plans] == [True] * 3
    assert sum(plans[-1].widths.values()) < sum(graph.widths.values())
    assert plans[-1].predicted_ms <= plans[-1].budget_ms
    assert model.after.in_channels == graph.shapes_at(plans[-1].widths)["after"].in_channels


def test_budgets_fall_geometrically_to_the_one_asked_for(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path, "40%", aim=0.9)

    plans = train(model, optimizer, pruning, range(6))

    dense_ms = plans[0].baseline_ms
    asked_ms = [plan.budget_ms for plan in plans[:-1]]
    assert asked_ms == pytest.approx([dense_ms * 0.36 ** (t / 3) for t in (1, 2)])
    assert plans[-1].budget_ms == pytest.approx(0.4 * dense_ms)
    assert plans[-1].predicted_ms <= 0.36 * dense_ms


def test_steps_come_after_so_many_steps_of_the_optimizer(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path, every=3, steps=2, start=4)

    when = [n for n in range(12) if train(model, optimizer, pruning, [n])]

    assert when == [6, 9]  # counted from 0: after 7 and 10 steps


@pytest.mark.parametrize("soft", [False, True])
def test_what_is_left_are_the_dense_weights_of_the_channels_kept(
    tmp_path: Path, soft: bool
) -> None:
    model, optimizer, pruning = begun(
        tmp_path, soft=soft, optimizer=partial(torch.optim.SGD, lr=0.0)
    )
    dense = copy.deepcopy(model)
    graph, _ = measured(dense, tmp_path)

    plans = train(model, optimizer, pruning, range(6))

    expected = dict(lp.cut(dense, graph, plans[-1]).named_parameters())
    assert len({str(plan.kept) for plan in plans}) == 3
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in expected.items()
    }
    assert all(torch.equal(p, expected[n]) for n, p in model.named_parameters())


def test_a_channel_that_was_cut_never_stays_later(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path, "30%", steps=4)

    plans = train(model, optimizer, pruning, range(8))

    for before, after in itertools.pairwise(plans):
        assert all(set(after.kept[group]) <= set(before.kept[group]) for group in after.kept)


def test_modules_parameters_and_buffers_stay_the_same_objects(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path)
    before = [*model.modules(), *model.parameters(), *model.buffers()]

    train(model, optimizer, pruning, range(6))

    after = [*model.modules(), *model.parameters(), *model.buffers()]
    assert [id(one) for one in after] == [id(one) for one in before]


def test_the_network_that_is_left_learns_on(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path, optimizer=partial(torch.optim.AdamW, lr=0.01))
    train(model, optimizer, pruning, range(6))

    def loss() -> float:
        with torch.no_grad():
            return sum(F.cross_entropy(model(x), y).item() for x, y in map(batch, range(6)))

    before = loss()
    train(model, optimizer, pruning, list(range(6)) * 5)

    assert loss() < 0.7 * before


def test_after_the_last_step_nothing_is_hooked_to_the_optimizer(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path)

    train(model, optimizer, pruning, range(6))

    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_what_comes_out_is_saved_and_loaded_like_any_pruned_network(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path)
    graph, _ = measured(network(), tmp_path)
    train(model, optimizer, pruning, range(7))

    lp.save(model, tmp_path / "small.safetensors", graph=graph, plan=pruning.plan)
    again = lp.load(tmp_path / "small.safetensors", network()).eval()

    assert torch.equal(again(EXAMPLE), model.eval()(EXAMPLE))


def test_channels_that_do_nothing_go_first(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path, optimizer=partial(torch.optim.SGD, lr=0.0))
    silent = [1, 4, 9, 12, 13, 20, 22, 30]
    norm: Any = model.get_submodule("inner.1")
    with torch.no_grad():
        norm.weight[silent] = 0.0
        norm.bias[silent] = 0.0

    plans = train(model, optimizer, pruning, range(6))

    kept = plans[-1].kept["inner.0"]
    assert len(kept) < 32
    assert len(set(kept) & set(silent)) == max(0, len(kept) - (32 - len(silent)))


def test_a_budget_that_no_network_meets_is_refused_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(lp.BudgetTooSmall):
        begun(tmp_path, "0.1%")


def test_a_frozen_parameter_that_scores_depend_on_is_refused(tmp_path: Path) -> None:
    model = network()
    graph, table = measured(model, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.requires_grad_(False)
    model.get_parameter("head.2.weight").requires_grad_(True)

    with pytest.raises(ValueError, match=r"stem\.0\.weight.*does not train.*keep="):
        lp.prune_in_steps(model, graph, table, 0.5, optimizer=optimizer)


def test_the_optimizer_of_another_network_is_refused(tmp_path: Path) -> None:
    model = network()
    graph, table = measured(model, tmp_path)
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)

    with pytest.raises(ValueError, match="does not train"):
        lp.prune_in_steps(model, graph, table, 0.5, optimizer=optimizer)


def test_a_second_pruning_is_refused_while_the_first_is_under_way(tmp_path: Path) -> None:
    """As when a notebook's cell is run again: either would take the other's cuts for its own."""
    model, optimizer, pruning = begun(tmp_path)
    graph, table = measured(network(), tmp_path)

    with pytest.raises(ValueError, match="another pruning is under way with this SGD"):
        lp.prune_in_steps(model, graph, table, 0.5, optimizer=optimizer)
    train(model, optimizer, pruning, range(7))
    assert pruning.done


def test_another_network_is_refused(tmp_path: Path) -> None:
    graph, table = measured(network(), tmp_path)
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)

    with pytest.raises(lp.ModelMismatch, match="not the network that the graph was traced from"):
        lp.prune_in_steps(other, graph, table, 0.5, optimizer=optimizer)


def test_numbers_that_make_no_course_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        begun(tmp_path, steps=0)


def test_gradients_that_are_never_finite_stop_the_run_and_name_the_groups(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path, every=4, optimizer=partial(torch.optim.SGD, lr=0.0))

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan")

    model.get_parameter("inner.0.weight").register_hook(poison)  # type: ignore[no-untyped-call]

    with pytest.raises(lp.NotFinite, match=r"of 4 steps are nan or infinite in stem\.0\b"):
        train(model, optimizer, pruning, range(4))


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_score_as_plain_ones(tmp_path: Path, fused: bool) -> None:
    def run(scale: float) -> Any:
        make = partial(torch.optim.AdamW, lr=1e-3, fused=fused)
        model, optimizer, pruning = begun(tmp_path, optimizer=make)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
        for number in range(6):
            images, labels = batch(number)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            pruning.step()
        return pruning.plan

    plain, scaled = run(1), run(2.0**10)

    assert scaled.kept == plain.kept
    assert scaled.value == pytest.approx(plain.value, rel=1e-3)


@pytest.mark.parametrize("soft", [False, True])
def test_a_closure_that_makes_the_gradients_is_the_same_training(
    tmp_path: Path, soft: bool
) -> None:
    model, optimizer, pruning = begun(tmp_path, soft=soft)
    expected = train(model, optimizer, pruning, range(7))

    other, optimizer, pruning = begun(tmp_path, soft=soft)
    plans = []
    for number in range(7):

        def closure(number: int = number) -> torch.Tensor:
            images, labels = batch(number)
            optimizer.zero_grad()
            loss = F.cross_entropy(other(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure) if number % 2 else optimizer.step(closure=closure)
        plans += [plan] if (plan := pruning.step()) else []

    assert plans == expected
    ours, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_under_accelerate_accumulated_gradients_count_once(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=2, cpu=True)
    model = network()
    graph, table = measured(model, tmp_path)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model, optimizer = accelerator.prepare(model, optimizer)
    pruning = lp.prune_in_steps(model, graph, table, 0.5, optimizer=optimizer, every=2, steps=2)

    cuts = []
    for number in range(8):
        with accelerator.accumulate(model):
            images, labels = batch(number)
            accelerator.backward(F.cross_entropy(model(images), labels))
            optimizer.step()
            cuts += [number] if pruning.step() else []
            optimizer.zero_grad()

    assert cuts == [3, 7]
    assert pruning.done


def test_moving_averages_are_cut_along(tmp_path: Path) -> None:
    model = network()
    graph, table = measured(model, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=lambda old, new, _: new)
    pruning = lp.prune_in_steps(
        model, graph, table, 0.5, optimizer=optimizer, every=1, steps=3, copies=[average]
    )

    for number in range(4):
        train(model, optimizer, pruning, [number])
        average.update_parameters(model)

    ours = dict(average.module.named_parameters())
    assert all(torch.equal(ours[name], p) for name, p in model.named_parameters())
    assert average(batch(0)[0]).shape == (6, 5)
