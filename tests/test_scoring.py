"""Criteria score on the same batches, which are fetched by workers that need not start again."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader

import latprune as lp
from latprune.progress import Quiet
from latprune.scoring import Scoring
from latprune.testing import random_batches, small_network

if TYPE_CHECKING:
    from pathlib import Path


def note(file: Path, worker: int) -> None:
    """Write down that a worker began."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{worker}\n")


# Python 3.12 and later warn of any fork beside threads; the worker only reads pictures.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_that_stay_are_started_once_for_all_criteria(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    model, graph = small_network()
    loader: DataLoader[Any] = DataLoader(
        [one for batch in random_batches() for one in zip(*batch, strict=True)],  # type: ignore[arg-type]
        batch_size=4,
        num_workers=1,
        persistent_workers=True,
        worker_init_fn=partial(note, begun),
    )
    scoring = Scoring(
        ("taylor", "fisher"),
        loader,
        lp.cross_entropy,
        score_batches=2,
        held_out_batches=1,
        seed=0,
    )

    found = scoring.score(model, graph, progress=Quiet())

    assert [one.criterion for one in found] == ["taylor", "fisher"]
    assert begun.read_text(encoding="utf-8") == "0\n"
