"""One call trains a network and prunes it meanwhile, to a measured budget, and can be stopped."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

import latprune as lp
from latprune.gradual import GradualPruning
from tests.gradual.training import CLASSES, EXAMPLE, batch, network
from tests.processes import run_together
from tests.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from latprune.tuning.replay import Batches

pytestmark = [
    # Python 3.12 and later warn of any fork beside threads.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    # Depthwise weights that have their channels last: slower to reduce, and right.
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]
# What layers do not say: closing the loop has something to find.
CLOCK = Synthetic(rest_ms=0.08)
RECIPE = lp.Recipe(epochs=3, lr=0.02, warmup_epochs=0, precision="no")
BUDGET = 0.6


@pytest.fixture(autouse=True)
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATPRUNE_CACHE", str(tmp_path / "cache"))
    CLOCK.install(monkeypatch)


def loader() -> Batches:
    images, labels = zip(*(batch(number) for number in range(6)), strict=True)
    return DataLoader(TensorDataset(torch.cat(images), torch.cat(labels)), 6, shuffle=True)


def pruned(**options: Any) -> lp.Pruned:
    options = {"recipe": RECIPE, "steps": 4, "every": 3, **options}
    target = lp.Target.here("synthetic")
    return lp.prune_gradually(network(), EXAMPLE, BUDGET, loader=loader(), target=target, **options)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def assert_same(one: lp.Pruned, other: lp.Pruned) -> None:
    assert one.plan == other.plan
    ours, theirs = weights(one.model), weights(other.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def taken(model: torch.nn.Module, dense: torch.nn.Module) -> float:
    """The share of the dense network's time."""
    return CLOCK.network_ms(model.eval(), EXAMPLE) / CLOCK.network_ms(dense.eval(), EXAMPLE)


def test_the_last_cut_is_found_on_the_clock_where_the_tables_alone_miss(tmp_path: Path) -> None:
    done = pruned()

    graph, target = lp.trace(network().eval(), EXAMPLE), lp.Target.here("synthetic")
    table = lp.measure(network().eval(), graph, EXAMPLE, target, folder=tmp_path / "anew")
    plan = lp.plan(graph, table, lp.magnitude(network(), graph), lp.Budget(fraction=BUDGET))
    by_prediction = lp.cut(network().eval(), graph, plan)
    assert taken(by_prediction, network()) > BUDGET
    assert taken(done.model, done.dense) <= BUDGET
    assert done.met
    assert len(done.history) == RECIPE.epochs
    assert done.model(EXAMPLE).shape == (1, CLASSES)


def test_the_checkpoint_of_a_network_with_other_weights_is_refused(tmp_path: Path) -> None:
    target = lp.Target.here("synthetic")

    def run(model: torch.nn.Module) -> None:
        lp.prune_gradually(
            model,
            EXAMPLE,
            BUDGET,
            loader=loader(),
            recipe=lp.Recipe(epochs=1, precision="no"),
            steps=2,
            every=2,
            target=target,
            checkpoint=tmp_path / "run",
        )

    run(network())
    other = network()
    with torch.no_grad():
        other.get_parameter("norm.bias").add_(1)
    with pytest.raises(lp.ModelMismatch, match="hash of the weights"):
        run(other)


def test_the_dense_network_is_not_changed() -> None:
    model = network()
    before = {name: value.clone() for name, value in weights(model).items()}
    target = lp.Target.here("synthetic")
    lp.prune_gradually(
        model, EXAMPLE, BUDGET, loader=loader(), recipe=RECIPE, steps=2, every=2, target=target
    )

    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_for_the_last_cut_only_candidates_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def prepare(model: torch.nn.Module, *_: object, **__: object) -> torch.nn.Module:
        opened.append(sum(parameter.numel() for parameter in model.parameters()))
        return model

    monkeypatch.setattr("latprune.fitting.loop.prepare", prepare)
    done = pruned(steps=2)

    assert opened
    assert max(opened) < sum(parameter.numel() for parameter in done.dense.parameters())


def stopping_at(stops_at: int) -> Callable[[GradualPruning], lp.Plan | None]:
    """Give a `step` that is interrupted the n-th time."""
    steps, step = 0, GradualPruning.step

    def interrupted(pruning: GradualPruning) -> lp.Plan | None:
        nonlocal steps
        steps += 1
        if steps == stops_at:
            signal.raise_signal(signal.SIGINT)
        return step(pruning)

    return interrupted


