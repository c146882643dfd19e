"""This process: whatever runtime is installed, timed at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from latprune.latency.networks import steady, time_in_turns, time_whole
from latprune.latency.runtimes import get_runtime
from latprune.latency.sentinel import SENTINEL, paced
from latprune.latency.table import LatencyTable
from latprune.latency.table_files import table_path
from latprune.latency.target import Target
from latprune.latency.timing import Opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.devices import CutName, Ready
    from latprune.latency.timing import Comparison, Measurement, Run

QUICKLY_S = 2.0
"""A network that takes longer to open is timed where it lies: optimising and compiling it anew
would take longer than what is learned from it is worth."""


class Here:
    """Times in this process; see `Device`. A network that is ready is a `Run`."""

    def target(
        self,
        runtime: str = "onnxruntime",
        *,
        precision: str = "fp32",
        batch: int = 1,
        threads: int = 1,
    ) -> Target:
        """Give the target that this process runs on; see `Target.here`."""
        return Target.here(runtime, precision=precision, batch=batch, threads=threads)

    def table(self, target: Target, *, folder: Path | None = None) -> LatencyTable:
        """Open the target's table in a folder."""
        return LatencyTable.open(table_path(target, folder=folder), target)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        """Let the runtime make a network ready."""
        return get_runtime(target.runtime).prepare(model, example, target)

    def open_anew(self, network: Ready) -> bool:
        """Put a network elsewhere in memory, where its runtime does that quickly."""
        if not isinstance(network, Opened) or network.opening_s > QUICKLY_S:
            return False
        network.open_anew()
        return True

    def time(
        self,
        shapes: Sequence[LayerShape],
        networks: Sequence[tuple[str, Ready]],
        target: Target,
        *,
        reference: Measurement | None,
        apart: int = 0,
    ) -> Iterator[tuple[LayerShape | str, Measurement]]:
        """Time layers, and then whole networks."""
        runtime = get_runtime(target.runtime)
        if shapes or (networks and reference is None):
            both = list(dict.fromkeys([SENTINEL, *shapes]))
            timed = runtime.time_layers(both, target, apart=apart)
            for shape, measurement in paced(timed, reference=reference):
                if shape == SENTINEL:
                    reference = measurement
                yield shape, measurement

        def pace() -> float:
            assert reference is not None
            ((_, now),) = runtime.time_layers([SENTINEL], target)
            return reference.median_ms / now.median_ms

        clock = runtime.clock(target.threads)
        for key, network in networks:
            yield key, time_whole(cast("Run", network), clock=clock, pace=pace)

    def compare(
        self,
        dense: Ready,
        small: Ready,
        target: Target,
        *,
        limit_s: float,
        tolerance: float,
        enough: Callable[[Comparison], bool] | None = None,
        cut: CutName | None = None,
    ) -> Comparison:
        """Time two networks in turns until there is enough of it."""
        del cut
        return time_in_turns(
            cast("Run", dense),
            cast("Run", small),
            clock=get_runtime(target.runtime).clock(target.threads),
            limit_s=limit_s,
            enough=enough or (lambda found: steady(found, tolerance=tolerance)),
        )


HERE = Here()
