"""Detectors are traced, cut, run and trained whole, boxes and all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torchvision

from latprune.graph.tracing import trace
from tests.graph.test_tracing import cut_at_random

if TYPE_CHECKING:
    from torch import nn

SMALL = {"min_size": 96, "max_size": 128}
DETECTORS: dict[str, dict[str, Any]] = {
    "ssdlite320_mobilenet_v3_large": {},
    "fcos_resnet50_fpn": SMALL,
    "fasterrcnn_resnet50_fpn": SMALL,
}


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, 96, 96, generator=generator), torch.rand(3, 90, 100, generator=generator)]


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=4, **DETECTORS[name]
    )
    return model.eval()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_cut_detector_gives_boxes_and_trains(name: str) -> None:
    model = build(name)
    graph = trace(model, (images(),))
    backbone = [layer for layer in graph.layers if layer.name.startswith("backbone")]
    assert all(layer.writes.groups for layer in backbone if layer.shape.has_weights)

    small = cut_at_random(model, graph).eval()

    found = small(images())
    assert [set(of_image) for of_image in found] == [{"boxes", "scores", "labels"}] * 2
    assert all(of_image["boxes"].shape[1:] == (4,) for of_image in found)

    box = torch.tensor([[10.0, 10.0, 60.0, 60.0]])
    targets = [{"boxes": box, "labels": torch.tensor([1])} for _ in images()]
    losses = small.train()(images(), targets)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in small.parameters() if p.requires_grad)


def test_a_detector_can_be_given_its_images_as_one_tensor() -> None:
    model = build("ssdlite320_mobilenet_v3_large")

    batch = trace(model, torch.stack([images()[0]] * 2))
    several = trace(model, ([images()[0]] * 2,))

    assert batch.widths == several.widths
    assert batch.key == several.key
