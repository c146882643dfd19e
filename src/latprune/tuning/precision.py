"""Which number format to compute in; on CPUs only a trial can tell."""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from latprune.tuning.recipe import Recipe

PrecisionName = Literal["no", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TRIAL_ROUNDS = 3
TRIAL_SECONDS = 15.0
HOPELESS = 3.0  # times as slow in the warm-up: not worth another round
WORTH = 0.9  # of fp32's time: a hair's breadth would let noise decide how a network is trained


@dataclass(frozen=True)
class Precision:
    """The number format of forward and backward passes.

    Attributes:
        name: `no` (fp32), `bf16` or `fp16` autocast.
        reason: Why, in words.
    """

    name: PrecisionName
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Give the context in which a forward pass runs."""
        if self.name == "no":
            return nullcontext()
        return torch.autocast(device.type, dtype=DTYPES[self.name])

    def to_json(self) -> dict[str, str]:
        """Give the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Precision:
        """Read what `to_json` gave."""
        return cls(stored["name"], stored["reason"])


def choose_precision(
    recipe: Recipe,
    device: torch.device,
    *,
    launcher: str,
    has_bf16: bool,
    trial: Callable[[], Callable[[Precision], None]],
    clock: Callable[[], float],
) -> Precision:
    """Settle what `auto` means.

    Args:
        recipe: Anything but `auto` is taken as it is.
        device: Where training runs.
        launcher: What `accelerate launch` was told: `no`, `bf16` or `fp16`.
        has_bf16: Whether the device computes in bf16, as from `has_bf16`.
        trial: Prepares, where it comes to a trial, what runs one forward and backward pass and
            leaves the network as it was.
        clock: In seconds.
    """
    if recipe.precision != "auto":
        return Precision(recipe.precision, "asked for by the recipe")
    if launcher in DTYPES:
        return Precision("bf16" if launcher == "bf16" else "fp16", "asked for by accelerate launch")
    if not has_bf16:
        return Precision("no", f"this {device.type} does not compute in bf16")
    if device.type == "cpu":
        return _faster(trial(), clock)
    return Precision("bf16", f"this {device.type} computes in bf16")


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bf16; emulation does not count."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Without oneDNN's kernels a bf16 convolution is some ten times slower than an fp32 one.
        # torch tells only here whether it has them on this CPU.
        return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


def _faster(trial_step: Callable[[Precision], None], clock: Callable[[], float]) -> Precision:
    """Time both formats in turns, so that what else the machine does slows them alike."""

    def round_of(candidates: Sequence[Precision]) -> list[float]:
        moments = [clock()]
        for candidate in candidates:
            trial_step(candidate)
            moments.append(clock())
        return [after - before for before, after in pairwise(moments)]

    candidates = [Precision("no", "trial"), Precision("bf16", "trial")]
    begun = clock()
    try:
        warm_up = round_of(candidates)
    except RuntimeError as error:
        return Precision("no", f"bf16 does not run here: {str(error).splitlines()[0]}")
    rounds = [warm_up]
    if warm_up[1] < HOPELESS * warm_up[0]:
        rounds = [round_of(candidates)]
        while len(rounds) < TRIAL_ROUNDS and clock() - begun < TRIAL_SECONDS:
            rounds.append(round_of(candidates))
    fp32_s, bf16_s = (statistics.median(samples) for samples in zip(*rounds, strict=True))
    name: PrecisionName = "bf16" if bf16_s < WORTH * fp32_s else "no"
    return Precision(name, f"a step took {fp32_s:.3g} s in fp32 and {bf16_s:.3g} s in bf16 here")
