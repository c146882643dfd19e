"""A device whose clock is a formula: what the runner times without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from latprune.graph.layers import LayerShape
from latprune.latency.devices import runner
from latprune.latency.timing import Comparison, Measurement

if TYPE_CHECKING:
    import pytest

RATIO = 0.69


class Clock:
    """Stands in for all timing on the device; what is broken raises, as ONNX Runtime would."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.interrupts_after: int | None = None
        self.compared = 0
        self.aparts: set[int] = set()
        patch.setattr(runner, "time_models", self.models)
        patch.setattr(runner, "time_whole", lambda run, **_: Measurement(0.9, 0.01, 10))
        patch.setattr(runner, "time_in_turns", self.in_turns)

    def models(
        self, models: Any, open_model: Any, *, clock: Any, sentinel: Any = None, apart: int = 0
    ) -> Any:
        self.aparts.add(apart)
        if self.interrupts_after is not None:
            if self.interrupts_after == 0:
                raise KeyboardInterrupt
            self.interrupts_after -= 1
        for key, model in [*([sentinel] if sentinel else []), *models]:
            onnx.load_model_from_string(model)
            yield key, Measurement(layer_ms(key), 0.01, 10)

    def in_turns(self, dense: Any, small: Any, **_: object) -> Comparison:
        self.compared += 1
        ratio = RATIO + 1e-6 * self.compared  # no two timings are the same
        dense_ms, small_ms = (Measurement(0.9 * share, 0.01, 10) for share in (1, ratio))
        return Comparison(dense_ms, small_ms, ratio, 0.01, 0.001)


def layer_ms(key: Any) -> float:
    shape = key if isinstance(key, LayerShape) else LayerShape.from_json(key.entry["shape"])
    return 0.1 + shape.in_channels * -(-shape.out_channels // 8) / 100
