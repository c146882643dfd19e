"""What `auto` means where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from latprune.tuning.precision import Precision, choose_precision
from latprune.tuning.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


class FakeClock:
    """Time passes only when a trial step says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def steps_of(self, seconds: dict[str, float]) -> Callable[[Precision], None]:
        def step(precision: Precision) -> None:
            self.now += seconds[precision.name]

        return step


def choose(
    seconds: dict[str, float], *, launcher: str = "no", asked: str = "auto", has_bf16: bool = True
) -> Precision:
    clock = FakeClock()
    return choose_precision(
        Recipe(precision=asked),  # type: ignore[arg-type]
        CPU,
        launcher=launcher,
        has_bf16=has_bf16,
        trial=lambda: clock.steps_of(seconds),
        clock=clock,
    )


@pytest.mark.parametrize(
    ("seconds", "name"), [({"no": 2.0, "bf16": 1.5}, "bf16"), ({"no": 2.0, "bf16": 1.9}, "no")]
)
def test_on_a_cpu_the_faster_format_wins_and_both_times_are_told(
    seconds: dict[str, float], name: str
) -> None:
    chosen = choose(seconds)

    assert chosen.name == name
    assert f"{seconds['no']:.3g} s in fp32 and {seconds['bf16']:.3g} s in bf16" in chosen.reason


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [
        pytest.param({"no": 0.1, "bf16": 0.2}, 4, id="quick: warm-up and three"),
        pytest.param({"no": 30.0, "bf16": 60.0}, 2, id="slow: warm-up and one"),
        pytest.param({"no": 0.1, "bf16": 1.0}, 1, id="hopeless: warm-up alone"),
    ],
)
def test_a_trial_takes_no_longer_than_it_must(seconds: dict[str, float], rounds: int) -> None:
    clock, steps = FakeClock(), list[str]()
    takes = clock.steps_of(seconds)

    def step(precision: Precision) -> None:
        steps.append(precision.name)
        takes(precision)

    choose_precision(
        Recipe(),
        CPU,
        launcher="no",
        has_bf16=True,
        trial=lambda: step,
        clock=clock,
    )

    assert steps == ["no", "bf16"] * rounds


def test_without_bf16_instructions_there_is_no_trial() -> None:
    chosen = choose({}, has_bf16=False)

    assert chosen == Precision("no", "this cpu does not compute in bf16")


def test_a_network_that_bf16_cannot_run_is_tuned_in_fp32() -> None:
    def step(precision: Precision) -> None:
        if precision.name == "bf16":
            raise RuntimeError("not implemented for 'BFloat16'\ndetails")

    clock = FakeClock()
    chosen = choose_precision(
        Recipe(), CPU, launcher="no", has_bf16=True, trial=lambda: step, clock=clock
    )

    assert chosen == Precision("no", "bf16 does not run here: not implemented for 'BFloat16'")


def test_the_recipe_goes_before_the_launcher_and_the_launcher_before_a_trial() -> None:
    assert choose({}, asked="no", launcher="bf16").name == "no"
    assert choose({}, launcher="bf16").name == "bf16"
    assert choose({}, launcher="fp16").name == "fp16"


def test_autocast_computes_in_the_format_that_was_chosen() -> None:
    layer, x = torch.nn.Linear(2, 2), torch.randn(1, 2)
    with Precision("bf16", "").autocast(CPU):
        assert layer(x).dtype == torch.bfloat16
    with Precision("no", "").autocast(CPU):
        assert layer(x).dtype == torch.float32
