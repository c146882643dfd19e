"""Two processes that tune one network end with the same one, and share the work."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException
from torch.utils.data import DataLoader, TensorDataset

from latprune.errors import ProcessLost
from latprune.tuning import Recipe, tune
from tests.processes import run_together
from tests.tuning.test_loop import RECIPE, loader, network, teacher

if TYPE_CHECKING:
    from pathlib import Path

# Python 3.12 and later warn of any fork beside threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["history"] == other["history"]
    for name, weight in one["weights"].items():
        assert np.array_equal(weight, other["weights"][name]), name


def tuned(
    rank: int, folder: Path, *, kept: str | None = None, dies_after: int = 0
) -> dict[str, Any]:
    epochs = 0

    def evaluate(model: nn.Module) -> dict[str, float]:
        nonlocal epochs
        epochs += 1
        if rank == 1 and epochs == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"mean": model.get_parameter("6.weight").sum().item()}

    checkpoint = None if kept is None else folder / kept
    done = tune(
        network(),
        loader(),
        recipe=RECIPE,
        teacher=teacher(),
        evaluate=evaluate,
        checkpoint=checkpoint,
    )
    history = [vars(epoch) for epoch in done.history]
    return {"weights": arrays(done.model), "history": history, "epochs": epochs}


def test_both_processes_end_with_the_same_network(tmp_path: Path) -> None:
    first, second = run_together(tuned, tmp_path)

    assert_same(first, second)
    assert len(first["history"]) == RECIPE.epochs


def left_alone(rank: int, folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever waits for both would end this one, too
    try:
        tuned(rank, folder, dies_after=2)
    except ProcessLost as error:
        (folder / "said").write_text(str(error))


def test_whoever_is_left_says_that_another_process_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        run_together(left_alone, tmp_path)

    assert "another process of this run has ended" in (tmp_path / "said").read_text()


def wrong(rank: int, folder: Path) -> str:
    try:
        tune(network(), loader(), recipe=PLAIN, loss=lambda *_: torch.ones(2).sum())
    except RuntimeError as error:
        return str(error)
    return "nothing"


def test_mistakes_of_ones_own_stay_what_they_are(tmp_path: Path) -> None:
    first, second = run_together(wrong, tmp_path)

    assert "does not require grad" in first
    assert first == second


PLAIN = Recipe(epochs=2, lr=0.1, warmup_epochs=0, precision="no", weight_decay=0.01)


def halves(rank: int, folder: Path, *, batch: int = 4) -> dict[str, np.ndarray]:
    """Tune without anything that depends on how pictures meet in batches."""
    torch.manual_seed(0)
    images, labels = torch.randn(24, 3, 4, 4), torch.arange(24) % 3
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    tune(model, DataLoader(TensorDataset(images, labels), batch_size=batch), recipe=PLAIN)
    return arrays(model)


def test_two_processes_learn_what_one_does_from_batches_twice_as_large(tmp_path: Path) -> None:
    first, second = run_together(halves, tmp_path)

    alone = halves(0, tmp_path, batch=8)
    for name, weight in alone.items():
        assert np.array_equal(first[name], second[name])
        assert first[name] == pytest.approx(weight, abs=1e-5)


def test_a_process_that_dies_fails_the_run_and_the_rest_goes_on_from_the_checkpoint(
    tmp_path: Path,
) -> None:
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        run_together(partial(tuned, kept="run", dies_after=2), tmp_path)

    first, second = run_together(partial(tuned, kept="run"), tmp_path)
    unbroken, _ = run_together(tuned, tmp_path)

    assert first["epochs"] == RECIPE.epochs - 1
    assert_same(first, second)
    assert_same(first, unbroken)
