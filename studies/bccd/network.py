"""SSDLite on an EfficientNet-Lite0: the detector of the study on blood cells.

    latprune prune --task detection --model studies/bccd/network.py:ssdlite160 --classes 4 …

Maps of an eighth and a sixteenth of the picture come from the classifier, which ends there; two
smaller ones come from layers of their own. Heads and extra layers are SSDLite's: depthwise, then
1x1.

Source:
    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016; Sandler et al., "MobileNetV2",
    CVPR 2018, section 6.2, for SSDLite.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import timm
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import Conv2dNormActivation

SIZE = 160
EXTRA = (128, 128)
# Platelets are a fourteenth of a picture, red cells a sixth and crowded: the finest map, whose
# anchors are of 0.08 and of 0.13, has to find the ones and to tell the others apart.
SCALES = (0.08, 0.22, 0.38, 0.6, 0.85)
MEAN = STD = (0.5, 0.5, 0.5)


class LiteFeatures(nn.Module):
    """An EfficientNet-Lite0 up to a sixteenth of the picture, then ever smaller maps."""

    def __init__(self) -> None:
        super().__init__()
        body: Any = timm.create_model(
            "tf_efficientnet_lite0", features_only=True, out_indices=(2, 3)
        )
        body.blocks = body.blocks[:5]  # timm builds the stages after the last index too
        self.body = body
        channels: list[int] = list(body.feature_info.channels())
        self.extra = nn.ModuleList()
        for out in EXTRA:
            self.extra.append(_smaller(channels[-1], out))
            channels.append(out)
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = list(self.body(images))
        for block in self.extra:
            maps.append(block(maps[-1]))
        return OrderedDict((str(number), each) for number, each in enumerate(maps))


def ssdlite160(num_classes: int = 4) -> SSD:
    """Build it; `num_classes` counts the background."""
    anchors = DefaultBoxGenerator([[2] for _ in SCALES[1:]], scales=list(SCALES))
    features = LiteFeatures()
    head = SSDLiteHead(
        features.out_channels, anchors.num_anchors_per_location(), num_classes, nn.BatchNorm2d
    )
    return SSD(
        features,
        anchors,
        (SIZE, SIZE),
        num_classes,
        head=head,
        image_mean=list(MEAN),
        image_std=list(STD),
    )


def _smaller(in_channels: int, out: int) -> nn.Sequential:
    layer = partial(Conv2dNormActivation, activation_layer=nn.ReLU6)
    inner = out // 2
    return nn.Sequential(
        layer(in_channels, inner, kernel_size=1),
        layer(inner, inner, kernel_size=3, stride=2, groups=inner),
        layer(inner, out, kernel_size=1),
    )
