from __future__ import annotations

import itertools
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from latprune.errors import NotMeasured, TableInUse
from latprune.latency.devices import here
from latprune.latency.interpolation import layer_cost
from latprune.latency.journal import alone
from latprune.latency.layer_sizes import weights
from latprune.latency.measuring import compare, measure, outlook
from latprune.latency.sentinel import SENTINEL
from latprune.latency.staircase import lines_needed, options
from latprune.latency.table import LatencyTable
from latprune.latency.target import Target
from latprune.latency.timing import Opened
from tests.latency.synthetic import TARGET, FakeClock, Killed, Processor, network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from latprune.graph.groups import PruningGraph
    from latprune.graph.layers import LayerShape

GRAPH = network()
MODEL = nn.Identity()
EXAMPLE = torch.zeros(1, 3, 8, 8)


class Bench:
    """A synthetic processor in the place of this machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.processor = Processor()
        self.folder = folder
        monkeypatch.setattr(here, "get_runtime", lambda _: self.processor)
        monkeypatch.setattr("latprune.latency.runtimes.get_runtime", lambda _: self.processor)

    def measure(
        self,
        *,
        dies_after: int | None = None,
        widths: dict[str, int] | None = None,
        graph: PruningGraph = GRAPH,
    ) -> LatencyTable:
        self.processor.asked.clear()
        self.processor.dies_after = dies_after
        return measure(MODEL, graph, EXAMPLE, TARGET, folder=self.folder, widths=widths)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, tmp_path)


def test_after_measuring_every_option_of_every_layer_has_a_cost(bench: Bench) -> None:
    table = bench.measure()
    choices = options(GRAPH, table)

    for layer in GRAPH.layers:
        axes = [
            choices[width.groups[0][0]] if width.groups else np.array([width.fixed])
            for width in (layer.reads, layer.writes)
        ]
        costs = layer_cost(table, layer, *axes)
        assert (costs > 0).all()
        assert np.isfinite(costs).any()
    assert table.network(GRAPH).median_ms == pytest.approx(50.0)


def test_stairs_that_turn_out_finer_are_measured_down_to_their_ends(bench: Bench) -> None:
    bench.measure()
    before = options(GRAPH, bench.measure())
    bench.processor.reads_step = bench.processor.writes_step = 4
    wider = replace(GRAPH, layers=tuple(replace(la, shape=_wider(la.shape)) for la in GRAPH.layers))
    bench.measure(graph=wider)

    table = bench.measure(widths=GRAPH.widths)

    after = options(GRAPH, table)
    assert any(after[name][0] < before[name][0] for name in after)
    for layer in GRAPH.layers:
        axes = [
            after[width.names[0]] if width.names else np.array([width.fixed])
            for width in (layer.reads, layer.writes)
        ]
        assert np.isfinite(layer_cost(table, layer, *axes)).any()


def _wider(shape: LayerShape) -> LayerShape:
    groups = 256 if shape.groups > 1 else 1
    return replace(shape, in_channels=256, out_channels=256, groups=groups)


def test_layers_are_timed_as_far_apart_as_in_a_network_of_half_the_weights(bench: Bench) -> None:
    bench.measure()

    dense = sum(weights(layer.shape) for layer in GRAPH.layers)
    assert bench.processor.aparts == {4 * dense // 2}


def test_nothing_is_measured_twice(bench: Bench) -> None:
    bench.measure()
    asked = Counter(bench.processor.asked)
    bench.measure()

    assert set(asked.values()) == {1}
    assert bench.processor.asked == []


@settings(
    max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.lists(st.integers(0, 120), min_size=1, max_size=4))
def test_a_killed_measurement_goes_on_where_it_was(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, kills: list[int]
) -> None:
    bench.folder = tmp_path_factory.mktemp("whole")
    whole = bench.measure()
    bench.folder = tmp_path_factory.mktemp("killed")
    asked = Counter[object]()
    for dies_after in (*kills, None):
        with suppress(Killed):
            resumed = bench.measure(dies_after=dies_after)
        asked.update(bench.processor.asked)

    assert dict(resumed) == dict(whole)
    assert set(asked.values()) == {1}


def test_tables_that_two_processes_begin_at_once_have_one_pace(bench: Bench) -> None:
    wide, narrow = ({"stem": n, "expand": n, "project": n} for n in (16, 8))
    path = bench.measure(widths=wide).path
    assert path is not None
    opened_before = LatencyTable(TARGET, path=path)
    bench.processor.paces = [1.3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(here.Here, "table", lambda *_, **__: opened_before)
        bench.measure(widths=narrow)

    table = LatencyTable.read(path)
    assert {layer.shape_at(at) for layer in GRAPH.layers for at in (wide, narrow)} < set(table)
    for shape in table:
        assert table[shape].median_ms == pytest.approx(bench.processor.ms(shape))


def test_what_measuring_will_take_is_said_beforehand(bench: Bench) -> None:
    nothing = LatencyTable(TARGET)
    before = outlook(GRAPH, nothing)
    table = bench.measure()
    half = LatencyTable(TARGET)
    for shape in (*lines_needed(GRAPH), *(layer.shape for layer in GRAPH.layers)):
        half.add(shape, table[shape])

    halfway, after = outlook(GRAPH, half), outlook(GRAPH, table)

    assert before.measurements == pytest.approx(len(table), rel=0.2)
    assert halfway.measurements == len(table.keys() - half.keys() - {SENTINEL}) + 1
    assert after.measurements == 0
    assert before.seconds is None  # of a runtime that is a formula
    assert str(before) == f"about {before.measurements} measurements"
    assert str(after) == "all of it is known"


def test_a_network_that_is_ready_is_timed_as_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Counter[str]()
    monkeypatch.setattr(bench.processor, "prepare", lambda *_: made.update(["again"]))
    ready = bench.processor.time.takes(0.04)

    table = measure(MODEL, GRAPH, EXAMPLE, TARGET, folder=bench.folder, ready=ready)

    assert not made
    assert table.network(GRAPH).median_ms == pytest.approx(40, rel=0.05)


def test_a_runtime_that_quantises_every_layer_is_said_to_take_longer() -> None:
    said: dict[tuple[str, str], float] = {}
    for runtime, precision in product(("onnxruntime", "openvino"), ("fp32", "int8")):
        target = replace(TARGET, runtime=runtime, precision=precision)
        asked = outlook(GRAPH, LatencyTable(target))
        assert asked.seconds is not None
        assert str(asked).startswith(f"about {asked.measurements} measurements, ")
        said[runtime, precision] = asked.seconds

    assert said["openvino", "int8"] > said["openvino", "fp32"]
    assert said["onnxruntime", "int8"] > said["onnxruntime", "fp32"]


def test_a_table_cannot_be_replaced_while_it_is_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = bench.measure(widths={"stem": 8, "expand": 8, "project": 8})
    path = table.path
    assert path is not None
    refused = []

    def add(self: LatencyTable, *_: object) -> None:
        with pytest.raises(TableInUse), alone(path, patience_s=0.0):
            pass
        refused.append(self)

    monkeypatch.setattr(LatencyTable, "add", add)
    with suppress(NotMeasured):  # of what was not added
        bench.measure()

    assert refused


def test_with_a_plans_widths_exactly_its_layers_are_measured(bench: Bench) -> None:
    widths = {"stem": 40, "expand": 88, "project": 24}

    table = bench.measure(widths=widths)

    assert set(table) - {SENTINEL} == {layer.shape_at(widths) for layer in GRAPH.layers}


def test_a_machine_that_slows_down_gives_the_table_of_one_that_does_not(bench: Bench) -> None:
    steady = bench.measure()
    bench.folder = bench.folder / "drifting"
    bench.processor.paces = [1.0, 1.3, 1.3, 1.3, 2.0]
    drifting = bench.measure()
    bench.processor.paces = [3.0]
    drifting = bench.measure(widths={"stem": 40, "expand": 88, "project": 24})

    for shape, measured in steady.items():
        assert drifting[shape].median_ms == pytest.approx(measured.median_ms)
    asked = [layer.shape_at({"stem": 40, "expand": 88, "project": 24}) for layer in GRAPH.layers]
    for shape in asked:
        assert drifting[shape].median_ms == pytest.approx(bench.processor.ms(shape))
    assert drifting.network(GRAPH).median_ms == pytest.approx(steady.network(GRAPH).median_ms)


def test_progress_counts_up_to_its_total(bench: Bench) -> None:
    told: list[tuple[int, int]] = []

    measure(
        MODEL,
        GRAPH,
        EXAMPLE,
        TARGET,
        folder=bench.folder,
        progress=lambda done, total, _: told.append((done, total)),
    )

    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert all(before[1] <= after[1] for before, after in pairwise(told))
    assert told[-1][0] == told[-1][1]


def test_an_example_of_another_batch_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="4 samples but the target's batch is 1"):
        measure(MODEL, GRAPH, torch.zeros(4, 3, 8, 8), TARGET, folder=bench.folder)


def test_another_machines_target_is_refused() -> None:
    here = Target.here("eager")
    there = Target("a machine elsewhere", "eager", here.runtime_version)

    with pytest.raises(ValueError, match="a machine elsewhere"):
        measure(MODEL, GRAPH, EXAMPLE, there)


def test_a_comparison_times_both_networks_in_turns(bench: Bench) -> None:
    clock: FakeClock = bench.processor.time

    compared = compare(clock.takes(0.1), clock.takes(0.06), EXAMPLE, TARGET)

    assert compared.ratio == pytest.approx(0.6)
    assert compared.dense.median_ms == pytest.approx(100.0)
    assert compared.small.median_ms == pytest.approx(60.0)


def test_a_comparison_ends_when_its_question_is_answered(bench: Bench) -> None:
    clock: FakeClock = bench.processor.time

    compared = compare(
        clock.takes(0.1),
        clock.takes(0.06),
        EXAMPLE,
        TARGET,
        enough=lambda so_far: so_far.small.runs >= 13,
        limit_s=100.0,
    )

    assert compared.small.runs == 13


def test_quick_networks_are_timed_for_longer_than_a_burst_of_noise(bench: Bench) -> None:
    clock: FakeClock = bench.processor.time

    compared = compare(clock.takes(0.002), clock.takes(0.001), EXAMPLE, TARGET)

    # a round is 20 ms untimed and 20 ms timed of each
    assert compared.small.runs == pytest.approx(1.5 / 0.08, abs=1)


def test_a_comparison_that_never_settles_ends_at_its_limit(bench: Bench) -> None:
    clock = bench.processor.time
    numbers = np.random.default_rng(0)

    def unsteady() -> None:
        clock.now += float(numbers.uniform(0.01, 0.2))

    compared = compare(clock.takes(0.1), unsteady, EXAMPLE, TARGET, limit_s=5.0)

    assert compared.dense.runs == pytest.approx(25, abs=8)
    assert compared.ratio_iqr > 0.2


def test_what_one_opening_adds_by_chance_is_averaged(bench: Bench) -> None:
    clock: FakeClock = bench.processor.time
    lucks = itertools.cycle([1.0, 1.1])
    dense = Opened(lambda: clock.takes(0.1), clock=clock)
    small = Opened(lambda: clock.takes(0.06 * next(lucks)), clock=clock)

    once = compare(dense, small, EXAMPLE, TARGET)
    often = compare(dense, small, EXAMPLE, TARGET, limit_s=40.0, openings=4)

    assert once.ratio == pytest.approx(0.6)
    assert often.ratio == pytest.approx(0.63, abs=0.002)
    assert often.ratio_error == pytest.approx(np.std([0.6, 0.66] * 2, ddof=1) / 2, rel=0.01)
    assert once.ratio_error < often.ratio_error


def test_opening_anew_ends_when_all_openings_together_are_enough(bench: Bench) -> None:
    clock: FakeClock = bench.processor.time
    dense, small = (Counted(clock) for _ in range(2))

    compare(dense, small, EXAMPLE, TARGET, enough=lambda _: True, openings=8)

    assert (dense.openings, small.openings) == (4, 4)  # one before, three for the timings


def test_what_takes_long_to_open_is_opened_once_and_timed_for_as_long(bench: Bench) -> None:
    clock: FakeClock = bench.processor.time
    dense, small = (Counted(clock, opening_s=10.0) for _ in range(2))

    compared = compare(
        dense, small, EXAMPLE, TARGET, enough=lambda _: False, limit_s=40.0, openings=8
    )

    assert (dense.openings, small.openings) == (1, 1)
    assert compared.dense.runs == pytest.approx(40.0 / 0.2, rel=0.05)


class Counted(Opened):
    """A network of 0.1 s a run that counts how often it was opened."""

    def __init__(self, clock: FakeClock, *, opening_s: float = 0.0) -> None:
        self.openings = 0

        def open_() -> Callable[[], None]:
            self.openings += 1
            clock.now += opening_s
            return clock.takes(0.1)

        super().__init__(open_, clock=clock)
