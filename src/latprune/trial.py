"""Tune a network a little, to see which of several is worth tuning for long."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from latprune.batches import ButLast
from latprune.errors import DataError
from latprune.tuning import tune
from latprune.tuning.replay import replayed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from latprune.distances import Distil
    from latprune.progress import Progress
    from latprune.tuning import Recipe, TuneProgress
    from latprune.tuning.losses import Loss
    from latprune.tuning.replay import Batch, Batches


@dataclass(frozen=True, eq=False)
class Trial:
    """A few steps of tuning, the same ones for every network.

    Attributes:
        steps: Of the optimizer; at least 1.
        recipe: How to tune. Its whole schedule, warm-up and decay, is squeezed into the steps; a
            moving average would still remember the network before them, so there is none.
        loss: Of (outputs, labels); None for the recipe's cross entropy.
        distil: Of (outputs, the teacher's outputs, temperature=); None for `distillation`.
        teaches: Whether the dense network does.
    """

    steps: int
    recipe: Recipe
    loss: Loss | None = None
    distil: Distil | None = None
    teaches: bool = False

    @cached_property
    def short(self) -> Recipe:
        """The recipe, squeezed into one epoch."""
        warmup = self.recipe.warmup_epochs / self.recipe.epochs
        return replace(self.recipe, epochs=1, warmup_epochs=warmup, ema=None)

    def tuner(
        self,
        dense: nn.Module,
        loader: Batches,
        *,
        held_out: int,
        seed: int,
        progress: Callable[[TuneProgress], None],
    ) -> Callable[[nn.Module], object]:
        """Make what tunes one network after another, as `rerank` takes it.

        Args:
            dense: Teaches, if it is to.
            loader: Batches of (inputs, labels).
            held_out: How many of its last batches not to tune on.
            seed: Of the loader's order.
            progress: Is told of every step of every network.

        Raises:
            DataError: If there is no batch to tune on, or none to judge by.
        """
        batches = _Shown(loader, self.steps, held_out=held_out, seed=seed)
        return partial(
            tune,
            loader=batches,
            recipe=self.short,
            teacher=dense if self.teaches else None,
            loss=self.loss,
            distil=self.distil,
            progress=progress,
        )


class Trials:
    """Tells of every step of every trial as of one job, between what `rerank` tells of plans."""

    def __init__(self, progress: Progress, *, plans: int, steps: int) -> None:
        self._progress, self._plans, self._each = progress, plans, steps
        self._done = 0

    def stage(self, name: str) -> None:
        """Begin a stage."""
        self._progress.stage(name)

    def step(self, done: int, total: int | None, what: str) -> None:
        """Say that so many plans were tried."""
        self._done = done
        self._progress.step(done * self._each, total and total * self._each, what)

    def tuned(self, at: TuneProgress) -> None:
        """Say how far the trial under way has come."""
        done, total = self._done * self._each + at.step, self._plans * self._each
        which = f"network {self._done + 1} of {self._plans} on trial"
        self._progress.step(
            done, total, f"{which}, loss {at.loss:.3f}, {at.images_per_s:.0f} images/s"
        )


class _Shown:
    """A loader's batches but the last ones, over and over, until there were enough."""

    def __init__(self, loader: Batches, steps: int, *, held_out: int, seed: int) -> None:
        self._others, self._steps = ButLast(loader, held_out, seed=seed), steps
        if not len(self._others) or held_out < 1:
            raise DataError(
                f"a trial takes a batch to tune on and another to judge by, and of the loader's "
                f"{replayed(loader, seed=seed).steps} {held_out} are held out: give more batches, "
                f"or smaller ones"
            )

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        return islice(self._all(), self._steps)

    def _all(self) -> Iterator[Batch]:
        given = 0
        while True:  # another epoch's order would bring the held-out images in
            before = given
            for batch in self._others:
                given += 1
                yield batch
            if given == before:  # a loader that runs through but once
                return
