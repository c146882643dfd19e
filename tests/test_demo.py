"""The demonstration: real digits, always split alike, through the whole line."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import torch
from torch.utils.data import DataLoader, Subset

import latprune as lp
from latprune import demo
from latprune.surgery import load
from latprune.tasks.digits import digits, network
from tests.synthetic import Synthetic

if TYPE_CHECKING:
    from pathlib import Path


def test_the_halves_share_no_picture_and_every_digit_is_in_both_alike() -> None:
    train, test = digits()

    counts = Counter(train.labels), Counter(test.labels)
    pictures = {picture.numpy().tobytes() for picture in train.pictures}

    assert len(train) + len(test) == 1797
    assert all(0 <= counts[1][digit] - counts[0][digit] <= 1 for digit in range(10))
    assert not any(picture.numpy().tobytes() in pictures for picture in test.pictures)


def test_the_halves_are_always_the_same() -> None:
    first, second = digits(), digits()

    assert torch.equal(first.train.pictures, second.train.pictures)
    assert first.test.labels == second.test.labels


def test_training_pictures_are_moved_and_test_pictures_are_not() -> None:
    train, test = digits()

    moved = [train[0][0] for _ in range(20)]

    assert len({picture.numpy().tobytes() for picture in moved}) > 1
    assert all(picture.min() >= -1 and picture.max() <= 1 for picture in moved)
    assert torch.equal(test[0][0], test.pictures[0])


def test_every_width_of_the_network_can_be_cut() -> None:
    graph = lp.trace(network(), torch.zeros(1, 1, 16, 16))

    assert sorted(graph.widths.values()) == [64, 64, 128, 128, 256, 256]
    # All of the layers' channels belong to groups, but for the picture's and the ten answers.
    fixed = [layer.name for layer in graph.layers if layer.reads.fixed or layer.writes.fixed]
    assert len(fixed) == 2


def test_the_demonstration_leaves_a_network_that_loads_and_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic().install(monkeypatch)
    few = DataLoader(Subset(digits().train, range(32)), batch_size=16, shuffle=True)
    monkeypatch.setattr(demo, "_loaders", lambda: (few, few))
    once = lp.Recipe(epochs=1, precision="no")

    pruned = demo.run(tmp_path, "50%", dense=once, small=once, target=lp.Target.here("synthetic"))

    assert pruned.report.met
    assert set(pruned.report.small.accuracy) == {"top1", "top5"}
    assert not (tmp_path / "pruned.safetensors").exists()  # it is the caller's to keep, with notes
    pruned.save(tmp_path / "pruned.safetensors")
    loaded = load(tmp_path / "pruned.safetensors", network()).eval()
    pictures = torch.rand(2, 1, 16, 16)
    assert torch.equal(loaded(pictures), pruned.model(pictures))
    assert (tmp_path / "dense.safetensors").is_file()


@pytest.mark.parametrize(("on_path", "typed"), [(True, "latprune"), (False, ".venv/bin/latprune")])
def test_the_command_is_named_as_the_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: bool, typed: str
) -> None:
    from latprune.cli.shown import program

    monkeypatch.setattr("sys.argv", [".venv/bin/latprune", "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    if on_path:
        (tmp_path / "latprune").touch(mode=0o755)

    assert program() == typed
    assert demo.next_commands(tmp_path, program=program())[0].startswith(f"{typed} check")


def test_what_to_type_next_can_be_typed(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from latprune.cli.app import app

    for command in demo.next_commands(tmp_path / "my networks"):
        program, *arguments = shlex.split(command)
        said = CliRunner().invoke(app, arguments)

        assert program == "latprune"
        assert said.exit_code in (0, 1), said.stderr  # understood, but there is nothing to read yet
