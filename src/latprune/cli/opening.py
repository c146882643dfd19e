"""Open the data of a command, and say what somebody should know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latprune.cli.shown import complain

if TYPE_CHECKING:
    from pathlib import Path

    from latprune.cli.job import Data, Network, Splits


def opened(
    path: Path,
    network: Network,
    train_batch: int,
    workers: int,
    splits: Splits,
    *,
    auto_augment: str | None = None,
) -> Data:
    """Open the data, and say what somebody should know of them."""
    from latprune.cli.job import open_data

    found = open_data(
        path,
        network,
        batch=train_batch,
        workers=workers,
        splits=splits,
        auto_augment=auto_augment,
    )
    if found.remark:
        complain(found.remark)
    return found
