"""SSD at 512 pixels with a ResNet-50 in front, the detector that HALP prunes."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from latprune.errors import import_extra

if TYPE_CHECKING:
    from collections.abc import Sequence

# SSD512's anchors on VOC: Liu et al., ECCV 2016.
SCALES = (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)
ASPECT_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
# Inner and outer channels of the layers after the backbone, each at half the size before it.
EXTRA = ((256, 512), (256, 512), (128, 256), (128, 256), (128, 256), (128, 256))


class ResNetFeatures(nn.Module):
    """A ResNet up to its third stage, at an eighth of the picture, then ever smaller maps.

    The third stage keeps the size of the second, so that small objects have a map of
    size / 8 with 1024 channels.
    """

    def __init__(self, resnet: Any, extra: Sequence[tuple[int, int]] = EXTRA) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = resnet.conv1, resnet.bn1, resnet.relu
        self.maxpool = resnet.maxpool
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        _keep_size(self.layer3)
        channels = self.layer3[-1].conv3.out_channels
        self.out_channels = [channels, *(outer for _, outer in extra)]
        self.extra = nn.ModuleList(
            _smaller(before, inner, outer)
            for before, (inner, outer) in zip(self.out_channels, extra, strict=False)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Give seven maps, the largest first, by their number."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer3(self.layer2(self.layer1(x)))
        maps = [x]
        for block in self.extra:
            maps.append(block(maps[-1]))
        return OrderedDict((str(number), each) for number, each in enumerate(maps))


def ssd512_resnet50(
    num_classes: int = 21, *, pretrained_backbone: bool = False, size: int = 512
) -> nn.Module:
    """Build SSD512 on a ResNet-50 that ends with its third stage.

    Args:
        num_classes: With the background; 21 for VOC.
        pretrained_backbone: Fetch torchvision's ImageNet weights (needs a network connection).
        size: Height and width to which pictures are resized, at least 65.

    Returns:
        torchvision's `SSD` with seven maps of size / 8 to size / 512.

    Source:
        Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016; the backbone as in Huang et
        al., "Speed/accuracy trade-offs for modern convolutional object detectors", CVPR 2017,
        whose first map also comes from the third stage.
    """
    models = import_extra("torchvision.models", "train")
    ssd = import_extra("torchvision.models.detection.ssd", "train")
    anchors = import_extra("torchvision.models.detection.anchor_utils", "train")
    resnet = models.resnet50(weights="IMAGENET1K_V2" if pretrained_backbone else None)
    generator = anchors.DefaultBoxGenerator(
        [list(ratios) for ratios in ASPECT_RATIOS], scales=list(SCALES)
    )
    detector: nn.Module = ssd.SSD(ResNetFeatures(resnet), generator, (size, size), num_classes)
    return detector


def _keep_size(stage: nn.Module) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def _smaller(in_channels: int, inner: int, outer: int) -> nn.Sequential:
    block = nn.Sequential(
        nn.Conv2d(in_channels, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
    )
    for module in block:
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    return block
