"""The learning rate's shape, and what is not decayed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from latprune.graph.shortcuts import Constant
from latprune.tuning.recipe import Recipe
from latprune.tuning.schedule import build_optimizer, learning_rate

recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 5),
    lr=st.floats(1e-5, 10),
    warmup_epochs=st.floats(0, 6),
)


@given(recipe=recipes, steps=st.integers(1, 20))
def test_the_rate_climbs_to_its_peak_and_falls_towards_zero(recipe: Recipe, steps: int) -> None:
    rates = [
        learning_rate(recipe, step, steps_per_epoch=steps) for step in range(recipe.epochs * steps)
    ]
    peak = rates.index(max(rates))

    assert max(rates) == pytest.approx(recipe.lr)
    assert min(rates) > 0
    assert all(a < b for a, b in itertools.pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(rates[peak:]))


def test_the_rate_follows_half_a_cosine_after_warm_up() -> None:
    recipe = Recipe(epochs=3, lr=2.0, warmup_epochs=1.0)
    rates = [learning_rate(recipe, step, steps_per_epoch=4) for step in range(12)]

    assert rates[:4] == pytest.approx([0.4, 0.8, 1.2, 1.6])
    assert rates[4:] == pytest.approx([1 + math.cos(math.pi * i / 8) for i in range(8)])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_are_not_decayed(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2))
    model.get_parameter("2.weight").requires_grad = False
    recipe = Recipe(optimizer=name, weight_decay=0.3)  # type: ignore[arg-type]
    decay = {
        parameter: group["weight_decay"]
        for group in build_optimizer(model, recipe).param_groups
        for parameter in group["params"]
    }

    assert {name: decay.get(p) for name, p in model.named_parameters()} == {
        "0.weight": 0.3,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": None,
        "2.bias": 0.0,
    }


def test_what_is_one_number_per_channel_is_not_decayed_unless_it_is_a_layers_weight() -> None:
    model = nn.Sequential(
        weight_norm(nn.Conv2d(2, 4, 3)),
        Constant(torch.ones(4, 1, 1), torch.zeros(4, 1, 1)),
        nn.Conv2d(4, 4, 1, groups=4, bias=False),
        nn.Linear(1, 3, bias=False),
        nn.Linear(3, 1, bias=False),
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, left = (
        {names[parameter] for parameter in group["params"]}
        for group in build_optimizer(model, Recipe(weight_decay=0.3)).param_groups
    )

    gain, kernel = (f"0.parametrizations.weight.original{number}" for number in range(2))
    assert decayed == {kernel, "2.weight", "3.weight", "4.weight"}
    assert left == {"0.bias", gain, "1.shift"}


def test_sgd_uses_nesterovs_momentum() -> None:
    optimizer = build_optimizer(nn.Linear(1, 1), Recipe(momentum=0.8))

    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["nesterov"], optimizer.defaults["momentum"]) == (True, 0.8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"momentum": 1.0},
        {"label_smoothing": 1.0},
        {"distillation": 1.1},
        {"temperature": 0.0},
        {"clip_norm": 0.0},
        {"optimizer": "adam"},
        {"precision": "int8"},
        {"epochs": 1.5},
        {"seed": 0.5},
        *({name: math.nan} for name in ("lr", "weight_decay", "temperature", "clip_norm", "ema")),
        {"warmup_epochs": math.inf},
    ],
)
def test_an_impossible_recipe_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        Recipe(**wrong)  # type: ignore[arg-type]
