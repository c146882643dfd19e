"""What belongs to which sample is found in whatever form labels have, or refused."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latprune.errors import DataError
from latprune.samples import (
    at_most,
    is_finite,
    joined,
    outputs_of,
    pair_of,
    samples_of,
    several,
    taken,
)

CLASSES, BOXES = torch.arange(4), torch.arange(8.0).view(4, 2)
Pair = namedtuple("Pair", ["classes", "boxes"])


def plain(value: Any) -> Any:
    """Give tensors and arrays as lists."""
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    ("labels", "second"),
    [
        (CLASSES, [1]),
        (CLASSES.numpy(), [1]),
        (["a", "b", "c", "d"], ["b"]),
        ([CLASSES, BOXES], [[1], [[2.0, 3.0]]]),
        ((CLASSES, BOXES, CLASSES, CLASSES), [[1], [[2.0, 3.0]], [1], [1]]),
        (Pair(CLASSES, BOXES), [[1], [[2.0, 3.0]]]),
        (
            {"a": CLASSES, "more": {"b": BOXES}, "scale": 2.0},
            {"a": [1], "more": {"b": [[2.0, 3.0]]}, "scale": 2.0},
        ),
        ([{"boxes": BOXES[:n]} for n in range(1, 5)], [{"boxes": [[0.0, 1.0], [2.0, 3.0]]}]),
        ([BOXES[:n] for n in range(1, 5)], [[[0.0, 1.0], [2.0, 3.0]]]),
        (None, None),
    ],
)
def test_the_labels_of_a_sample_are_its_own(labels: Any, second: Any) -> None:
    found = taken(labels, 1, 2, of=4)

    assert plain(found) == second
    assert labels is None or type(found) is type(labels)


@pytest.mark.parametrize(
    ("labels", "second"),
    [
        ([BOXES[:2], BOXES[2:]], [[[4.0, 5.0], [6.0, 7.0]]]),  # a list has one for each
        ([CLASSES[:2], BOXES[:2]], [[1], [[2.0, 3.0]]]),  # classes and boxes of both
        ((BOXES[:2], BOXES[2:]), [[[2.0, 3.0]], [[6.0, 7.0]]]),  # as two inputs
        (Pair(BOXES[:2], BOXES[2:]), [[[2.0, 3.0]], [[6.0, 7.0]]]),
        ([{"boxes": BOXES[:2]}, {"boxes": BOXES[2:]}], [{"boxes": [[4.0, 5.0], [6.0, 7.0]]}]),
    ],
)
def test_as_many_labels_of_a_picture_as_there_are_pictures_stay_its_own(
    labels: Any, second: Any
) -> None:
    assert plain(taken(labels, 1, 2, of=2)) == second


def test_labels_that_may_be_of_one_sample_or_of_all_are_refused() -> None:
    with pytest.raises(ValueError, match="one for each of 2 samples, or 2 things of all of them"):
        taken([CLASSES[:2], CLASSES[2:]], 1, 2, of=2)
    assert plain(taken([BOXES[:1]], 0, 1, of=1)) == [[[0.0, 1.0]]]


@pytest.mark.parametrize("labels", [BOXES[:3], {"boxes": BOXES[:3]}, [CLASSES, BOXES[:3]], {1, 2}])
def test_what_nothing_tells_apart_is_refused(labels: Any) -> None:
    with pytest.raises(ValueError, match="does not say what belongs to which of 4 samples"):
        taken(labels, 1, 2, of=4)


def test_the_first_samples_are_the_whole_batch_where_labels_cannot_be_taken_apart() -> None:
    inputs = (torch.zeros(4, 3), torch.zeros(4, 5))

    assert samples_of(inputs) == 4
    assert samples_of(at_most((inputs, CLASSES), 3)[0]) == 3
    assert samples_of(at_most((inputs, {"boxes": BOXES[:3]}), 3)[0]) == 4


IMAGES = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("batch", "inputs", "labels"),
    [
        ((IMAGES, CLASSES), IMAGES, CLASSES),
        ([IMAGES, CLASSES], IMAGES, CLASSES),
        (([IMAGES, BOXES], CLASSES), (IMAGES, BOXES), CLASSES),
        (Pair(IMAGES, {"boxes": BOXES}), IMAGES, {"boxes": BOXES}),
        (IMAGES, IMAGES, None),
        ([IMAGES], IMAGES, None),
    ],
)
def test_a_batch_is_inputs_and_labels_or_inputs_alone(batch: Any, inputs: Any, labels: Any) -> None:
    found, own = pair_of(batch)

    assert found is inputs or all(map(torch.equal, found, inputs))
    assert type(found) is type(inputs)
    assert plain(own) == plain(labels)


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"pixel_values": IMAGES, "labels": CLASSES}, "gave a dict of pixel_values, labels"),
        ((IMAGES, CLASSES, BOXES), r"a tuple of 3 \(a Tensor \[4, 3\], a Tensor \[4\], a Tensor"),
        (([{"a": 1}] * 9, None), r"a list of 9 \(a dict of a, .*, 5 more\), a NoneType"),
        ((CLASSES.numpy(), CLASSES), r"a ndarray \[4\]"),
        ([], "a list of 0"),
    ],
)
def test_what_is_no_batch_is_named(batch: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        pair_of(batch)


def test_inputs_of_several_batches_are_joined_one_by_one() -> None:
    images, boxes = joined([(IMAGES, BOXES), (IMAGES[:1], BOXES[:1])])

    assert (len(images), len(boxes)) == (5, 5)
    assert is_finite((images, boxes))
    assert not is_finite((images, boxes / 0))


def test_inputs_that_move_in_their_own_way_are_moved() -> None:
    class Pictures:
        """As torchvision's `ImageList`, which takes a device and nothing else."""

        def __init__(self, tensors: Tensor) -> None:
            self.tensors = tensors

        def to(self, device: torch.device) -> Pictures:
            return Pictures(self.tensors.to(device))

    class Network(torch.nn.Module):
        def forward(self, pictures: Pictures) -> Tensor:
            return pictures.tensors

    inputs, _ = pair_of((Pictures(BOXES), CLASSES))

    assert torch.equal(outputs_of(Network(), inputs, torch.device("cpu")), BOXES)


