"""One layer that is timed again and again: how fast the machine is at the moment.

Processors change their pace by the minute: with their temperature, with what else they do, with
what neighbours on the same chip do. Layers that were timed beside a slow sentinel would have been
quicker beside a quick one; dividing by its time brings them all to one pace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from latprune.graph.layers import LayerShape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from latprune.latency.timing import Measurement

    Key = TypeVar("Key")

SENTINEL = LayerShape(
    kind="conv",
    in_channels=64,
    out_channels=64,
    size=(28, 28),
    kernel=(3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
    norm=True,
    activation="relu",
)
"""Timed beside every few layers, where a runtime is asked for it."""


def paced(
    timed: Iterable[tuple[Key, Measurement]], *, reference: Measurement | None
) -> Iterator[tuple[Key, Measurement]]:
    """Bring times to the pace at which the sentinel was timed first.

    Args:
        timed: Layers, or what stands for them, with their times, and the sentinel before those
            that it was timed beside.
        reference: The sentinel's first time; None: it is the first one here.

    Yields:
        Every layer once, what it would have taken at that pace; and the sentinel, if there was no
        reference.
    """
    factor = 1.0
    for shape, measurement in timed:
        if shape != SENTINEL:
            yield shape, measurement.scaled(factor)
            continue
        if reference is None:
            reference = measurement
            yield shape, measurement
        factor = reference.median_ms / measurement.median_ms
