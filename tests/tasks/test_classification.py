"""Accuracy, counted again with NumPy."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from latprune.errors import DataError
from latprune.tasks import evaluate, load_model, load_weights, open_images, preprocessing_for

if TYPE_CHECKING:
    from pathlib import Path

OUTPUTS = 9


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.9), nn.Linear(6, OUTPUTS))


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(n, 6), torch.randint(OUTPUTS, (n,))) for n in (30, 30, 7)]


def test_accuracies_equal_a_count_by_hand(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    classes = [7, 1, 2, 4]
    images, labels = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    linear = model.get_submodule("1")
    logits = linear(torch.from_numpy(images)).detach().numpy()
    rank = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
    allowed = np.where(np.isin(np.arange(OUTPUTS), classes), logits, -np.inf)

    found = evaluate(model, batches, classes=classes)

    assert found == {
        "top1": pytest.approx((rank < 1).mean(), abs=1e-6),
        "top5": pytest.approx((rank < 5).mean(), abs=1e-6),
        "top1_restricted": pytest.approx((allowed.argmax(1) == labels).mean(), abs=1e-6),
    }


def test_every_mode_is_put_back(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    model.train()
    model[1].eval()  # type: ignore[index]
    evaluate(model, batches)

    assert [module.training for module in model.modules()] == [True, True, False]


def test_five_outputs_have_no_top_five() -> None:
    images, labels = torch.randn(8, 3), torch.randint(5, (8,))
    assert evaluate(nn.Linear(3, 5), [(images, labels)]).keys() == {"top1"}


def test_an_empty_loader_is_an_error(model: nn.Module) -> None:
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(model, [])


def test_a_pretrained_network_knows_real_pictures(shared_data: Path) -> None:
    spec = "timm:tf_efficientnet_lite0"
    model = load_model(spec)
    load_weights(model, shared_data / "weights" / "imagenet_tf_efficientnet_lite0.safetensors")
    data = open_images(shared_data / "imagenette224" / "imagenette224-s.zip")
    labels = data.labels_for(1000)
    transform = replace(preprocessing_for(spec, model), crop_pct=1.0).evaluation()
    split = data.split("test", transform=transform, labels=labels)
    every_tenth = Subset(split, range(0, len(split), 10))

    found = evaluate(model, DataLoader(every_tenth, batch_size=10), classes=labels)

    # 97.8 % and 69.6 % on all 500; of 50 pictures one is 2 points.
    assert found["top1_restricted"] >= 0.9
    assert 0.5 <= found["top1"] <= 0.9


def test_the_padded_network_knows_real_thumbnails(
    shared_data: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository / "studies"))
    model = load_model(f"{repository / 'studies' / 'cifar_resnet.py'}:resnet20")
    load_weights(model, shared_data / "weights" / "cifar10_resnet20.safetensors")
    cifar = importlib.import_module("shared_data").Cifar10("test", folder=shared_data)

    found = evaluate(model, DataLoader(Subset(cifar, range(200)), batch_size=100))

    assert found["top1"] >= 0.85  # 91.73 % on all 10,000
