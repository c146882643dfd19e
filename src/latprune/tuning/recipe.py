"""How a network is tuned: every number of it, in one frozen value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

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
        if not isinstance(self.epochs, int) or not isinstance(self.seed, int):
            raise ValueError(f"epochs and seed are whole numbers: {self}")
        numbers = [value for value in asdict(self).values() if isinstance(value, float)]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"the numbers of a recipe are finite: {self}")
        if self.epochs < 1:
            raise ValueError(f"epochs is at least 1, not {self.epochs}")
        if self.lr <= 0 or self.weight_decay < 0 or self.warmup_epochs < 0 or self.seed < 0:
            raise ValueError(f"lr is above 0, weight_decay, warmup and seed at least 0: {self}")
        if not 0 <= self.momentum < 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError(f"momentum and label_smoothing lie in [0, 1): {self}")
        if not 0 <= self.distillation <= 1 or self.temperature <= 0:
            raise ValueError(f"distillation lies in [0, 1] and temperature above 0: {self}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm is above 0 or None, not {self.clip_norm}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema lies in (0, 1) or is None, not {self.ema}")
        if self.optimizer not in get_args(OptimizerName):
            raise ValueError(f"optimizer is one of {get_args(OptimizerName)}: {self.optimizer!r}")
        if self.precision not in get_args(PrecisionChoice):
            raise ValueError(f"precision is one of {get_args(PrecisionChoice)}: {self.precision!r}")

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return asdict(self)
