"""`taylor` is the derivative of the loss along a channel's way out, or says why it cannot be."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latprune.errors import ModelMismatch, NotFinite
from latprune.graph.groups import ChannelGroup, Member, PruningGraph
from latprune.saliency import taylor
from latprune.testing import SmallNetwork, random_batches, small_network

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STEP = 1e-4

# What the channels of each group are scored by: (parameter, its share of a channel).
SCORED = {
    "stem": ("stem_norm.weight", "stem_norm.bias", "outer_norm.weight", "outer_norm.bias"),
    "inner": ("inner.weight", "inner.bias"),
}


def loss_with_scaled_channel(
    model: nn.Module,
    names: Sequence[str],
    channel: int,
    factor: float,
    batch: tuple[Tensor, Tensor],
) -> float:
    """Give the loss of a copy in which a channel's parameters are multiplied by a factor."""
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            scaled.get_parameter(name)[channel] *= factor
        return float(F.cross_entropy(scaled(batch[0]), batch[1]))


@pytest.mark.parametrize("group", ["stem", "inner"])
def test_a_score_is_the_mean_of_what_scaling_the_channel_does_to_the_loss(group: str) -> None:
    model, graph = small_network()
    model.double().eval()
    batches = [(images.double(), labels) for images, labels in random_batches()]
    scores = taylor(model, graph, batches, F.cross_entropy).scores[group]

    for channel, score in enumerate(scores):
        slopes = [
            (
                loss_with_scaled_channel(model, SCORED[group], channel, 1 + STEP, batch)
                - loss_with_scaled_channel(model, SCORED[group], channel, 1 - STEP, batch)
            )
            / (2 * STEP)
            for batch in batches
        ]
        assert score == pytest.approx(np.mean(np.abs(slopes)), rel=1e-5)


def test_a_loss_that_is_no_single_number_is_refused() -> None:
    model, graph = small_network()

    with pytest.raises(ValueError, match=r"gave a tensor \[\d+\].*\.mean\(\)"):
        taylor(model, graph, random_batches(1), nn.CrossEntropyLoss(reduction="none"))


def test_entries_that_belong_to_one_channel_are_added_before_the_sign_is_dropped() -> None:
    model, graph = small_network()
    (stem, _) = graph.groups
    fine = taylor(model, graph, random_batches(1), F.cross_entropy).scores["stem"]
    paired = ChannelGroup(
        "stem",
        4,
        tuple(
            replace(member, positions=np.arange(8).reshape(4, 2))
            for member in stem.with_role("scale")
        ),
    )
    model_scores = taylor(
        model, PruningGraph((), (paired,)), random_batches(1), F.cross_entropy
    ).scores["stem"]
    change = _changes(model, [m.parameter for m in stem.with_role("scale")])

    np.testing.assert_allclose(model_scores, np.abs(change.reshape(4, 2).sum(axis=1)), rtol=1e-5)
    assert fine.shape == (8,)


def _changes(model: SmallNetwork, names: list[str]) -> np.ndarray:
    """Give Σ p ∂L/∂p per entry, by backward() on a copy."""
    model = copy.deepcopy(model).eval()
    images, labels = random_batches(1)[0]
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    parameters = [model.get_parameter(name) for name in names]
    total = sum(p.detach() * p.grad for p in parameters if p.grad is not None)
    assert isinstance(total, Tensor)
    return total.numpy()


def test_a_score_does_not_depend_on_the_other_samples_of_a_batch() -> None:
    model, graph = small_network()
    model.train()
    images, labels = random_batches(1)[0]

    def summed(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs[:1], labels[:1], reduction="sum")

    alone = taylor(model, graph, [(images[:1], labels[:1])], summed)
    together = taylor(model, graph, [(images, labels)], summed)
    for group, scores in alone.scores.items():
        np.testing.assert_allclose(together.scores[group], scores, rtol=1e-4)


def with_nan(batches: list[tuple[Tensor, Tensor]], *at: int) -> list[tuple[Tensor, Tensor]]:
    return [
        (images * torch.nan if index in at else images, labels)
        for index, (images, labels) in enumerate(batches)
    ]


