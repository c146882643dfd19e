"""`taylor_squared` averages squares over batches, `fisher` over samples."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latprune.errors import NotFinite
from latprune.saliency import fisher, taylor_squared
from latprune.testing import random_batches, small_network


class Gated(nn.Module):
    """A layer's output, each channel times a gate."""

    def __init__(self, layer: nn.Module, gates: Tensor) -> None:
        super().__init__()
        self.layer, self.gates = layer, gates

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.gates.view(1, -1, 1, 1)  # type: ignore[no-any-return]


def slopes(inputs: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Differentiate the loss by gates on the channels of `small_network`, put in by hand."""
    model, _ = small_network()
    model = copy.deepcopy(model).double().eval()
    gates = {name: torch.ones(n, dtype=torch.float64) for name, n in (("stem", 8), ("inner", 4))}
    for gate in gates.values():
        gate.requires_grad_(True)
    model.stem_norm = Gated(model.stem_norm, gates["stem"])  # type: ignore[assignment]
    model.outer_norm = Gated(model.outer_norm, gates["stem"])  # type: ignore[assignment]
    model.inner = Gated(model.inner, gates["inner"])  # type: ignore[assignment]
    loss = F.cross_entropy(model(inputs.double()), labels)
    found = torch.autograd.grad(loss, list(gates.values()))
    return {name: slope.numpy() for name, slope in zip(gates, found, strict=True)}


def test_taylor_squared_is_the_mean_over_batches_of_the_squared_slope_of_a_gate() -> None:
    model, graph = small_network()
    batches = random_batches()
    scores = taylor_squared(model, graph, batches, F.cross_entropy).scores

    expected = [slopes(*batch) for batch in batches]
    for group, of_channels in scores.items():
        squares = [slope[group] ** 2 for slope in expected]
        np.testing.assert_allclose(of_channels, np.mean(squares, axis=0), rtol=1e-3, atol=1e-9)


def test_fisher_is_half_the_mean_over_samples_of_the_squared_slope_of_a_gate() -> None:
    model, graph = small_network()
    batches = random_batches()
    scores = fisher(model, graph, batches, F.cross_entropy).scores

    samples = [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(x))]
    expected = [slopes(*sample) for sample in samples]
    for group, of_channels in scores.items():
        squares = [slope[group] ** 2 / 2 for slope in expected]
        np.testing.assert_allclose(of_channels, np.mean(squares, axis=0), rtol=1e-3, atol=1e-9)


def test_fisher_takes_labels_of_any_form_of_one_sample_at_a_time() -> None:
    model, graph = small_network()
    batches = random_batches()
    samples = [(x[i : i + 1], {"classes": y[i : i + 1]}) for x, y in batches for i in range(len(x))]

    def loss(outputs: Tensor, labels: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(outputs, labels["classes"])

    scores = fisher(model, graph, samples, loss).scores

    for group, expected in fisher(model, graph, batches, F.cross_entropy).scores.items():
        np.testing.assert_allclose(scores[group], expected)


def test_fisher_takes_tensors_of_all_samples_out_of_dicts_lists_and_tuples() -> None:
    model, graph = small_network()
    batches = random_batches()
    expected = fisher(model, graph, batches, F.cross_entropy).scores

    for packed in (
        [(x, {"classes": y, "task": "shapes"}) for x, y in batches],
        [(x, [y, -y]) for x, y in batches],
        [(x[:2], (y[:2], -y[:2])) for x, y in batches],
    ):

        def loss(outputs: Tensor, labels: Any) -> Tensor:
            return F.cross_entropy(outputs, labels["classes" if isinstance(labels, dict) else 0])

        found = fisher(model, graph, packed, loss).scores
        if len(packed[0][0]) == 2:
            pairs = [(x[:2], y[:2]) for x, y in batches]
            expected = fisher(model, graph, pairs, F.cross_entropy).scores
        for group, scores in expected.items():
            np.testing.assert_allclose(found[group], scores)


def test_fisher_says_that_labels_of_a_whole_batch_cannot_be_taken_apart() -> None:
    model, graph = small_network()
    inputs, _ = random_batches(1)[0]
    boxes = {"boxes": torch.zeros(len(inputs) + 3, 5)}

    with pytest.raises(ValueError, match="labels that are a dict cannot be taken apart"):
        fisher(model, graph, [(inputs, boxes)], lambda outputs, _: outputs.sum())


def test_fisher_does_not_depend_on_how_batches_are_cut() -> None:
    model, graph = small_network()
    batches = random_batches()
    whole = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])

    found = fisher(model, graph, [whole], F.cross_entropy).scores
    for group, scores in fisher(model, graph, batches, F.cross_entropy).scores.items():
        np.testing.assert_allclose(found[group], scores, rtol=1e-6)


def test_fisher_skips_samples_and_not_their_batches() -> None:
    model, graph = small_network()
    inputs, labels = random_batches(1)[0]
    expected = fisher(model, graph, [(inputs[1:], labels[1:])], F.cross_entropy).scores
    inputs[0] = torch.nan

    found = fisher(model, graph, [(inputs, labels)], F.cross_entropy, max_skips=1).scores
    for group, scores in expected.items():
        np.testing.assert_array_equal(found[group], scores)
    with pytest.raises(NotFinite, match="inputs are not finite"):
        fisher(model, graph, [(inputs, labels)], F.cross_entropy, max_skips=0)


def test_a_criterion_without_batches_says_its_name() -> None:
    model, graph = small_network()

    with pytest.raises(ValueError, match="taylor_squared needs at least one batch"):
        taylor_squared(model, graph, [], F.cross_entropy)
