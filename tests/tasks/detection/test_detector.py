"""The network in the middle of torchvision's SSD, against torchvision's SSD as a whole."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import latprune as lp
from latprune.errors import ModelMismatch
from latprune.graph.slicing import slice_model
from latprune.tasks.detection import Detector, distillation
from tests.detectors import SIZE, things_batch, tiny_ssd
from tests.networks import Plain

if TYPE_CHECKING:
    from latprune.tasks.detection import SingleShot


@pytest.fixture
def detector() -> Detector:
    detector = Detector.of(tiny_ssd())
    # Else scores are nearly equal, and rounding decides which box suppresses which.
    for parameter in detector.network.head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return detector


def normalised(images: Tensor, detector: Detector) -> Tensor:
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (detector.mean, detector.std))
    return (images - mean) / std


def cut_in_half(detector: Detector) -> SingleShot:
    network = detector.network.eval()
    example = torch.randn(1, 3, *detector.size)
    graph = lp.trace(network, example)
    kept = {group.name: range(group.channels // 2) for group in graph.groups}
    small = copy.deepcopy(network)
    slice_model(small, graph.groups, kept)
    return small


def test_the_loss_is_the_one_torchvision_trains_with(detector: Detector) -> None:
    images, targets = things_batch()
    detector.ssd.train()
    theirs = detector.ssd(list(images), targets)
    ours = detector.loss(detector.network(normalised(images, detector)), targets)

    assert ours.item() == pytest.approx(sum(part.item() for part in theirs.values()), rel=1e-5)


def test_boxes_are_those_torchvision_finds(detector: Detector) -> None:
    images, _ = things_batch()
    detector.ssd.eval()
    with torch.no_grad():
        theirs = detector.ssd(list(images))
        ours = detector.detections(detector.network(normalised(images, detector)))

    assert sum(len(found["scores"]) for found in ours) > 20
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine["labels"], other["labels"])
        torch.testing.assert_close(mine["scores"], other["scores"])
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=1e-4, atol=1e-4)


def test_weights_go_by_torchvisions_names(detector: Detector) -> None:
    assert detector.network.state_dict().keys() == detector.ssd.state_dict().keys()


def test_backbone_extra_layers_and_heads_are_cut_together(detector: Detector) -> None:
    before = {n: m for n, m in detector.network.named_modules() if isinstance(m, nn.Conv2d)}
    small = dict(cut_in_half(detector).named_modules())
    halved = {
        name
        for name, layer in before.items()
        if small[name].get_parameter("weight").shape[1] * 2 == layer.in_channels
    }

    # All but the first layer, which reads the picture, read half as much.
    assert halved == before.keys() - {"backbone.body.0.0"}


def test_a_pruned_detector_is_torchvisions_again(detector: Detector) -> None:
    small = cut_in_half(detector)
    whole: Any = detector.assembled(small.train())
    assert not any(module.training for module in whole.modules())
    pictures = [torch.rand(3, 40, 64), torch.rand(3, SIZE, SIZE)]
    dense_before = [p.clone() for p in detector.ssd.parameters()]
    with torch.no_grad():
        found = whole(pictures)
        resized, _ = whole.transform(pictures)
        ours = detector.detections(small(resized.tensors))

    assert whole.backbone is small.backbone
    assert whole.head is small.head
    scale = torch.tensor([64 / SIZE, 40 / SIZE, 64 / SIZE, 40 / SIZE])
    torch.testing.assert_close(found[0]["boxes"], ours[0]["boxes"] * scale)
    assert all(map(torch.equal, dense_before, detector.ssd.parameters()))


def test_only_torchvisions_ssd_is_taken_apart(detector: Detector) -> None:
    with pytest.raises(ModelMismatch, match="not Plain"):
        Detector.of(Plain())
    with pytest.raises(ModelMismatch, match="not around Plain"):
        detector.assembled(Plain())


def test_outputs_count_the_background(detector: Detector) -> None:
    assert detector.outputs() == 3


def test_a_network_that_says_what_its_teacher_says_has_nothing_to_learn(
    detector: Detector,
) -> None:
    outputs = detector.network(things_batch()[0])
    other = tuple(part + torch.randn_like(part) for part in outputs)

    assert distillation(outputs, outputs, temperature=2.0).item() == pytest.approx(0, abs=1e-6)
    assert distillation(other, outputs, temperature=2.0).item() > 0.1


def test_a_teacher_teaches_where_it_sees_objects() -> None:
    taught = torch.tensor([[[20.0, 0, 0], [0, 20.0, 0]]]), torch.zeros(1, 2, 4)
    logits = torch.randn(1, 2, 3, requires_grad=True)
    offsets = torch.randn(1, 2, 4, requires_grad=True)
    distillation((logits, offsets), taught, temperature=1.0).backward()  # type: ignore[no-untyped-call]

    for gradient in (logits.grad, offsets.grad):
        assert gradient is not None
        assert gradient[0, 0].abs().max() < 1e-6
        assert gradient[0, 1].abs().max() > 1e-2
