"""Published classification networks, cut at random in every group at once, stay exact."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from studies.cifar_resnet import resnet20, resnet56
from torch import nn

from latprune.graph.tracing import trace
from tests.graph.test_tracing import cut_at_random, is_right

SIZES = {
    "alexnet": 96,
    "googlenet": 96,
    "inception_v3": 299,
    "cifar_resnet20": 32,
    "cifar_resnet56": 32,
}
NETWORKS = (
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "vgg11_bn",
    "alexnet",
    "squeezenet1_0",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "mnasnet1_0",
    "googlenet",
    "inception_v3",
    "shufflenet_v2_x1_0",
    "timm:tf_efficientnet_lite0",
    "cifar_resnet20",
    "cifar_resnet56",
)


def build(name: str) -> nn.Module:
    if name.startswith("cifar_"):
        return {"cifar_resnet20": resnet20, "cifar_resnet56": resnet56}[name]()
    if name.startswith("timm:"):
        model: nn.Module = timm.create_model(name.removeprefix("timm:"))
        return model
    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **quick)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_random_cut_of_30_percent_everywhere_is_exact_and_trains(name: str) -> None:
    model = build(name)
    size = SIZES.get(name, 64)
    example = torch.randn(2, 3, size, size)
    graph = trace(model, example)

    assert is_right(model, graph, example)

    outputs = cut_at_random(model, graph).train()(example)
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    assert all(head.shape[-1] == heads[0].shape[-1] for head in heads)
    sum(head.sum() for head in heads).backward()


def test_almost_every_layer_of_a_published_network_can_be_cut() -> None:
    for name in ("resnet50", "densenet121", "mobilenet_v3_large", "regnet_y_400mf"):
        graph = trace(build(name), torch.randn(1, 3, 64, 64))

        fixed = [layer.name for layer in graph.layers if not layer.writes.groups]

        assert fixed == [graph.layers[-1].name]  # the classifier


def test_auxiliary_heads_are_cut_along() -> None:
    graph = trace(build("googlenet"), torch.randn(1, 3, 96, 96))

    parameters = {m.parameter for group in graph.groups for m in group.members}

    assert {"aux1.conv.conv.weight", "aux1.fc1.weight", "aux2.fc2.weight"} <= parameters
