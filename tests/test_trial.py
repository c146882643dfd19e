"""Several networks are tuned by the same few steps before held-out batches decide between them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import latprune as lp
from latprune.batches import last
from latprune.trial import Trial, Trials
from tests.test_fitting import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from latprune.tuning import TuneProgress

RECIPE = lp.Recipe(
    epochs=10, lr=0.05, warmup_epochs=2, distillation=0, ema=0.99, precision="no", seed=3
)
HELD_OUT = 2


@pytest.fixture
def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    numbers = torch.arange(48.0)
    images = numbers.view(-1, 1, 1, 1) * torch.ones(48, 3, 2, 2) / 48
    return DataLoader(TensorDataset(images, (numbers % 5).long()), batch_size=8, shuffle=True)


class Watched(nn.Module):
    """Keeps what it was shown while training."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 5)
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(images.clone())
        return self.layer(images.flatten(1))  # type: ignore[no-any-return]


def ignore(at: TuneProgress) -> None:
    """Tell nobody."""


def tuner(
    loader: DataLoader[tuple[torch.Tensor, ...]],
    steps: int,
    *,
    held_out: int = HELD_OUT,
    progress: Callable[[TuneProgress], None] = ignore,
) -> Callable[[nn.Module], object]:
    trial = Trial(steps, RECIPE)
    return trial.tuner(Watched(), loader, held_out=held_out, seed=RECIPE.seed, progress=progress)


@pytest.mark.parametrize("steps", [3, 4, 11])
def test_a_trial_takes_its_steps_and_never_sees_what_decides(
    loader: DataLoader[tuple[torch.Tensor, ...]], steps: int
) -> None:
    network = Watched()
    tuner(loader, steps)(network)

    assert len(network.seen) == steps
    shown = {float(image.mean()) for batch in network.seen for image in batch}
    deciding = {float(x.mean()) for xs, _ in last(loader, HELD_OUT, seed=RECIPE.seed) for x in xs}
    assert len(deciding) == 16
    assert not shown & deciding
    assert len(shown) == min(8 * steps, 32)  # the others again only when all were seen


def test_every_network_is_tuned_alike(loader: DataLoader[tuple[torch.Tensor, ...]]) -> None:
    torch.manual_seed(0)
    one, tune = Watched(), tuner(loader, 5)
    other = copy.deepcopy(one)
    tune(one)
    tune(other)

    assert all(torch.equal(a, b) for a, b in zip(one.seen, other.seen, strict=True))
    assert torch.equal(one.layer.weight, other.layer.weight)


def test_the_whole_schedule_is_squeezed_into_the_steps(
    loader: DataLoader[tuple[torch.Tensor, ...]],
) -> None:
    rates: list[float] = []
    tuner(loader, 20, progress=lambda at: rates.append(at.lr))(Watched())

    assert len(rates) == 20
    assert max(rates) == pytest.approx(RECIPE.lr, rel=0.05)
    assert rates.index(max(rates)) == pytest.approx(0.2 * 20, abs=1)  # as 2 epochs of 10
    assert rates[-1] < 0.05 * RECIPE.lr


@pytest.mark.parametrize("held_out", [0, 6])
def test_a_trial_needs_batches_to_tune_on_and_others_to_judge_by(
    loader: DataLoader[tuple[torch.Tensor, ...]], held_out: int
) -> None:
    with pytest.raises(lp.DataError, match=f"the loader's 6 {held_out} are held out"):
        tuner(loader, 3, held_out=held_out)


class Once:
    """Batches that can be run through a single time."""

    def __init__(self, loader: DataLoader[tuple[torch.Tensor, ...]]) -> None:
        self._batches, self._length = iter(list(loader)), len(loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        return self._batches

    def __len__(self) -> int:
        return self._length


def test_a_loader_that_runs_through_but_once_ends_a_trial_instead_of_hanging_it(
    loader: DataLoader[tuple[torch.Tensor, ...]],
) -> None:
    once, trial = Once(loader), Trial(20, RECIPE)
    tune = trial.tuner(Watched(), once, held_out=HELD_OUT, seed=RECIPE.seed, progress=ignore)
    first, second = Watched(), Watched()
    tune(first)

    assert len(first.seen) == 6  # all there are: where such a loader stands nobody can know
    with pytest.raises(lp.DataError, match="can it be run through twice"):
        tune(second)


def test_trials_are_told_as_one_job(loader: DataLoader[tuple[torch.Tensor, ...]]) -> None:
    class Counting(Told):
        def __init__(self) -> None:
            super().__init__()
            self.at: list[tuple[int, int | None]] = []

        def step(self, done: int, total: int | None, what: str) -> None:
            super().step(done, total, what)
            self.at.append((done, total))

    told = Counting()
    trials = Trials(told, plans=2, steps=3)
    tune = tuner(loader, 3, progress=trials.tuned)
    for number in (1, 2):
        tune(Watched())
        trials.step(number, 2, f"network {number} has a loss of 1.0")

    assert told.at == [(n, 6) for n in (1, 2, 3, 3, 4, 5, 6, 6)]
    assert "network 2 of 2 on trial, loss" in told.steps[-2]
