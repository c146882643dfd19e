"""`gauss_newton` says how far answers move, without labels."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latprune.saliency import fisher, gauss_newton
from latprune.testing import random_batches, small_network
from latprune.tuning import distillation

if TYPE_CHECKING:
    from latprune.graph.groups import PruningGraph

EPSILON = 1e-3


@torch.no_grad()
def moved_by(group: str, channel: int, *, temperature: float) -> float:
    """Close a gate on a channel of `small_network` by ε; give what that moves, over ε²."""
    model, _ = small_network()
    whole = copy.deepcopy(model).double().eval()
    nearly = copy.deepcopy(whole)
    names = {"stem": ("stem_norm", "outer_norm"), "inner": ("inner",)}[group]
    for name in names:
        for parameter in nearly.get_submodule(name).parameters():
            parameter[channel] *= 1 - EPSILON
    inputs = torch.cat([x for x, _ in random_batches()]).double()
    answers = whole(inputs), nearly(inputs)
    # distillation() works in float32, where so little drowns.
    of_whole, of_nearly = ((z / temperature).log_softmax(dim=1) for z in answers)
    divergence = (of_whole.exp() * (of_whole - of_nearly)).sum(dim=1).mean()
    return float(temperature**2 * divergence / EPSILON**2)


def over_seeds(graph: PruningGraph, model: nn.Module, temperature: float) -> dict[str, np.ndarray]:
    found = [
        gauss_newton(model, graph, random_batches(), temperature=temperature, seed=seed).scores
        for seed in range(60)
    ]
    return {name: np.mean([scores[name] for scores in found], axis=0) for name in found[0]}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_scores_are_what_answers_move_by_to_second_order(temperature: float) -> None:
    model, graph = small_network()

    found = over_seeds(graph, model, temperature)

    for group, channels in (("stem", 8), ("inner", 4)):
        expected = [moved_by(group, c, temperature=temperature) for c in range(channels)]
        np.testing.assert_allclose(found[group], expected, rtol=0.35, atol=1e-9)  # 60 draws
        np.testing.assert_allclose(found[group].sum(), sum(expected), rtol=0.15)


def test_what_moves_is_what_a_teacher_would_miss() -> None:
    model, _ = small_network()
    inputs = torch.cat([x for x, _ in random_batches()])
    taught = model.eval()(inputs).detach()
    logits = taught.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(
        distillation(logits[:1], taught[:1], temperature=2.0), logits, create_graph=True
    )
    rows = [torch.autograd.grad(one, logits, retain_graph=True)[0][0] for one in slope[0]]

    p = (taught[0] / 2).softmax(dim=0)
    torch.testing.assert_close(
        torch.stack(rows), torch.diag(p) - torch.outer(p, p), rtol=1e-3, atol=1e-5
    )


def test_labels_are_not_looked_at() -> None:
    model, graph = small_network()
    batches = random_batches()

    found = gauss_newton(model, graph, [(x, None) for x, _ in batches]).scores

    for group, expected in gauss_newton(model, graph, batches).scores.items():
        np.testing.assert_array_equal(found[group], expected)


def test_a_sure_network_is_scored_by_all_pictures() -> None:
    """Of a network that is right, and sure, labels see nothing; what little moves is still seen."""
    model, graph = small_network()
    with torch.no_grad():
        model.head.weight *= 30
        model.eval()
        batches = [(x, model(x).argmax(dim=1)) for x, _ in random_batches()]

    by_answers = gauss_newton(model, graph, batches, temperature=1.0).scores
    again = gauss_newton(model, graph, batches, temperature=1.0, seed=1).scores
    by_labels = fisher(model, graph, batches, nn.functional.cross_entropy).scores

    assert by_labels["stem"].sum() < by_answers["stem"].sum() / 3
    assert np.corrcoef(by_answers["stem"], again["stem"])[0, 1] > 0.8


class Everywhere(nn.Module):
    """A head that answers the same at every position of a map."""

    def __init__(self, head: nn.Module, size: int) -> None:
        super().__init__()
        self.inner, self.size = head, size
        self.weight = head.weight  # where the graph looks for it

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[:, :, None, None].expand(-1, -1, self.size, self.size)  # type: ignore[no-any-return]


def test_every_position_of_a_segmenter_counts() -> None:
    sums = {}
    for size in (1, 3):
        model, graph = small_network()
        model.head = Everywhere(model.head, size)  # type: ignore[assignment]
        sums[size] = over_seeds(graph, model, 2.0)["stem"].sum()

    assert sums[3] == pytest.approx(sums[1], rel=0.2)  # their mean, and they are all alike


class Boxes(nn.Linear):
    """Gives what detectors do: lists, or a dict of them."""

    def __init__(self, outputs: object) -> None:
        super().__init__(8, 5)
        self.outputs = outputs

    def forward(self, _: Tensor) -> object:  # type: ignore[override]
        return self.outputs


def test_outputs_that_are_no_logits_are_an_error() -> None:
    model, graph = small_network()
    model.head = nn.Linear(8, 1)

    with pytest.raises(ValueError, match=r"two classes or more.*gives \[1, 1\]: take fisher"):
        gauss_newton(model, graph, random_batches())

    for outputs, said in ((([], []), "tuple"), ({"boxes": []}, "dict")):
        model.head = Boxes(outputs)
        with pytest.raises(ValueError, match=f"gives a {said} without them: take fisher"):
            gauss_newton(model, graph, random_batches())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_is_above_0(temperature: float) -> None:
    model, graph = small_network()

    with pytest.raises(ValueError, match="temperature is above 0"):
        gauss_newton(model, graph, random_batches(1), temperature=temperature)
