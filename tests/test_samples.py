"""What belongs to which sample is found in whatever form labels have, or refused."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latprune.samples import at_most, samples_of, taken

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


@pytest.mark.parametrize("labels", [BOXES[:3], {"boxes": BOXES[:3]}, [CLASSES, BOXES[:3]], {1, 2}])
def test_what_nothing_tells_apart_is_refused(labels: Any) -> None:
    with pytest.raises(ValueError, match="does not say what belongs to which of 4 samples"):
        taken(labels, 1, 2, of=4)


def test_the_first_samples_are_the_whole_batch_where_labels_cannot_be_taken_apart() -> None:
    inputs = (torch.zeros(4, 3), torch.zeros(4, 5))

    assert samples_of(inputs) == 4
    assert samples_of(at_most((inputs, CLASSES), 3)[0]) == 3
    assert samples_of(at_most((inputs, {"boxes": BOXES[:3]}), 3)[0]) == 4