@pytest.mark.parametrize(("stops_at", "ema"), [(2, None), (8, 0.9), (13, None)])
def test_an_interrupted_run_ends_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops_at: int, ema: float | None
) -> None:
    recipe = lp.Recipe(epochs=3, lr=0.02, warmup_epochs=0, precision="no", ema=ema)
    unbroken = pruned(recipe=recipe, folder=tmp_path / "tables")
    with monkeypatch.context() as patch:
        patch.setattr(GradualPruning, "step", stopping_at(stops_at))
        with pytest.raises(KeyboardInterrupt):
            pruned(recipe=recipe, checkpoint=tmp_path / "run")
    resumed = pruned(recipe=recipe, checkpoint=tmp_path / "run")
    again = pruned(recipe=recipe, checkpoint=tmp_path / "run")

    assert_same(resumed, unbroken)
    assert_same(again, unbroken)


def test_masked_channels_are_cut_in_the_end() -> None:
    done = pruned(soft=True)

    assert done.met
    assert sum(p.numel() for p in done.model.parameters()) < sum(
        p.numel() for p in done.dense.parameters()
    )


def test_the_moving_average_is_what_is_kept(tmp_path: Path) -> None:
    slow = lp.Recipe(epochs=3, lr=0.02, warmup_epochs=0, precision="no", ema=0.999999)

    # Tables of their own: what one run timed would be known to the other.
    average = pruned(recipe=slow, folder=tmp_path / "average")
    last = pruned(folder=tmp_path / "last")

    assert average.plan.kept == last.plan.kept  # the gradients are those of the network itself
    ours, theirs = weights(average.model), weights(last.model)
    assert not torch.equal(ours["stem.0.weight"], theirs["stem.0.weight"])


def test_a_training_too_short_for_its_cuts_is_refused_with_what_would_fit() -> None:
    # 3 epochs of 6 batches
    with pytest.raises(
        ValueError, match=r"take 20 steps, and 3 epochs of 6 batches are 18: .* 1 st"
    ):
        pruned(steps=5, every=4)
    with pytest.raises(ValueError, match="train for longer"):
        pruned(steps=30, every=1)


def test_a_lone_last_picture_does_not_make_cuts_fall_due_after_the_end() -> None:
    with_norm = torch.nn.Sequential(
        torch.nn.Conv2d(3, 24, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.BatchNorm2d(24),
        torch.nn.ReLU(),
        torch.nn.Conv2d(24, CLASSES, 1),
        torch.nn.Flatten(),
    )
    pictures = DataLoader(TensorDataset(torch.randn(5, 3, 12, 12), torch.arange(5)), batch_size=2)

    with pytest.raises(lp.DataError, match="drop_last=True"):
        lp.prune_gradually(
            with_norm,
            EXAMPLE,
            0.95,
            loader=pictures,
            recipe=RECIPE,
            target=lp.Target.here("synthetic"),
            steps=3,
            every=3,
        )


def overflowing(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A loss whose gradients fp16 cannot hold before the scale has fallen."""
    return 300 * torch.nn.functional.cross_entropy(outputs, labels)


@pytest.mark.parametrize("soft", [False, True])
def test_steps_that_overflow_in_fp16_do_not_leave_the_last_cut_out(soft: bool) -> None:
    # 6 cuts in 18 steps: there is no room for those that are left out.
    recipe = replace(RECIPE, lr=1e-4, precision="fp16", distillation=0.0)

    done = pruned(recipe=recipe, steps=6, every=3, soft=soft, loss=overflowing)

    assert done.report.budget == lp.Budget(fraction=BUDGET)
    assert taken(done.model, done.dense) <= BUDGET


def test_a_last_cut_that_overflows_is_told() -> None:
    recipe = replace(RECIPE, lr=1e-4, precision="fp16", distillation=0.0)

    with pytest.raises(lp.NotFinite, match=r"behind cut \d+ of 18"):
        pruned(recipe=recipe, steps=18, every=1, loss=overflowing)


def together(rank: int, folder: Path, *, stops: bool = False) -> dict[str, Any]:
    """Prune in two processes, that may be interrupted once after the second cut."""
    prune = partial(pruned, every=2, folder=folder / "tables")
    if stops:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GradualPruning, "step", stopping_at(7))
            with pytest.raises(KeyboardInterrupt):
                prune(checkpoint=folder / "run")
        dist.barrier()
    done = prune(checkpoint=folder / "run" if stops else None)
    kept = {name: value.numpy() for name, value in weights(done.model).items()}
    return {"plan": done.plan.to_json(), "weights": kept, "used": done.report.used}


def test_two_processes_end_with_the_same_network_interrupted_or_not(tmp_path: Path) -> None:
    first, second = run_together(together, tmp_path)
    shutil.rmtree(tmp_path / "tables")
    resumed, _ = run_together(partial(together, stops=True), tmp_path)

    assert first["used"] <= 1
    for one in (second, resumed):
        assert one["plan"]["kept"] == first["plan"]["kept"]
        for name, value in first["weights"].items():
            assert np.array_equal(one["weights"][name], value), name
