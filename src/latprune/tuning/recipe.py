"""How a network is tuned: every number of it, in one frozen value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from latprune.errors import or_meant

if TYPE_CHECKING:
    from collections.abc import Sequence

OptimizerName = Literal["sgd", "adamw"]
PrecisionChoice = Literal["auto", "no", "bf16", "fp16"]


@dataclass(frozen=True)
class Recipe:
    """A training recipe; the defaults suit a short tuning after a cut.

    Attributes:
        epochs: Passes over the data.
        optimizer: `sgd` (with Nesterov's momentum) or `adamw`.
        lr: The highest learning rate, reached after warm-up. Give it for the batch that all
            processes take together; it is never scaled behind your back.
        momentum: Of `sgd`.
        weight_decay: On weights of two axes and more; norms and biases are left alone.
        warmup_epochs: Over which the learning rate climbs from 0, step by step; then it falls
            along half a cosine to 0.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1).
        distillation: Weight in [0, 1] of the teacher's word against the labels', where there is
            a teacher.
        temperature: At which the teacher's and the network's probabilities are compared.
        clip_norm: Longest gradient, as a Euclidean norm over all parameters; None for any.
        ema: Decay in (0, 1) of a moving average of weights and statistics, reached by and by
            (timm's `ModelEmaV3`). The average is then what is judged and kept. None: no average.
        precision: `no` (fp32), `bf16` or `fp16` autocast, or `auto`: what `accelerate launch` was
            told; else bf16 on GPUs that have it, and on CPUs that have it where a trial takes a
            tenth less time than in fp32; else fp32. A trial may end otherwise the next time:
            name a precision where two runs have to be the same, bit for bit.
        seed: Of the data's order, augmentation and dropout.
    """

    epochs: int = 10
    optimizer: OptimizerName = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 0.5
    label_smoothing: float = 0.0
    distillation: float = 0.5
    temperature: float = 2.0
    clip_norm: float | None = None
    ema: float | None = None
    precision: PrecisionChoice = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "seed"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} is a whole number, not {getattr(self, name)!r}")
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is finite, not {value}")
        for name, allowed, holds in self._ranges():
            if not holds:
                raise ValueError(f"{name} {allowed}, not {getattr(self, name)}")
        _check_one_of("optimizer", self.optimizer, get_args(OptimizerName))
        _check_one_of("precision", self.precision, get_args(PrecisionChoice))

    def _ranges(self) -> list[tuple[str, str, bool]]:
        """Give what numbers have a range, which, and whether they lie in it."""
        return [
            ("epochs", "is at least 1", self.epochs >= 1),
            ("lr", "is above 0", self.lr > 0),
            ("weight_decay", "is at least 0", self.weight_decay >= 0),
            ("warmup_epochs", "is at least 0", self.warmup_epochs >= 0),
            ("seed", "is at least 0", self.seed >= 0),
            ("momentum", "lies in [0, 1)", 0 <= self.momentum < 1),
            ("label_smoothing", "lies in [0, 1)", 0 <= self.label_smoothing < 1),
            ("distillation", "lies in [0, 1]", 0 <= self.distillation <= 1),
            ("temperature", "is above 0", self.temperature > 0),
            ("clip_norm", "is above 0 or None", self.clip_norm is None or self.clip_norm > 0),
            ("ema", "lies in (0, 1) or is None", self.ema is None or 0 < self.ema < 1),
        ]

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return asdict(self)


def _check_one_of(name: str, given: str, names: Sequence[str]) -> None:
    if given not in names:
        raise ValueError(f"{name} is {' or '.join(names)}, not {given!r}{or_meant(given, names)}")
