"""First-order terms: what the loss of some samples changes by when a channel goes."""

from __future__ import annotations

from collections.abc import Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from latprune.errors import NotFinite
from latprune.modes import device_of, evaluating, moved
from latprune.outputs import one_number
from latprune.progress import Quiet
from latprune.saliency.culprit import culprit
from latprune.saliency.scores import Saliency
from latprune.saliency.terms import Terms, gates
from latprune.samples import outputs_of, pairs, samples_of, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor, nn

    from latprune.graph.groups import PruningGraph
    from latprune.progress import Progress

    Batch = tuple[Any, Any]


def first_order(
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[Batch],
    loss: Callable[[Any, Any], Tensor],
    *,
    criterion: str,
    fold: Callable[[Tensor], Tensor],
    per_sample: bool = False,
    labelled: bool = True,
    max_skips: int = 3,
    progress: Progress | None = None,
) -> Saliency:
    """Average over batches, or over samples, a function of each channel's first-order term.

    The term t is the derivative of the loss by a gate on the channel, open at 1: Σ w ∂L/∂w over
    the weights w that read the channel (`terms.gates` says what is taken where none do).

    The model scores as it would predict: in evaluation mode, so that a score depends on neither
    the other samples of a batch nor on chance. Its parameters, gradients and modes stay as they
    are.

    Args:
        model: Holds the parameters that `graph` names, on one device.
        graph: The channel groups.
        batches: Pairs (inputs, labels), several inputs in a tuple; moved to the model's device.
            Each counts the same.
        loss: Gives a scalar for (outputs, labels).
        criterion: Its name.
        fold: What a term t, float64 [channels], becomes before it is averaged; ≥ 0.
        per_sample: Whether every sample has a loss and a term of its own.
        labelled: Whether the loss looks at labels; else it is given None.
        max_skips: How many batches, or samples, may give a loss or gradient that is nan or
            infinite.
        progress: Is told of every batch.

    Returns:
        Per channel the mean of `fold(t)`.

    Raises:
        NotFinite: If more than `max_skips` are not finite, or all are; it names the first layer
            at which that shows.
        ModelMismatch: If `graph` was traced from another model.
        DataError: If a batch is no pair, or has no labels where the loss needs them.
        ValueError: If there are no batches, or labels that cannot be taken apart per sample.
    """
    progress = progress or Quiet()
    members = gates(model, graph.groups)
    if not members:
        return Saliency({}, criterion=criterion)
    terms = Terms(model, graph.groups, members)
    needed = {m.parameter: model.get_parameter(m.parameter) for ms in members.values() for m in ms}
    device = device_of(model)
    total = len(batches) if isinstance(batches, Sized) else None
    sums = torch.zeros(sum(terms.channels.values()), dtype=torch.float64)
    used, skips = 0, _Skips(max_skips)
    with evaluating(model), _differentiable(needed.values()), torch.enable_grad():
        for done, (inputs, labels) in enumerate(pairs(batches), start=1):
            whole = inputs, moved(labels, device) if labelled else None
            for part in _samples(*whole) if per_sample else [whole]:
                found = _terms(model, part, loss, terms)
                if found is None:
                    skips.add(culprit(model, part, loss, needed))
                    continue
                used += 1
                sums += fold(found)
            progress.step(done, total, "batches scored")
    skips.check(used=used, criterion=criterion)
    means = terms.by_group(sums / used)
    return Saliency({g: mean.numpy() for g, mean in means.items()}, criterion=criterion)


def _samples(inputs: Any, labels: Any) -> Iterator[Batch]:
    """Take a batch apart; one of a single sample is whole, whatever form its labels have.

    Raises:
        ValueError: If the labels of several cannot be taken apart.
    """
    samples = samples_of(inputs)
    if samples == 1:
        yield inputs, labels
        return
    for number in range(samples):
        try:
            own = taken(labels, number, number + 1, of=samples)
        except ValueError as error:
            raise ValueError(
                f"every sample needs a loss of its own here, and labels that are a "
                f"{type(labels).__name__} cannot be taken apart, for {error}: give batches of one "
                f"sample, or take another criterion, such as taylor_squared"
            ) from error
        yield taken(inputs, number, number + 1, of=samples), own


@dataclass
class _Skips:
    """Counts the batches that are not finite."""

    most: int
    count: int = 0
    why: str = ""

    def add(self, why: str) -> None:
        self.count, self.why = self.count + 1, why
        if self.count > self.most:
            raise NotFinite(
                f"{self.count} batches gave numbers that are nan or infinite, and {self.most} "
                f"may: in the last, {why}. Check the inputs, the weights and the loss."
            )

    def check(self, *, used: int, criterion: str) -> None:
        """Make sure that something is left to average."""
        if self.count and not used:
            raise NotFinite(
                f"all {self.count} batches gave numbers that are nan or infinite: in the last, "
                f"{self.why}. Check the inputs, the weights and the loss."
            )
        if not used:
            raise ValueError(
                f"{criterion} needs at least one batch to score with, and was given none"
            )


def _terms(
    model: nn.Module,
    batch: tuple[Tensor, Any],
    loss: Callable[[Any, Any], Tensor],
    terms: Terms,
) -> Tensor | None:
    """Give t for all channels, float64 on the CPU, or None if the loss or one is not finite."""
    inputs, labels = batch
    value = one_number(loss(outputs_of(model, inputs, device_of(model)), labels))
    # Not backward(): the user's own gradients stay as they are.
    slopes = torch.autograd.grad(value, terms.parameters, allow_unused=True)
    found = torch.cat([terms.of(slopes), value.detach().reshape(1)]).cpu()
    # Not every accelerator has float64.
    return found[:-1].to(torch.float64) if bool(found.isfinite().all()) else None


@contextmanager
def _differentiable(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach frozen parameters too, for as long as it takes."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
