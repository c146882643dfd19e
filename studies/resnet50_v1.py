"""ResNet-50 as first published: a stage's stride sits in its first 1x1 convolution.

torchvision moved it into the 3x3 convolution ("v1.5"). The weights of the original load into
torchvision's network without a complaint and lose ten points there.
"""

from __future__ import annotations

import torchvision
from torch import nn


def resnet50_v1() -> nn.Module:
    model: nn.Module = torchvision.models.resnet50()
    for stage in ("layer2", "layer3", "layer4"):
        for convolution, stride in (("conv1", 2), ("conv2", 1)):
            layer = model.get_submodule(f"{stage}.0.{convolution}")
            assert isinstance(layer, nn.Conv2d)
            layer.stride = (stride, stride)
    return model
