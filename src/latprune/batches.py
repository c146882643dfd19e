"""Which of a loader's batches serve what: the first ones score and calibrate, the last re-rank."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from latprune.errors import DataError
from latprune.tuning.replay import replayed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from latprune.latency.target import Target
    from latprune.tuning.replay import Batch, Batches


def first(loader: Batches, count: int, *, seed: int) -> Iterator[Batch]:
    """Give the first batches of an epoch, the same ones every time."""
    return islice(replayed(loader, seed=seed).epoch(0), count)


def last(loader: Batches, count: int, *, seed: int) -> Iterator[Batch]:
    """Give the last batches of the same epoch."""
    batches = replayed(loader, seed=seed)
    return batches.epoch(0, start=max(batches.steps - count, 0))


class ButLast:
    """The batches of the same epoch before the last ones, as often as they are asked for."""

    def __init__(self, loader: Batches, count: int, *, seed: int) -> None:
        self._batches = replayed(loader, seed=seed)
        self._length = max(self._batches.steps - count, 0)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return islice(self._batches.epoch(0), len(self))


def a_batch(loader: Batches, *, seed: int) -> Batch:
    """Give a loader's first batch, to see whether it is one.

    Raises:
        DataError: If there is none, or it is no pair (inputs, labels).
    """
    for batch in first(loader, 1, seed=seed):
        return batch
    raise DataError("there is nothing to score with or to tune on: the loader gave no batch")


def calibrating(loader: Batches | None, count: int, targets: Iterable[Target]) -> list[Any]:
    """Give the inputs that int8 is calibrated with, if a target asks for it and there are any.

    They are the same ones whatever a run's seed is: what is judged is what then ships.
    """
    if loader is None or not any(target.precision == "int8" for target in targets):
        return []
    return inputs_of_first(loader, count)


def inputs_of_first(loader: Batches, count: int) -> list[Any]:
    """Give the inputs of a loader's first batches, always the same ones."""
    return [inputs for inputs, _ in first(loader, count, seed=0)]
