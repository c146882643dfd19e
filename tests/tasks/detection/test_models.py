"""Detectors by name: what they are made of, and whose weights they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import latprune as lp
from latprune.errors import ModelMismatch, UnknownModel
from latprune.tasks import load_weights
from latprune.tasks.detection import Detector, load_backbone, load_detector, ssd512_resnet50
from latprune.tasks.detection.ssd512 import ResNetFeatures
from tests import detectors

TINY = f"{Path(detectors.__file__)}:tiny_ssd"


def test_a_factory_and_torchvisions_weights_make_a_detector(tmp_path: Path) -> None:
    whole = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    save_file(whole.state_dict(), tmp_path / "ssdlite.safetensors")
    detector = load_detector("torchvision:ssdlite320_mobilenet_v3_large", num_classes=4)
    load_weights(detector.network, tmp_path / "ssdlite.safetensors")
    images = torch.randn(1, 3, 320, 320)
    with torch.no_grad():
        logits, offsets = detector.network.eval()(images)
        features = list(whole.eval().backbone(images).values())
        theirs = whole.head(features)

    assert torch.equal(logits, theirs["cls_logits"])
    assert torch.equal(offsets, theirs["bbox_regression"])
    assert detector.anchors.shape == offsets.shape[1:]


def test_ssd512_has_the_maps_and_anchors_of_the_paper() -> None:
    with torch.device("meta"):
        features = ResNetFeatures(resnet50()).eval()
        maps = features(torch.empty(1, 3, 512, 512)).values()
    anchors = [4, 6, 6, 6, 6, 4, 4]

    assert [each.shape[-1] for each in maps] == [64, 32, 16, 8, 4, 2, 1]
    assert [each.shape[1] for each in maps] == features.out_channels
    # Liu et al. 2016: 24564 default boxes.
    assert sum(n * s * s for n, s in zip(anchors, (64, 32, 16, 8, 4, 2, 1), strict=True)) == 24564
    assert len(Detector.of(ssd512_resnet50(size=512)).anchors) == 24564


def test_ssd512_is_pruned_from_end_to_end_of_its_backbone() -> None:
    network = Detector.of(ssd512_resnet50(3, size=96)).network.eval()
    graph = lp.trace(network, torch.randn(1, 3, 96, 96))
    writers = {name for name in graph.widths if "head" not in name}
    frozen = {frozen.where for frozen in graph.frozen}

    assert {"backbone.conv1", "backbone.layer3.5.conv2", "backbone.extra.5.0"} <= writers
    assert all(where.startswith("head.") for where in frozen)


def test_a_classifiers_weights_fill_the_backbone(tmp_path: Path) -> None:
    classifier = resnet50()
    save_file(classifier.state_dict(), tmp_path / "resnet50.safetensors")
    detector = Detector.of(ssd512_resnet50(3, size=96))
    before = detector.network.backbone.state_dict()["extra.0.0.weight"].clone()
    load_backbone(detector, tmp_path / "resnet50.safetensors")
    after = detector.network.backbone.state_dict()

    assert torch.equal(
        after["layer3.5.conv3.weight"], classifier.state_dict()["layer3.5.conv3.weight"]
    )
    assert torch.equal(after["layer1.0.bn1.weight"], classifier.state_dict()["layer1.0.bn1.weight"])
    assert torch.equal(after["extra.0.0.weight"], before)


def test_names_below_body_are_found_without_it(tmp_path: Path) -> None:
    detector = load_detector(TINY)
    body = detector.network.backbone.get_submodule("body")
    weights = {name: torch.full_like(t, 0.5) for name, t in body.state_dict().items()}
    save_file(weights, tmp_path / "body.safetensors")
    load_backbone(detector, tmp_path / "body.safetensors")

    assert all((p == 0.5).all() for p in body.parameters())


def test_the_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    save_file({"0.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelMismatch, match="another backbone"):
        load_backbone(load_detector(TINY), tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "spec", ["timm:resnet18", "torchvision:resnet18", "latprune:ssd300", "ssd300_vgg16"]
)
def test_what_is_no_detector_is_refused_with_the_names_of_those(spec: str) -> None:
    with pytest.raises(UnknownModel, match=r"write torchvision:ssd300_vgg16, .*PATH\.py:FACTORY"):
        load_detector(spec)


def test_our_own_begin_with_the_published_weights_of_a_classifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def published(*, weights: str | None) -> nn.Module:
        asked.append(weights)
        if weights is not None:
            raise OSError("no connection")
        built: nn.Module = resnet50()
        return built

    monkeypatch.setattr(torchvision.models, "resnet50", published)
    with pytest.raises(UnknownModel, match="no connection; give a file of weights"):
        load_detector("latprune:ssd512_resnet50", pretrained=True)
    assert load_detector("latprune:ssd512_resnet50").outputs() == 21
    assert asked == ["IMAGENET1K_V2", None]


@pytest.mark.parametrize("num_classes", [None, 4])
def test_published_weights_fill_the_network_that_a_file_of_them_is_loaded_into(
    monkeypatch: pytest.MonkeyPatch, num_classes: int | None
) -> None:
    name = "ssdlite320_mobilenet_v3_large"

    def without_fetching(*, weights: str | None, **options: Any) -> nn.Module:
        model: nn.Module = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        if weights is None:
            model = ssdlite320_mobilenet_v3_large(weights=None, **options)
        nn.init.constant_(
            model.get_parameter("backbone.features.0.0.0.weight"), weights == "DEFAULT"
        )
        return model

    monkeypatch.setattr(torchvision.models.detection, name, without_fetching)
    plain = load_detector(f"torchvision:{name}", num_classes=num_classes)
    filled = load_detector(f"torchvision:{name}", num_classes=num_classes, pretrained=True)

    assert filled.outputs() == plain.outputs() == (num_classes or 91)
    assert all(p.requires_grad for p in filled.network.parameters())
    assert bool((filled.network.get_parameter("backbone.features.0.0.0.weight") == 1).all())
    plain.network.load_state_dict(filled.network.state_dict())


def test_outputs_are_those_that_were_asked_for() -> None:
    assert load_detector(TINY, num_classes=7).outputs() == 7
    assert isinstance(load_detector(TINY).network, nn.Module)
