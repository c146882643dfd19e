"""What the README shows is what there is."""

from __future__ import annotations

import ast
import runpy
from typing import TYPE_CHECKING

import torchvision

from tests.synthetic import Synthetic

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def code_of(text: str) -> list[str]:
    """Give a script's statements, as Python sees them."""
    nodes = ast.parse(text).body
    return [ast.dump(node) for node in nodes if not isinstance(node, ast.Expr) or _calls(node)]


def _calls(node: ast.Expr) -> bool:
    return isinstance(node.value, ast.Call)


def test_the_first_lines_are_an_example_that_can_be_run(repository: Path) -> None:
    shown = (repository / "README.md").read_text().split("```python\n")[1].split("```")[0]

    assert code_of(shown) == code_of((repository / "examples" / "nine_lines.py").read_text())


def test_the_example_runs(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torchvision.models, "resnet50", torchvision.models.resnet18)  # quicker
    Synthetic(name="onnxruntime", whole=1.2).install(monkeypatch)

    runpy.run_path(str(repository / "examples" / "nine_lines.py"))

    assert "of the budget of 50%" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        "cache",
        "resnet50-half.safetensors",
        "resnet50-half.onnx",
    }
