"""Beside a trunk narrowing costs at most so much; elsewhere what `lp.relative` says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from studies.beside import beside

import latprune as lp

SCORES = lp.Saliency(
    {"trunk": np.array([4.0, 2.0, 1.0, 1.0]), "inner": np.array([1.0, 1.0]), "idle": np.zeros(3)},
    criterion="fisher",
)
BRANCHES = cast("Any", [SimpleNamespace(groups=("inner", "idle"))])


def test_a_trunk_is_valued_as_ever_and_a_branch_by_the_bounded_curve() -> None:
    found, relative = beside(SCORES, BRANCHES), lp.relative(SCORES)

    assert found.criterion == "beside_fisher"
    assert found.values("trunk") == pytest.approx(relative.values("trunk"))
    sensitivity = 2 + np.sqrt(8 * 2)  # the group's sum, and the geometric mean of those above 0
    assert found.values("inner") == pytest.approx([0, sensitivity * (1 - (1 / 2) / (3 / 2)), 6])
    assert found.values("idle") == pytest.approx([0, 0, 0, 0])


def test_the_stronger_the_trunk_the_less_a_branch_can_cost() -> None:
    costs = [beside(SCORES, BRANCHES, trunk=trunk).values("inner")[-1] for trunk in (0.5, 1, 2)]

    assert costs == pytest.approx([12, 6, 3])
