"""The study of detectors runs from its config to its table, on a folder made up for it."""

from __future__ import annotations

import json
from itertools import product
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
    "augmentation": "ssd",
    "batch": 4,
    "workers": 0,
    "score_batches": 2,
    "criteria": ["fisher"],
    "seeds": [0, 1],
    "dense": RECIPE,
    "tuned": RECIPE,
    "target": {"runtime": "synthetic", "batch": 1, "threads": 1},
    "budgets": ["80%"],
}


def test_a_study_ends_with_a_page_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Synthetic(whole=1.2).install(monkeypatch)
    root = detectors.write_things(tmp_path / "things")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**CONFIG, "data": str(root)}))
    pages = ["--pages", str(tmp_path / "pages")]
    main([str(config), *pages])
    first = capsys.readouterr().out
    main([str(config), *STAGES[:3], *pages])
    again = capsys.readouterr().out

    result = json.loads((tmp_path / "result.json").read_text())
    page = (tmp_path / "pages" / f"{tmp_path.name}.md").read_text()
    made = {(case["criterion"], case["budget"], case["seed"]) for case in result["cases"]}
    assert made == set(product(CONFIG["criteria"], CONFIG["budgets"], CONFIG["seeds"]))
    lost = []
    for case in result["cases"]:
        report = case["report"]
        assert report["used"] <= 1
        assert report["dense"]["accuracy"].keys() == case["before_tuning"].keys()
        continued = result["continued"][str(case["seed"])]["map50"]
        lost.append(report["small"]["accuracy"]["map50"] - continued)
    rows = [line for line in page.splitlines() if line.startswith("| 80 % |")]
    assert [row.split("|")[2].strip(" `") for row in rows] == CONFIG["criteria"]
    assert rows[0].endswith(f"{50 * sum(lost):+.1f} |")  # the mean of two, in %
    assert "dense: {" in first
    assert "dense: {" not in again


@pytest.mark.parametrize("name", ["bccd", "voc"])
def test_the_studies_configs_say_all_that_is_asked_of_them(name: str, repository: Path) -> None:
    config = json.loads((repository / "studies" / name / "config.json").read_text())

    assert config.keys() == {*CONFIG, "data"}