def test_batches_that_are_not_finite_are_skipped_up_to_a_number() -> None:
    model, graph = small_network()
    batches = random_batches(4)
    expected = taylor(model, graph, [batches[0], batches[3]], F.cross_entropy)
    found = taylor(model, graph, with_nan(batches, 1, 2), F.cross_entropy, max_skips=2)

    for group, scores in expected.scores.items():
        np.testing.assert_array_equal(found.scores[group], scores)


def test_one_skip_too_many_is_an_error() -> None:
    model, graph = small_network()

    with pytest.raises(NotFinite, match=r"2 batches .* the batch's inputs"):
        taylor(model, graph, with_nan(random_batches(4), 0, 2), F.cross_entropy, max_skips=1)


def test_nothing_but_skipped_batches_is_an_error() -> None:
    model, graph = small_network()

    with pytest.raises(NotFinite, match="all 2 batches"):
        taylor(model, graph, with_nan(random_batches(2), 0, 1), F.cross_entropy, max_skips=9)


def test_a_parameter_that_is_not_finite_is_named() -> None:
    model, graph = small_network()
    with torch.no_grad():
        model.inner.weight[0, 0, 0, 0] = torch.inf

    with pytest.raises(NotFinite, match=r"the parameter inner\.weight"):
        taylor(model, graph, random_batches(), F.cross_entropy, max_skips=0)


def test_the_first_layer_whose_output_is_not_finite_is_named() -> None:
    model, graph = small_network()
    assert model.outer_norm.running_var is not None
    model.outer_norm.running_var.fill_(torch.nan)

    with pytest.raises(NotFinite, match="the output of outer_norm"):
        taylor(model, graph, random_batches(), F.cross_entropy, max_skips=0)


def test_a_loss_that_is_not_finite_is_named() -> None:
    model, graph = small_network()

    def broken(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.sum() * torch.nan

    with pytest.raises(NotFinite, match="the loss is not finite"):
        taylor(model, graph, random_batches(), broken, max_skips=0)


def test_a_gradient_that_alone_is_not_finite_is_named() -> None:
    model, graph = small_network()

    def cusp(outputs: Tensor, _: Tensor) -> Tensor:
        return (outputs - outputs.detach()).abs().sqrt().sum()

    with pytest.raises(NotFinite, match=r"the gradient of \w+\.\w+ is not finite"):
        taylor(model, graph, random_batches(), cusp, max_skips=0)


def test_a_failed_run_leaves_the_model_as_it_was() -> None:
    model, graph = small_network()
    model.train().requires_grad_(False)

    with pytest.raises(NotFinite):
        taylor(model, graph, with_nan(random_batches(1), 0), F.cross_entropy)
    assert all(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_no_batches_are_an_error() -> None:
    model, graph = small_network()

    with pytest.raises(ValueError, match="at least one batch"):
        taylor(model, graph, [], F.cross_entropy)


def test_a_group_that_nothing_reads_or_writes_is_an_error() -> None:
    model, _ = small_network()
    mean = Member("stem_norm.running_mean", 0, np.arange(8)[:, None], "statistic")
    graph = PruningGraph((), (ChannelGroup("stem", 8, (mean,)),))

    with pytest.raises(ModelMismatch, match="no weight writes"):
        taylor(model, graph, random_batches(), F.cross_entropy)


def test_a_parameter_that_the_loss_does_not_reach_is_worth_nothing() -> None:
    model, graph = small_network()

    def first_trunk_only(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.sum() * 0

    for scores in taylor(model, graph, random_batches(), first_trunk_only).scores.values():
        assert not scores.any()


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int | None]] = []

    def stage(self, name: str) -> None:
        raise AssertionError(f"scoring is no stage of its own: {name}")

    def step(self, done: int, total: int | None, what: str) -> None:
        assert what
        self.steps.append((done, total))


def test_progress_is_told_of_every_batch_and_of_their_number_where_it_is_known() -> None:
    model, graph = small_network()
    known, unknown = Recorder(), Recorder()
    taylor(model, graph, random_batches(2), F.cross_entropy, progress=known)

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        yield from random_batches(2)

    taylor(model, graph, stream(), F.cross_entropy, progress=unknown)
    assert known.steps == [(1, 2), (2, 2)]
    assert unknown.steps == [(1, None), (2, None)]