SIX = torch.arange(6.0).view(6, 1)


@pytest.mark.parametrize(
    ("sizes", "given"),
    [
        ([2, 3, 1], [2, 3]),  # a lone last one beside larger ones is left out
        ([1, 3, 2], [3, 2]),
        ([3, 1, 2], [3, 2]),
        ([1, 4, 1], [4, 2]),
        ([1] * 6, [6]),
        ([1], [1]),
        ([1] * 65, [32, 33]),
        ([], []),
    ],
)
def test_lone_samples_become_batches_and_only_one_beside_larger_ones_is_left_out(
    sizes: list[int], given: list[int]
) -> None:
    samples = torch.arange(float(sum(sizes))).view(-1, 1)
    batches = list(several((own, own.int()) for own in torch.split(samples, sizes)))

    assert [samples_of(inputs) for inputs, _ in batches] == given
    assert all(torch.equal(inputs, labels) for inputs, labels in batches)


@pytest.mark.parametrize(
    ("labels", "together"),
    [
        ([None, None], [None]),
        ([[{"boxes": BOXES}], [{"boxes": BOXES[:1]}]], [[{"boxes": BOXES}, {"boxes": BOXES[:1]}]]),
        ([BOXES, BOXES[:1]], [BOXES, BOXES[:1]]),  # boxes of all samples: whose are they?
        ([[BOXES[:1]], [BOXES[:1]]], [[BOXES[:1]], [BOXES[:1]]]),
    ],
)
def test_lone_samples_are_joined_where_their_labels_can_be(labels: Any, together: Any) -> None:
    found = list(several((SIX[:1], own) for own in labels))

    assert [plain(own) for _, own in found] == [plain(own) for own in together]
    assert sum(samples_of(inputs) for inputs, _ in found) == 2


def test_lone_pictures_of_several_sizes_all_count() -> None:
    sizes = [8, 8, 9, 8, 9, 9]
    batches = [torch.full((1, 3, size, size), size) for size in sizes]

    assert [list(inputs.shape[::2]) for inputs, _ in several(batches)] == [
        [2, 8],
        [1, 9],
        [1, 8],
        [2, 9],
    ]
