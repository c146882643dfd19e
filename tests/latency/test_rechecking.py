"""A slower machine is told from a table that no longer holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

import latprune.latency.runtimes
from latprune.errors import NotMeasured, StaleTable
from latprune.latency.rechecking import recheck
from latprune.latency.sentinel import SENTINEL
from latprune.latency.table import LatencyTable
from latprune.latency.target import Target
from latprune.latency.timing import Measurement
from tests.latency.synthetic import TARGET, Processor, conv

if TYPE_CHECKING:
    from collections.abc import Callable

    from latprune.graph.layers import LayerShape

SHAPES = [conv(8, width, kernel=kernel) for kernel in (1, 3) for width in range(1, 31)]


def table_of_formula() -> LatencyTable:
    """What the processor took when the table was made."""
    return Processor().table(SHAPES)


@dataclass
class Changed(Processor):
    """A processor that has become slower, all of it or some layers."""

    change: Callable[[LayerShape], float] = lambda _: 1.0

    def ms(self, shape: LayerShape) -> float:
        return super().ms(shape) * self.change(shape)


def machine(patch: pytest.MonkeyPatch, processor: Processor, *, here: Target = TARGET) -> Processor:
    """Make this the machine that layers are timed on."""
    patch.setattr(latprune.latency.runtimes, "get_runtime", lambda name: processor)
    patch.setattr(Target, "here", classmethod(lambda cls, runtime, **setting: here))
    return processor


def slower_by(factor: float) -> Changed:
    return Changed(change=lambda _: factor)


def test_a_table_holds_on_the_machine_that_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Processor())

    found = recheck(table_of_formula())

    assert found.met
    assert found.alike
    assert found.verdict.startswith("Met")


@pytest.mark.parametrize(
    ("factor", "met"), [(0.85, False), (0.95, True), (1.05, True), (1.3, False)]
)
def test_a_uniform_change_is_met_within_the_tolerance_and_called_alike(
    factor: float, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, slower_by(factor))

    found = recheck(table_of_formula(), tolerance=0.1)

    assert found.met is met
    assert found.alike
    assert ("pace that changed" in found.verdict) is not met


def test_layers_that_disagree_are_told_from_a_slower_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, Changed(change=lambda shape: 1.2 if shape.kernel == (1, 1) else 3.0))

    found = recheck(table_of_formula(), sample=len(SHAPES))

    assert not found.met
    assert not found.alike
    assert "not the machine's pace alone" in found.verdict
    assert "single layers differ" in found.verdict


def test_single_layers_may_disagree_while_the_median_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Changed(change=lambda shape: (1 + shape.out_channels % 3) / 2))

    found = recheck(table_of_formula(), sample=len(SHAPES))

    assert found.met
    assert not found.alike
    assert "single layers" in found.verdict


def test_the_sentinel_is_timed_beside_the_sample_and_is_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, Processor(paces=[1.25]))
    table = table_of_formula()
    table.add(SENTINEL, Measurement(Processor().ms(SENTINEL), 0.0, 10))

    found = recheck(table, sample=len(table) - 1)

    assert found.sentinel is not None
    assert found.sentinel.ratio == pytest.approx(1.25)
    assert found.ratios.median == pytest.approx(1.25)
    assert SENTINEL not in [pair.what for pair in found.layers]
    assert len(found.layers) == len(table) - 1


def test_layers_are_timed_as_far_apart_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = machine(monkeypatch, Processor())
    table = table_of_formula()
    for shape, apart in zip(SHAPES, (0, 7, 7, 9), strict=False):
        table.add(shape, replace(table[shape], apart=apart))

    found = recheck(table, sample=len(table))

    assert processor.aparts == {0, 7, 9}
    assert {pair.what for pair in found.layers} == set(table)


@pytest.mark.parametrize("own", [1.0, 2.0])
def test_the_sentinel_decides_whether_it_is_the_machines_pace_even_if_layers_disagree(
    own: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(shape: LayerShape) -> float:
        return 1.0 if shape == SENTINEL else own * (0.6 + 0.4 * (shape.out_channels % 3))

    machine(monkeypatch, Changed(change=change, paces=[1.3]))
    table = table_of_formula()
    table.add(SENTINEL, Measurement(Processor().ms(SENTINEL), 0.0, 10))

    found = recheck(table, sample=len(table))

    assert not found.met
    assert not found.alike
    assert found.uniform is (own == 1.0)
    assert ("pace that changed" in found.verdict) is found.uniform


def test_the_sample_follows_the_seed_and_has_no_layer_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor, table = machine(monkeypatch, Processor()), table_of_formula()
    steps: list[tuple[int, int]] = []

    for seed in (1, 1, 2):
        recheck(
            table, sample=9, seed=seed, progress=lambda done, total, _: steps.append((done, total))
        )

    first, again, other = (processor.asked[n : n + 9] for n in (0, 9, 18))
    assert first == again
    assert set(first) != set(other)
    assert len(set(first)) == 9
    assert steps[:9] == [(done, 9) for done in range(1, 10)]


def test_a_table_of_another_machine_is_refused_with_both_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = replace(TARGET, device="another, 2 cores")
    processor = machine(monkeypatch, Processor(), here=here)

    with pytest.raises(StaleTable) as caught:
        recheck(table_of_formula())
    assert caught.value.fields == ("device",)
    assert TARGET.describe() in str(caught.value)
    assert f"this is {here.describe()}; they differ in device. Check" in str(caught.value)
    assert processor.asked == []


def test_a_runtime_that_is_not_known_here_is_another_machines() -> None:
    with pytest.raises(StaleTable, match="no runtime is called 'synthetic'"):
        recheck(table_of_formula())


def test_an_empty_table_has_nothing_to_check() -> None:
    with pytest.raises(NotMeasured, match="no layers"):
        recheck(LatencyTable(TARGET))
