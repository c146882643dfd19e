"""Values of one kind are made of the scores of another, and known to be there when those are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from studies.scoring import is_scored

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("criterion", ["fisher", "relative_fisher", "unbounded_fisher"])
def test_what_takes_the_scores_of_another_is_scored_with_it(criterion: str, tmp_path: Path) -> None:
    path = tmp_path / f"{criterion}.npz"
    (tmp_path / "taylor.npz").touch()
    assert not is_scored(criterion, path)

    (tmp_path / "fisher.npz").touch()
    assert is_scored(criterion, path)
