"""The study of detectors runs from its config to its table, on a folder made up for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from studies.detection import STAGES, main

from tests import detectors
from tests.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Mapping

RECIPE = {"epochs": 1, "lr": 0.01, "precision": "no"}
CONFIG: Mapping[str, Any] = {
    "model": f"{Path(detectors.__file__)}:tiny_ssd",
    "num_classes": 3,
    "pretrained": False,
    "backbone": None,
    "train": "trainval",
    "judged": "test",
    "shrink": [40, 40],
    "batch": 4,
    "workers": 0,
    "score_batches": 2,
    "dense": RECIPE,
    "tuned": RECIPE,
    "target": {"runtime": "synthetic", "batch": 1, "threads": 1},
    "budgets": ["80%"],
}


def test_a_study_ends_with_a_table_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Synthetic(whole=1.2).install(monkeypatch)
    root = detectors.write_things(tmp_path / "things")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**CONFIG, "data": str(root)}))
    main([str(config)])
    first = capsys.readouterr().out
    main([str(config), *STAGES[:3]])
    again = capsys.readouterr().out

    case = json.loads((tmp_path / "result.json").read_text())["cases"]["80%"]
    assert case["report"]["used"] <= 1
    assert case["report"]["dense"]["accuracy"].keys() == case["before_tuning"].keys()
    assert first.splitlines()[-1].startswith("| 80 % |")
    assert "dense: {" in first
    assert "dense: {" not in again


@pytest.mark.parametrize("name", ["bccd", "voc"])
def test_the_studies_configs_say_all_that_is_asked_of_them(name: str, repository: Path) -> None:
    config = json.loads((repository / "studies" / name / "config.json").read_text())

    assert config.keys() == {*CONFIG, "data"}
