"""Mean average precision, against VOC's definition written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from latprune.errors import DataError
from latprune.tasks.detection import Detector, evaluate
from latprune.tasks.detection.evaluation import without_difficult
from tests.detectors import SIZE, tiny_ssd

if TYPE_CHECKING:
    from collections.abc import Sequence

Pictures = list[dict[str, Tensor]]


class Says(nn.Module):
    """A network whose outputs are the numbers of its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, 0]


class Finds(Detector):
    """A detector that finds what it was told."""

    def told(self, found: Pictures) -> Finds:
        object.__setattr__(self, "found", found)
        return self

    def detections(self, outputs: Any) -> Pictures:
        found: Pictures = self.found  # type: ignore[attr-defined]
        return [found[int(number)] for number in outputs]


def scene(random: np.random.Generator, *, difficult: float) -> tuple[Pictures, Pictures]:
    """Objects on a few pictures, and detections near some of them and elsewhere."""
    found, targets = [], []
    for _ in range(6):
        count = int(random.integers(1, 5))
        # Objects of a picture do not touch, so that no detection is near two of them.
        corners = np.stack([np.arange(count) * 40.0, np.zeros(count)], axis=1)
        boxes = np.concatenate([corners, corners + random.uniform(10, 20, (count, 2))], axis=1)
        labels = random.integers(1, 3, count)
        copies = random.integers(0, count, 6)
        shifted = boxes[copies] + random.normal(0, 2.5, (6, 1))
        wrong = random.random(6) < 0.2
        targets.append(
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32),
                "labels": torch.tensor(labels),
                "difficult": torch.tensor(random.random(count) < difficult),
            }
        )
        found.append(
            {
                "boxes": torch.tensor(shifted, dtype=torch.float32),
                "labels": torch.tensor(np.where(wrong, 3 - labels[copies], labels[copies])),
                "scores": torch.tensor(random.permutation(6) / 6 + random.random(6) / 100),
            }
        )
    return found, targets


def judged(found: Pictures, targets: Pictures) -> dict[str, float]:
    detector = Finds(**vars(Detector.of(tiny_ssd()))).told(found)
    numbers = torch.arange(len(found)).float()
    images = numbers.view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE)
    parts = [slice(0, 4), slice(4, len(found))][: 1 + (len(found) > 4)]
    batches = [(images[part], targets[part]) for part in parts]
    return evaluate(Says(), batches, detector=detector)


def average_precision(found: Pictures, targets: Pictures, label: int, recalls: Any) -> float:
    """VOC's definition: best precision at each recall or beyond, a difficult object ignored."""
    ranked = sorted(
        (
            (float(score), picture, box)
            for picture, each in enumerate(found)
            for box, its, score in zip(each["boxes"], each["labels"], each["scores"], strict=True)
            if its == label
        ),
        key=lambda detection: -detection[0],
    )
    objects = [t["boxes"][t["labels"] == label] for t in targets]
    difficult = [t["difficult"][t["labels"] == label] for t in targets]
    total = sum(int((~each).sum()) for each in difficult)
    taken: set[tuple[int, int]] = set()
    right, wrong, curve = 0, 0, []
    for _, picture, box in ranked:
        overlaps = box_iou(box[None], objects[picture])[0] if len(objects[picture]) else None
        best = int(overlaps.argmax()) if overlaps is not None else -1
        if overlaps is not None and overlaps[best] >= 0.5 and difficult[picture][best]:
            continue
        hit = overlaps is not None and overlaps[best] >= 0.5 and (picture, best) not in taken
        if hit:
            taken.add((picture, best))
        right, wrong = right + hit, wrong + (not hit)
        curve.append((right / total, right / (right + wrong)))
    return float(
        np.mean([max((p for r, p in curve if r >= wanted - 1e-9), default=0) for wanted in recalls])
    )


def mean_over_classes(found: Pictures, targets: Pictures, recalls: Sequence[float]) -> float:
    countable = {
        label for target in targets for label in target["labels"][~target["difficult"]].tolist()
    }
    return float(
        np.mean([average_precision(found, targets, label, recalls) for label in countable])
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("difficult", [0.0, 0.4])
def test_precision_is_vocs_by_definition(seed: int, difficult: float) -> None:
    found, targets = scene(np.random.default_rng(seed), difficult=difficult)
    metrics = judged(found, targets)

    fine, coarse = np.linspace(0, 1, 101).tolist(), np.linspace(0, 1, 11).tolist()
    assert 0.1 < metrics["map50"] < 0.95
    assert metrics["map50"] == pytest.approx(mean_over_classes(found, targets, fine), abs=1e-3)
    assert metrics["map50_voc07"] == pytest.approx(
        mean_over_classes(found, targets, coarse), abs=1e-3
    )


def test_a_difficult_object_counts_neither_for_nor_against() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2])}
    target["difficult"] = torch.tensor([True, False])
    # Twice the difficult object, once of the wrong class, and once the other.
    found = {
        "boxes": boxes[[0, 0, 0, 1]],
        "labels": torch.tensor([1, 1, 2, 2]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]),
    }
    left, objects = without_difficult(found, target)

    assert left["scores"].tolist() == pytest.approx([0.7, 0.6])
    assert objects["labels"].tolist() == [2]


def test_stretching_pictures_and_boxes_alike_changes_nothing() -> None:
    found, targets = scene(np.random.default_rng(3), difficult=0.2)
    stretch = torch.tensor([3.0, 0.5, 3.0, 0.5])
    wide = [
        [{**each, "boxes": each["boxes"] * stretch} for each in pictures]
        for pictures in (found, targets)
    ]

    assert judged(*wide) == judged(found, targets)


def test_crowded_pictures_are_judged_whole() -> None:
    boxes = torch.tensor(
        [[20.0 * x, 20.0 * y, 20.0 * x + 10, 20.0 * y + 10] for x in range(15) for y in range(15)]
    )
    labels, scores = torch.ones(225, dtype=torch.int64), torch.linspace(0.5, 0.9, 225)
    found = [{"boxes": boxes, "labels": labels, "scores": scores}]

    assert judged(found, [{"boxes": boxes, "labels": labels}])["map50"] == pytest.approx(1.0)


def test_nothing_to_judge_with_is_an_error() -> None:
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    with pytest.raises(DataError, match="no object that counts"):
        judged([{**empty, "scores": torch.zeros(0)}], [empty])
