"""A detector is a network of tensors and, around it, boxes: only the network is pruned and timed.

torchvision's `SSD` resizes, normalises, runs backbone and heads, then decodes boxes and suppresses
doubles. `SingleShot` is the part in the middle, and an ordinary network: one tensor in, two out.
The rest, whose cost no channel changes, stays here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latprune.errors import ModelMismatch, import_extra
from latprune.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Target = Mapping[str, Tensor]
    Outputs = tuple[Tensor, Tensor]


class SingleShot(nn.Module):
    """Backbone and heads; parameters are named as in torchvision's `SSD`."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Outputs:
        """Look at every anchor.

        Args:
            images: Resized and normalised, [n, 3, height, width].

        Returns:
            Logits [n, anchors, classes], class 0 being the background, and box offsets
            [n, anchors, 4].
        """
        features = self.backbone(images)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        found = self.head(maps)
        return found["cls_logits"], found["bbox_regression"]


@dataclass(frozen=True, eq=False)
class Detector:
    """A single-shot detector: its network, and what boxes and their loss need.

    Attributes:
        network: To be traced, measured, pruned and tuned.
        ssd: torchvision's `SSD`, which `network` shares its layers with.
        anchors: Corners (x1, y1, x2, y2) in pixels of the resized picture, [anchors, 4].
        size: Height and width to which pictures are resized.
    """

    network: SingleShot
    ssd: nn.Module
    anchors: Tensor
    size: tuple[int, int]

    @classmethod
    def of(cls, ssd: nn.Module) -> Detector:
        """Take torchvision's detector apart; its layers are shared, not copied.

        Raises:
            ModelMismatch: If it is no `torchvision.models.detection.ssd.SSD`.
        """
        known = import_extra("torchvision.models.detection.ssd", "train").SSD
        if not isinstance(ssd, known):
            raise ModelMismatch(
                f"a detector is torchvision's SSD (torchvision.models.detection.ssd.SSD), with any "
                f"backbone and head, not {type(ssd).__name__}"
            )
        whole: Any = ssd
        width, height = whole.transform.fixed_size
        network = SingleShot(whole.backbone, whole.head)
        return cls(network, ssd, _anchors(whole, (height, width)), (height, width))

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of values in [0, 1], as the network was trained with."""
        whole: Any = self.ssd
        return tuple(whole.transform.image_mean)

    @property
    def std(self) -> tuple[float, ...]:
        """As `mean`."""
        whole: Any = self.ssd
        return tuple(whole.transform.image_std)

    @torch.no_grad()
    def outputs(self) -> int:
        """Count the classes, the background among them."""
        with evaluating(self.network):
            logits, _ = self.network(torch.zeros(1, 3, *self.size))
        return int(logits.shape[-1])

    def loss(self, outputs: Outputs, targets: Sequence[Target]) -> Tensor:
        """Compare what a network says of the anchors with the objects that are there.

        Args:
            outputs: Logits [n, anchors, classes] and offsets [n, anchors, 4].
            targets: Per picture `boxes` [objects, 4], corners in pixels of the resized picture,
                and `labels` [objects], from 1.

        Returns:
            The multibox loss, a scalar: smooth L1 of the offsets plus cross-entropy, with three
            negatives for each positive, over the number of positives.

        Source:
            Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2.
        """
        logits, offsets = (part.float() for part in outputs)
        anchors = self.anchors.to(logits.device)
        whole: Any = self.ssd
        parts = whole.compute_loss(
            list(targets),
            {"cls_logits": logits, "bbox_regression": offsets},
            [anchors] * len(targets),
            [self._matched(target["boxes"], anchors) for target in targets],
        )
        total: Tensor = parts["bbox_regression"] + parts["classification"]
        return total

    def detections(self, outputs: Outputs) -> list[dict[str, Tensor]]:
        """Decode boxes and drop doubles.

        Args:
            outputs: Logits [n, anchors, classes] and offsets [n, anchors, 4].

        Returns:
            Per picture `boxes` [found, 4] in pixels of the resized picture, `scores` [found],
            the highest first, and `labels` [found].
        """
        logits, offsets = (part.float() for part in outputs)
        anchors = self.anchors.to(logits.device)
        whole: Any = self.ssd
        found: list[dict[str, Tensor]] = whole.postprocess_detections(
            {"cls_logits": logits, "bbox_regression": offsets},
            [anchors] * len(logits),
            [self.size] * len(logits),
        )
        return found

    def assembled(self, network: nn.Module) -> nn.Module:
        """Give torchvision's detector around a network, such as the pruned one; layers are shared.

        Everything is in evaluation mode, where it gives boxes and asks for none.

        Raises:
            ModelMismatch: If the network is not backbone and head.
        """
        if not isinstance(network, SingleShot):
            raise ModelMismatch(
                f"a detector is put together around a SingleShot, as `network` is and what was cut "
                f"from it, not around {type(network).__name__}"
            )
        with_layers = {id(self.ssd.backbone): network.backbone, id(self.ssd.head): network.head}
        return copy.deepcopy(self.ssd, with_layers).eval()

    def _matched(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Give each anchor's object, or a negative number, [anchors]."""
        if not len(boxes):
            return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
        whole: Any = self.ssd
        overlaps = import_extra("torchvision.ops", "train").box_iou(boxes, anchors)
        matched: Tensor = whole.proposal_matcher(overlaps)
        return matched


@torch.no_grad()
def _anchors(ssd: Any, size: tuple[int, int]) -> Tensor:
    images = torch.zeros(1, 3, *size)
    with evaluating(ssd):
        features = ssd.backbone(images)
    maps = [features] if isinstance(features, Tensor) else list(features.values())
    listed = import_extra("torchvision.models.detection.image_list", "train").ImageList
    anchors: Tensor = ssd.anchor_generator(listed(images, [size]), maps)[0]
    return anchors
