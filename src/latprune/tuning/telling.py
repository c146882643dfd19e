"""Tuning's steps as a stage of a longer job."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from latprune.progress import Progress
    from latprune.tuning.loop import TuneProgress


def tuning_steps(progress: Progress) -> Callable[[TuneProgress], None]:
    """Give what `tune` takes as `progress`, telling every step to a `Progress`."""

    def tell(at: TuneProgress) -> None:
        progress.step(
            (at.epoch - 1) * at.steps + at.step,
            at.epochs * at.steps,
            f"epoch {at.epoch} of {at.epochs}, loss {at.loss:.3f}, {at.images_per_s:.0f} images/s",
        )

    return tell
