"""A recipe may keep a moving average of the weights: that is judged, kept, and resumed."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from latprune.tuning import tune
from tests.tuning.test_loop import RECIPE, loader, network

if TYPE_CHECKING:
    from pathlib import Path

AVERAGED = replace(RECIPE, ema=0.9)


def weights_after_every_step(model: nn.Module) -> list[dict[str, torch.Tensor]]:
    """Tune without an average, and write every step's weights down."""
    trail: list[dict[str, torch.Tensor]] = []

    def note(_: object) -> None:
        trail.append({name: value.clone() for name, value in model.state_dict().items()})

    tune(model, loader(), recipe=replace(AVERAGED, ema=None), progress=note)
    return trail


def test_the_average_is_that_of_the_steps_each_counting_less_the_older_it_is() -> None:
    trail = weights_after_every_step(network())
    kept = tune(network(), loader(), recipe=AVERAGED).model.state_dict()

    for name, value in kept.items():
        if not value.is_floating_point():
            continue
        expected = trail[0][name]  # the first step is taken whole
        for step, weights in enumerate(trail[1:], start=2):
            decay = min(0.9, 1 - step ** (-2 / 3))  # timm's warm-up
            expected = decay * expected + (1 - decay) * weights[name]
        assert torch.allclose(value, expected, atol=1e-5), name


def test_the_average_is_what_is_judged() -> None:
    judged: list[nn.Module] = []

    def evaluate(one: nn.Module) -> dict[str, float]:
        judged.append(one)
        return {}

    model = network()
    tune(model, loader(), recipe=AVERAGED, evaluate=evaluate)

    assert all(one is not model for one in judged)
    last = judged[-1].state_dict()
    assert all(torch.equal(last[name], value) for name, value in model.state_dict().items())


def test_an_interrupted_average_goes_on(tmp_path: Path) -> None:
    unbroken = tune(network(), loader(), recipe=AVERAGED).model.state_dict()
    steps = 0

    def stop(_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(network(), loader(), recipe=AVERAGED, checkpoint=tmp_path, progress=stop)
    resumed = tune(network(), loader(), recipe=AVERAGED, checkpoint=tmp_path).model.state_dict()

    assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())


@pytest.mark.parametrize("ema", [0.0, 1.0, -0.5])
def test_a_decay_is_between_0_and_1(ema: float) -> None:
    with pytest.raises(ValueError, match="ema"):
        replace(RECIPE, ema=ema)


class Counting(nn.Identity):
    """Keeps a number in its state, and a lock beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        vars(self)["lock"] = threading.Lock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += self.training
        return x

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": self.seen}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def test_what_a_state_holds_beside_tensors_is_handed_on(tmp_path: Path) -> None:
    counting = Counting()
    judged: list[int] = []

    def evaluate(one: nn.Module) -> dict[str, float]:
        judged.append(one.get_submodule("0").get_extra_state()["seen"])
        return {}

    model = nn.Sequential(counting, network())
    tune(model, loader(), recipe=AVERAGED, evaluate=evaluate, checkpoint=tmp_path)

    steps = len(loader())
    assert judged == [steps, 2 * steps, 3 * steps]
    assert counting.seen == 3 * steps


class Tied(nn.Module):
    """The same network, with two of its layers under further names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.again = nn.ModuleList([self.body.get_submodule(name) for name in ("1", "6")])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def test_tied_weights_are_averaged_as_others() -> None:
    tied = tune(Tied(), loader(), recipe=AVERAGED).model.get_submodule("body").state_dict()
    plain = tune(network(), loader(), recipe=AVERAGED).model.state_dict()

    assert all(torch.equal(tied[name], value) for name, value in plain.items())
