"""Distances of outputs curve as they say that they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latprune.distances import Curved
from latprune.tasks import detection
from latprune.tuning import cross_entropy, distillation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DRAWS = 1000


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Squared:
    """A distance of one's own, as `docs/criteria.md` has it."""

    def __call__(self, outputs: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
        return (outputs - taught).square().sum(dim=(1, 2, 3)).mean()

    def sampled(
        self,
        outputs: Tensor,
        *,
        temperature: float,
        generator: torch.Generator,
    ) -> Tensor:
        signs = torch.randint(2, outputs.shape, generator=generator).to(outputs) * 2 - 1
        return (2**0.5 * signs * outputs).sum()


ONE_OF_EACH = pytest.mark.parametrize(
    ("distance", "outputs", "put"),
    [
        (distillation, [3 * normal(1, 4)], lambda logits: logits),
        (distillation, [2 * normal(1, 3, 2, 2)], lambda logits: {"logits": logits}),
        (detection.distillation, [2 * normal(1, 3, 4), normal(1, 3, 4)], lambda *both: both),
        (Squared(), [normal(1, 1, 2, 2)], lambda depth: depth),
    ],
    ids=["classes", "every pixel's classes", "boxes and their classes", "depths"],
)


@ONE_OF_EACH
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_slopes_are_drawn_from_the_curvature(
    distance: Curved, outputs: Sequence[Tensor], put: Callable[..., Any], temperature: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [part.requires_grad_() for part in outputs]

    def drawn() -> Tensor:
        scalar = distance.sampled(put(*parts), temperature=temperature, generator=generator)
        return torch.cat([g.flatten() for g in torch.autograd.grad(scalar, parts)])

    sampled = sum(torch.outer(v, v) for v in (drawn() for _ in range(DRAWS))) / DRAWS

    assert isinstance(sampled, Tensor)
    curvature = hessian(distance, parts, put, temperature)
    # An entry off the diagonal has a standard deviation of at most what the diagonal has.
    tolerance = 6 * float(curvature.diagonal().max()) / DRAWS**0.5
    torch.testing.assert_close(sampled, curvature, rtol=0.02, atol=tolerance)


def hessian(
    distance: Curved, outputs: Sequence[Tensor], put: Callable[..., Any], temperature: float
) -> Tensor:
    """Give the second derivatives of outputs' distance from themselves, [numbers, numbers]."""
    sizes, shapes = [part.numel() for part in outputs], [part.shape for part in outputs]
    whole = torch.cat([part.detach().flatten() for part in outputs])

    def of(numbers: Tensor) -> Any:
        parts = torch.split(numbers, sizes)
        return put(*(part.view(shape) for part, shape in zip(parts, shapes, strict=True)))

    def far(numbers: Tensor) -> Tensor:
        return distance(of(numbers), of(whole), temperature=temperature)

    found: Tensor = torch.autograd.functional.hessian(far, whole)  # type: ignore[no-untyped-call]
    return found


@ONE_OF_EACH
def test_slopes_are_the_same_for_the_same_seed(
    distance: Curved, outputs: Sequence[Tensor], put: Callable[..., Any]
) -> None:
    first, again = (
        distance.sampled(put(*outputs), temperature=2.0, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )

    assert first.item() == again.item()


def test_only_what_can_be_sampled_is_curved() -> None:
    assert isinstance(distillation, Curved)
    assert isinstance(detection.distillation, Curved)
    assert not isinstance(cross_entropy, Curved)
    assert not isinstance(None, Curved)


def test_positions_of_a_map_are_samples() -> None:
    logits, taught = normal(2, 3, 4, 5), normal(2, 3, 4, 5).flip(0)
    pixels, wise = (each.movedim(1, -1).flatten(0, 2) for each in (logits, taught))

    torch.testing.assert_close(
        distillation(logits, taught, temperature=2.0), distillation(pixels, wise, temperature=2.0)
    )
    # It stays beside the labels' loss, which is the mean over pixels, too.
    masks = torch.zeros(2, 4, 5, dtype=torch.int64)
    assert distillation(logits, taught, temperature=1.0) < 10 * F.cross_entropy(logits, masks)
