"""Which number format to compute in; on CPUs only a trial can tell."""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from latprune.tuning.recipe import Recipe

PrecisionName = Literal["no", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TRIAL_ROUNDS = 3
TRIAL_SECONDS = 15.0


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
    trial: Callable[[], Callable[[Precision], None]],
    clock: Callable[[], float],
) -> Precision:
    """Settle what `auto` means.

    Args:
        recipe: Anything but `auto` is taken as it is.
        device: Where training runs.
        launcher: What `accelerate launch` was told: `no`, `bf16` or `fp16`.
        trial: Prepares, where it comes to a trial, what runs one forward and backward pass and
            leaves the network as it was.
        clock: In seconds.
    """
    if recipe.precision != "auto":
        return Precision(recipe.precision, "asked for by the recipe")
    if launcher in DTYPES:
        return Precision("bf16" if launcher == "bf16" else "fp16", "asked for by accelerate launch")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", "this GPU computes in bf16")
        return Precision("no", "this GPU has no bf16; ask for fp16 if the network bears it")
    if device.type == "cpu":
        return _faster(trial(), clock)
    return Precision("no", f"nothing else was tried on {device.type}")


def _faster(trial_step: Callable[[Precision], None], clock: Callable[[], float]) -> Precision:
    """Time both formats in turns, so that what else the machine does slows them alike."""
    candidates = [Precision("no", "trial"), Precision("bf16", "trial")]
    try:
        for candidate in candidates:
            trial_step(candidate)
    except RuntimeError as error:
        return Precision("no", f"bf16 does not run here: {str(error).splitlines()[0]}")
    seconds: list[list[float]] = [[], []]
    begun = clock()
    while len(seconds[1]) < TRIAL_ROUNDS and (not seconds[1] or clock() - begun < TRIAL_SECONDS):
        for candidate, samples in zip(candidates, seconds, strict=True):
            before = clock()
            trial_step(candidate)
            samples.append(clock() - before)
    fp32_s, bf16_s = (statistics.median(samples) for samples in seconds)
    name: PrecisionName = "bf16" if bf16_s < fp32_s else "no"
    return Precision(name, f"a step took {fp32_s:.3g} s in fp32 and {bf16_s:.3g} s in bf16 here")
