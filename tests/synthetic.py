"""A runtime whose clock is a formula, so that whole pipelines can be tested without timing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import latprune.fitting.loop
import latprune.latency.devices.here
import latprune.report.comparison
from latprune.graph.tracing import trace
from latprune.latency import networks
from latprune.latency.runtimes import get_runtime
from latprune.latency.target import processor
from latprune.latency.timing import Comparison, Measurement, clock_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest
    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.runtimes import Runtime
    from latprune.latency.target import Target
    from latprune.latency.timing import Clock, Run

STEP = 8
_KNOWN_MS: dict[tuple[type[nn.Module], str], float] = {}


def layer_ms(shape: LayerShape) -> float:
    """Stairs of `STEP` channels written, straight in those read."""
    written = math.ceil(shape.out_channels / STEP) * STEP
    work = shape.in_channels // shape.groups * written * math.prod(shape.kernel)
    return 0.002 + work * math.prod(shape.size) / 1e7


@dataclass(frozen=True)
class Synthetic:
    """Prices layers by `layer_ms`, and networks as their layers' sum times `whole` plus `rest_ms`.

    A sum of layers thus never predicts a network: the loop has something to close.
    """

    name: str = "synthetic"
    precisions: tuple[str, ...] = ("fp32",)
    whole: float = 1.0
    rest_ms: float = 0.0
    spread: float = 0.0

    def version(self) -> str:
        return "1"

    def device(self) -> str:
        return processor()

    def clock(self, threads: int) -> Clock:
        return clock_for(threads)

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target, *, apart: int = 0
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        assert target.runtime == self.name
        for shape in shapes:
            yield shape, Measurement(layer_ms(shape), 0.0, 1)

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Run:
        return cast("Run", partial(self.network_ms, model, example))

    def network_ms(self, model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> float:
        return self.whole * _layers_ms(model, example) + self.rest_ms

    def compare(
        self,
        dense: nn.Module,
        small: nn.Module,
        example: Tensor | tuple[Tensor, ...],
        target: Target,
        **_: object,
    ) -> Comparison:
        assert target.runtime == self.name
        before, after = (self.network_ms(_unready(model), example) for model in (dense, small))
        iqr = self.spread * after
        return Comparison(
            Measurement(before, iqr, 10),
            Measurement(after, iqr, 10),
            after / before,
            iqr / before,
            0.3 * iqr / before,
        )

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Make this the runtime `synthetic`, beside the real ones."""

        def runtime(name: str) -> Runtime:
            return cast("Runtime", self) if name == self.name else get_runtime(name)

        def time_whole(run: Run, **options: Any) -> Measurement:
            if isinstance(run, partial):  # as `prepare` makes it
                return Measurement(run(), 0.0, 1)
            return networks.time_whole(run, **options)

        patch.setattr(latprune.latency.runtimes, "get_runtime", runtime)
        patch.setattr(latprune.latency.devices.here, "get_runtime", runtime)
        patch.setattr(latprune.latency.devices.here, "time_whole", time_whole)
        patch.setattr(latprune.fitting.loop, "prepare", lambda model, example, target, **_: model)
        patch.setattr(latprune.fitting.loop, "compare", self.compare)
        patch.setattr(latprune.report.comparison, "compare", self.compare)


def _layers_ms(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> float:
    """What a network's layers take; traced once for each structure."""
    examples = example if isinstance(example, tuple) else (example,)
    sizes = [(name, value.shape) for name, value in model.state_dict().items()]
    inputs = [one.shape for one in examples]
    key = (type(model), f"{model} {model.training} {sizes} {inputs}")
    if key not in _KNOWN_MS:
        layers = trace(model, example).layers
        _KNOWN_MS[key] = sum(layer_ms(layer.shape) for layer in layers)
    return _KNOWN_MS[key]


def _unready(network: nn.Module | Run) -> nn.Module:
    """The module itself, whether it was made ready or not."""
    return cast("nn.Module", network.args[0] if isinstance(network, partial) else network)
