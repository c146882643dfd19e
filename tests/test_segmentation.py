"""Segmentation is a loss and a metric of one's own: docs/detection.md shows how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.segmentation import MeanIoU

import latprune as lp
from latprune.modes import evaluating
from latprune.tuning import distillation
from tests.networks import ConvNorm
from tests.synthetic import Synthetic

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

CLASSES = 3
RECIPE = lp.Recipe(epochs=10, lr=0.1, warmup_epochs=0, precision="no")


class Segmenter(nn.Module):
    """Down, across and up again, with a shortcut: logits [n, classes, height, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.across = ConvNorm(3, 16), ConvNorm(16, 32)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.out = nn.Conv2d(32, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.stem(images)
        coarse = self.up(self.across(F.max_pool2d(fine, 2)))
        return self.out(torch.cat([fine, coarse], dim=1))  # type: ignore[no-any-return]


def stripes(count: int, *, seed: int) -> DataLoader[tuple[Tensor, ...]]:
    """Noisy pictures [3, 16, 16] whose brightest channel at a pixel is the pixel's class."""
    random = torch.Generator().manual_seed(seed)
    masks = torch.randint(CLASSES, (count, 4, 4), generator=random)
    masks = masks.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    images = F.one_hot(masks, CLASSES).permute(0, 3, 1, 2) + 0.7 * torch.randn(
        count, 3, 16, 16, generator=random
    )
    return DataLoader(TensorDataset(images, masks), batch_size=16)


def loss(logits: Tensor, masks: Tensor) -> Tensor:
    return F.cross_entropy(logits, masks)


@torch.no_grad()
def evaluate(model: nn.Module) -> dict[str, float]:
    metric = MeanIoU(num_classes=CLASSES, input_format="index")
    with evaluating(model):
        for images, masks in stripes(32, seed=9):
            metric.update(model(images).argmax(1), masks)
    return {"miou": float(metric.compute())}


def test_a_segmenter_is_pruned_with_a_loss_and_a_metric_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Synthetic(whole=1.2).install(monkeypatch)
    model, loader, example = Segmenter(), stripes(64, seed=1), torch.randn(1, 3, 16, 16)
    lp.tune(model, loader, recipe=RECIPE, loss=loss)
    pruned = lp.prune(
        model,
        example,
        0.5,
        loader=loader,
        loss=loss,
        distil=distillation,
        evaluate=evaluate,
        recipe=RECIPE,
        target=lp.Target.here("synthetic"),
        folder=tmp_path,
    )

    dense, small = pruned.report.dense.accuracy["miou"], pruned.report.small.accuracy["miou"]
    assert pruned.met
    assert pruned.plan.criterion == "relative_gauss_newton"
    assert pruned.model(example).shape == (1, CLASSES, 16, 16)
    assert dense > 0.8
    assert small > dense - 0.1
    assert small > pruned.before_tuning["miou"]
