"""Another speed of the whole machine is told from layers that disagree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import latprune.latency.runtimes
from latprune.errors import NotMeasured, StaleTable
from latprune.latency.comparing import Pair, Ratios, diff, most_different, recheck
from latprune.latency.sentinel import SENTINEL
from latprune.latency.table import LatencyTable
from latprune.latency.target import Target
from latprune.latency.timing import Measurement
from tests.latency.synthetic import TARGET, Processor, conv

if TYPE_CHECKING:
    from collections.abc import Callable

    from latprune.graph.layers import LayerShape

SHAPES = [conv(8, width, kernel=kernel) for kernel in (1, 3) for width in range(1, 31)]


def table_of(change: Callable[[int], float], *, target: Target = TARGET) -> LatencyTable:
    """What the processor takes, each layer slowed down by a factor of its own."""
    table = LatencyTable(target)
    for index, shape in enumerate(SHAPES):
        table.add(shape, Measurement(Processor().ms(shape) * change(index), 0.0, 10))
    return table


@given(st.floats(0.1, 10))
def test_a_machine_that_is_slower_as_a_whole_has_one_ratio(factor: float) -> None:
    found = diff(table_of(lambda _: 1.0), table_of(lambda _: factor))

    ratios = Ratios.of(found.layers)
    assert ratios.median == pytest.approx(factor)
    assert ratios.total == pytest.approx(factor)
    assert ratios.spread == pytest.approx(0, abs=1e-9)
    assert found.by_kind.keys() == {"conv"}


def test_layers_in_one_table_alone_are_counted_and_not_compared() -> None:
    one, other = LatencyTable(TARGET), LatencyTable(replace(TARGET, threads=2))
    for table, widths in ((one, (1, 2, 3)), (other, (3, 4))):
        for width in widths:
            table.add(conv(8, width), Measurement(1.0, 0.0, 1))

    found = diff(one, other)

    assert [pair.what for pair in found.layers] == [conv(8, 3)]
    assert (found.only_first, found.only_second) == (2, 1)
    assert found.to_json()["different"] == ["threads"]


def test_tables_without_a_common_layer_have_no_ratio() -> None:
    found = diff(LatencyTable(TARGET), table_of(lambda _: 1.0))

    assert found.to_json()["ratios"] is None
    with pytest.raises(ValueError, match="no pairs"):
        Ratios.of(found.layers)


def test_the_most_different_layer_is_far_from_what_all_share() -> None:
    slower = table_of(lambda index: 4.0 if index == 7 else 8.0)

    found = most_different(diff(table_of(lambda _: 1.0), slower).layers)

    assert found[0].what == SHAPES[7]
    assert most_different([]) == []


def test_a_ratio_is_second_over_first() -> None:
    pair = Pair(SHAPES[0], Measurement(2.0, 0.0, 1), Measurement(3.0, 0.0, 1))

    assert pair.ratio == 1.5
    assert Ratios.of([pair]).total == 1.5


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

    found = recheck(table_of(lambda _: 1.0))

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

    found = recheck(table_of(lambda _: 1.0), tolerance=0.1)

    assert found.met is met
    assert found.alike
    assert ("pace" in found.verdict) is not met


def test_layers_that_disagree_are_told_from_a_slower_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, Changed(change=lambda shape: 1.2 if shape.kernel == (1, 1) else 3.0))

    found = recheck(table_of(lambda _: 1.0), sample=len(SHAPES))

    assert not found.met
    assert not found.alike
    assert "differ in how much" in found.verdict


def test_single_layers_may_disagree_while_the_median_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Changed(change=lambda shape: (1 + shape.out_channels % 3) / 2))

    found = recheck(table_of(lambda _: 1.0), sample=len(SHAPES))

    assert found.met
    assert not found.alike
    assert "single layers" in found.verdict


def test_the_sentinel_is_timed_beside_the_sample_and_is_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, Processor(paces=[1.25]))
    table = table_of(lambda _: 1.0)
    table.add(SENTINEL, Measurement(Processor().ms(SENTINEL), 0.0, 10))

    found = recheck(table, sample=len(table))

    assert found.sentinel is not None
    assert found.sentinel.ratio == pytest.approx(1.25)
    assert found.ratios.median == pytest.approx(1.25)
    assert SENTINEL not in [pair.what for pair in found.layers]
    assert len(found.layers) == len(table) - 1


def test_the_sample_follows_the_seed_and_has_no_layer_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor, table = machine(monkeypatch, Processor()), table_of(lambda _: 1.0)
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
        recheck(table_of(lambda _: 1.0))
    assert caught.value.fields == ("device",)
    assert TARGET.describe() in str(caught.value)
    assert here.describe() in str(caught.value)
    assert processor.asked == []


def test_a_runtime_that_is_not_known_here_is_another_machines() -> None:
    with pytest.raises(StaleTable, match="no runtime is called 'synthetic'"):
        recheck(table_of(lambda _: 1.0))


def test_an_empty_table_has_nothing_to_check() -> None:
    with pytest.raises(NotMeasured, match="no layers"):
        recheck(LatencyTable(TARGET))
