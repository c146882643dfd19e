"""A checkpoint comes back whole, or says what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from latprune.errors import DamagedFile, ModelMismatch
from latprune.tuning.checkpoint import (
    FILE,
    Checkpoint,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)

RUN = {"recipe.epochs": 3, "recipe.clip_norm": None, "steps": (1, 2)}


def test_tensors_and_state_come_back_exactly(tmp_path: Path) -> None:
    shared = torch.randn(3, 4)
    tensors = {
        "a": shared,
        "tied": shared,
        "transposed": shared.t(),
        "last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "count": torch.tensor(7),
    }
    state = {"loss_sum": 0.1 + 0.2, "history": [{"metrics": {"top1": 1 / 3}}]}
    write_checkpoint(tmp_path / "new", Checkpoint(RUN, state, tensors))

    found = read_checkpoint(tmp_path / "new", RUN)

    assert found is not None
    assert found.state == state
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in found.tensors.items())


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path, RUN) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is always full")
def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Checkpoint(RUN, {"step": 1}, {"a": torch.zeros(2)}))

    (tmp_path / f"{FILE}.latprune-{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, Checkpoint(RUN, {"step": 2}, {"a": torch.ones(2)}))

    found = read_checkpoint(tmp_path, RUN)
    assert found is not None
    assert found.state == {"step": 1}


def test_another_runs_checkpoint_is_refused_with_the_differences(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Checkpoint(RUN, {}, {"a": torch.zeros(1)}))
    with pytest.raises(ModelMismatch, match=r"recipe\.epochs is 3 there and 5 here\. Continue"):
        read_checkpoint(tmp_path, RUN | {"recipe.epochs": 5})


@pytest.mark.parametrize("kept", [0, 5, 60])
def test_a_truncated_checkpoint_is_damaged(tmp_path: Path, kept: int) -> None:
    write_checkpoint(tmp_path, Checkpoint(RUN, {}, {"a": torch.zeros(9)}))
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:kept])
    with pytest.raises(DamagedFile, match="Delete it to start afresh"):
        read_checkpoint(tmp_path, RUN)


def test_other_safetensors_are_no_checkpoint(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(DamagedFile, match="cannot be read"):
        read_checkpoint(tmp_path, RUN)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_restored_optimizer_takes_the_same_next_step(kind: type[torch.optim.Optimizer]) -> None:
    first, second = (nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last) for _ in range(2))
    options = {"lr": 0.1} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
    old, new = kind(first.parameters(), **options), kind(second.parameters(), **options)  # type: ignore[arg-type]

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    x, y = torch.randn(2, 1, 2, 5, 5)
    step(first, old, x)
    second.load_state_dict(first.state_dict())
    restore_optimizer(new, optimizer_tensors(old))
    step(first, old, y)
    step(second, new, y)

    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)  # type: ignore[arg-type]
