"""How well a detector finds: mean average precision at an overlap of one half."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from latprune.errors import DataError, import_extra
from latprune.modes import device_of, evaluating, moved

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.tasks.detection.detector import Detector

OVERLAP = 0.5
MOST_DETECTIONS = 300  # of a picture; COCO's 100 would cut off crowded ones


@torch.no_grad()
def evaluate(
    network: nn.Module,
    loader: Iterable[tuple[Tensor, Sequence[Mapping[str, Tensor]]]],
    *,
    detector: Detector,
) -> dict[str, float]:
    """Measure mAP@0.5 as VOC does: difficult objects count neither way.

    Overlaps do not change when picture and boxes are stretched alike, so boxes are compared where
    the network sees them.

    Args:
        network: Images to (logits, offsets): the detector's own, or one cut from it. Judged in
            eval mode; every module's mode is put back.
        loader: Batches of (images, targets), with `boxes`, `labels` and `difficult` per picture;
            moved to the network's device.
        detector: Decodes boxes.

    Returns:
        Shares in [0, 1]: `map50`, precision averaged over 101 recalls and over the classes that
        occur, and `map50_voc07`, over 11 recalls, as in the VOC 2007 challenge.

    Raises:
        DataError: If the loader gives nothing, or no object that counts.
        MissingExtra: If torchmetrics or faster-coco-eval is not installed.

    Source:
        Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV
        2015, for overlap and difficult objects; COCO's, by faster-coco-eval, for the recalls.
    """
    device = device_of(network)
    fine, coarse = _metric(101), _metric(11)
    counted = 0
    with evaluating(network):
        for images, on_host in loader:
            targets = moved(on_host, device)
            found = detector.detections(network(images.to(device)))
            pairs = [without_difficult(d, t) for d, t in zip(found, targets, strict=True)]
            predictions, objects = map(list, zip(*pairs, strict=True))
            for metric in (fine, coarse):
                metric.update(predictions, objects)
            counted += sum(len(each["labels"]) for each in objects)
    if not counted:
        raise DataError("there is nothing to evaluate on: the loader gave no object that counts")
    return {
        "map50": round(float(fine.compute()["map"]), 6),
        "map50_voc07": round(float(coarse.compute()["map"]), 6),
    }


def without_difficult(
    detections: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Leave out difficult objects, and the detections that are of them.

    A detection belongs to the object of its class that it overlaps most, by half at least; if
    that one is difficult, the detection is neither right nor wrong.

    Args:
        detections: `boxes` [found, 4], `labels` [found] and `scores` [found].
        target: `boxes` [objects, 4], `labels` [objects] and, if any may be, `difficult` [objects].

    Returns:
        Both, without them.
    """
    boxes, labels = target["boxes"], target["labels"]
    difficult = target.get("difficult", torch.zeros_like(labels, dtype=torch.bool))
    counts = {"boxes": boxes[~difficult], "labels": labels[~difficult]}
    if not difficult.any():
        return dict(detections), counts
    overlaps = import_extra("torchvision.ops", "train").box_iou(detections["boxes"], boxes)
    overlaps = overlaps.where(detections["labels"][:, None] == labels, -1.0)
    best, whose = overlaps.max(dim=1)
    stays = ~((best >= OVERLAP) & difficult[whose])
    return {name: value[stays] for name, value in detections.items()}, counts


def _metric(recalls: int) -> Any:
    import_extra("faster_coco_eval", "train")
    return import_extra("torchmetrics.detection", "train").MeanAveragePrecision(
        iou_thresholds=[OVERLAP],
        # Divided as a recall is: what equals a threshold reaches it.
        rec_thresholds=[step / (recalls - 1) for step in range(recalls)],
        max_detection_thresholds=[1, 10, MOST_DETECTIONS],
        backend="faster_coco_eval",
        sync_on_compute=False,  # whoever judges sees all pictures
    )
