"""The page on criteria says what was found, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from studies.criteria.page import write_page

if TYPE_CHECKING:
    from pathlib import Path


def test_the_published_page_is_what_the_result_says(tmp_path: Path, repository: Path) -> None:
    document = json.loads((repository / "studies" / "criteria" / "result.json").read_text())

    write_page(document, path=tmp_path / "criteria.md")

    published = repository / "docs" / "results" / "criteria.md"
    assert (tmp_path / "criteria.md").read_text() == published.read_text()
