"""Which of a loader's batches serve what: the first ones score and calibrate, the last re-rank."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from latprune.tuning.replay import replayed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from latprune.latency.target import Target
    from latprune.tuning.replay import Batch, Batches


def first(loader: Batches, count: int, *, seed: int) -> Iterator[Batch]:
    """Give the first batches of an epoch, the same ones every time."""
    return islice(replayed(loader, seed=seed).epoch(0), count)


def last(loader: Batches, count: int, *, seed: int) -> Iterator[Batch]:
    """Give the last batches of the same epoch."""
    batches = replayed(loader, seed=seed)
    return batches.epoch(0, start=max(batches.steps - count, 0))


def calibrating(
    loader: Batches | None, count: int, targets: Iterable[Target], *, seed: int
) -> list[Tensor]:
    """Give the inputs that int8 is calibrated with, if a target asks for it and there are any."""
    if loader is None or not any(target.precision == "int8" for target in targets):
        return []
    return [inputs for inputs, _ in first(loader, count, seed=seed)]
