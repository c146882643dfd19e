"""Labels are many: a network has one for every entry of every axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.graph.classes import LabelClasses

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest


def test_labels_are_new_ones_and_apart() -> None:
    classes = LabelClasses()
    axes = [classes.fresh(size) for size in (3, 1, 0, 40, 7)]

    labels = np.concatenate(axes)
    assert classes.count == 52
    assert labels.tolist() == list(range(1, 52))
    assert np.array_equal(classes.find(labels), labels)
    assert not classes.is_frozen(labels).any()


def test_what_there_is_is_not_copied_for_every_new_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = 0
    concatenate = np.concatenate

    def counting(parts: Sequence[np.ndarray]) -> Any:
        nonlocal copied
        copied += sum(map(len, parts))
        return concatenate(parts)

    monkeypatch.setattr(np, "concatenate", counting)
    classes = LabelClasses()
    for _ in range(500):
        classes.fresh(10)

    assert copied < 10 * classes.count
