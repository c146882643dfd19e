"""The loop ends within the budget on the clock, though the layers' sum does not predict it."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import nn

import latprune as lp
import latprune.progress
from latprune.fitting import refining
from latprune.fitting.candidate import Candidate, is_short, is_sure
from latprune.fitting.care import AIM, QUICK, decided
from latprune.fitting.place import Place
from latprune.fitting.refining import refine
from latprune.latency.timing import Comparison, Measurement
from latprune.planning import Demand
from tests.networks import ConvNorm, Head
from tests.synthetic import Synthetic, layer_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from latprune.graph.layers import LayerShape
    from latprune.latency.target import Target
    from latprune.progress import Progress

EXAMPLE = torch.zeros(1, 3, 16, 16)


class Network(nn.Sequential):
    def __init__(self, *widths: int) -> None:
        widths = widths or COARSE
        inputs = (3, *widths[:-1])
        super().__init__(*map(ConvNorm, inputs, widths), Head(widths[-1]))


COARSE, FINE = (32, 64, 64, 48), (64, 128, 128, 128, 96)


def fitted(
    runtime: Synthetic,
    budget: lp.Budget,
    folder: Path,
    patch: pytest.MonkeyPatch,
    *,
    widths: tuple[int, ...] = COARSE,
    progress: Progress | None = None,
) -> lp.Fitted:
    runtime.install(patch)
    torch.manual_seed(0)
    model = Network(*widths).eval()
    graph = lp.trace(model, EXAMPLE)
    table = lp.measure(model, graph, EXAMPLE, lp.Target.here("synthetic"), folder=folder)
    saliency = lp.magnitude(model, graph)
    return lp.fit(model, graph, EXAMPLE, table, saliency, budget, folder=folder, progress=progress)


@pytest.mark.parametrize("fraction", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("runtime", [Synthetic(), Synthetic(whole=1.3), Synthetic(rest_ms=0.2)])
def test_a_share_of_the_dense_time_is_met_and_used(
    runtime: Synthetic, fraction: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fitted(runtime, lp.Budget(fraction=fraction), tmp_path, monkeypatch)

    assert 0.9 <= found.used <= 1  # five widths make coarse steps
    assert found.comparison.ratio == pytest.approx(fraction * found.used)


class Told(lp.progress.Quiet):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def step(self, done: int, total: int | None, what: str) -> None:
        self.steps.append(what)


def test_what_was_timed_is_known_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, budget = Synthetic(whole=1.3, rest_ms=0.6), lp.Budget(fraction=0.5)
    misses = []
    for _ in range(2):
        told = Told()
        fitted(runtime, budget, tmp_path, monkeypatch, progress=told)
        first = next(what for what in told.steps if what.startswith("takes"))
        misses.append(abs(float(first.split()[1]) - 100 * AIM))

    assert misses[1] < misses[0]


@dataclass(frozen=True)
class Moody(Synthetic):
    """A clock that is a little off, differently every time; remembers what it timed."""

    moods: Iterator[float] = field(default_factory=lambda: itertools.cycle([1.0, 1.01, 0.99]))
    timed: list[nn.Module] = field(default_factory=list)

    def compare(self, dense: nn.Module, small: nn.Module, *args: Any, **options: Any) -> Comparison:
        self.timed.append(small)
        found = super().compare(dense, small, *args, **options)
        ratio = found.ratio * next(self.moods)
        return replace(found, ratio=ratio, ratio_error=0.01 * ratio)


def test_a_network_is_timed_until_that_is_sure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Moody()

    found = fitted(runtime, lp.Budget(fraction=0.5), tmp_path, monkeypatch, widths=FINE)

    assert found.used <= 1
    assert found.rounds == len(runtime.timed)
    again = max(runtime.timed.count(model) for model in runtime.timed)
    assert again > 1
    mine = runtime.timed.count(found.model)
    assert found.comparison.small.runs == 10 * mine  # pooled
    assert found.comparison.ratio_error == pytest.approx(
        0.01 * found.comparison.ratio / mine**0.5, rel=0.02
    )


def test_a_quick_network_is_believed_after_several_timings_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, budget = Moody(moods=itertools.count(1.0, 1e-6)), lp.Budget(fraction=0.5)

    first = fitted(runtime, budget, tmp_path, monkeypatch, widths=FINE)
    second = fitted(runtime, budget, tmp_path, monkeypatch, widths=FINE)

    assert first.rounds >= QUICK.own
    assert second.plan.widths == first.plan.widths
    assert second.rounds == 1  # the table remembers the others


def test_a_dense_network_that_is_ready_is_not_made_ready_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic().install(monkeypatch)
    model, target = Network().eval(), lp.Target.here("synthetic")
    graph, made = lp.trace(model, EXAMPLE), list[nn.Module]()

    def prepare(network: nn.Module, *_: object, **__: object) -> nn.Module:
        made.append(network)
        return network

    monkeypatch.setattr(latprune.fitting.loop, "prepare", prepare)
    table = lp.measure(model, graph, EXAMPLE, target, folder=tmp_path)
    asked = (lp.magnitude(model, graph), lp.Budget(fraction=0.5))

    for ready, count in ((None, 1), ({target: model}, 0)):
        made.clear()
        lp.fit(model, graph, EXAMPLE, table, *asked, folder=tmp_path, ready=ready)
        assert made.count(model) == count


def test_milliseconds_are_met_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Synthetic(whole=0.8, rest_ms=0.1)
    dense_ms = runtime.network_ms(Network(), EXAMPLE)

    found = fitted(runtime, lp.Budget(ms=0.6 * dense_ms), tmp_path, monkeypatch)

    assert 0.9 <= found.comparison.small.median_ms / (0.6 * dense_ms) <= 1


def test_a_network_that_fits_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fitted(Synthetic(), lp.Budget(fraction=1.5), tmp_path, monkeypatch)

    assert found.is_dense
    assert found.rounds == 1


def test_a_network_without_layers_fits_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic(rest_ms=0.1).install(monkeypatch)
    model = nn.ReLU()
    graph = lp.trace(model, EXAMPLE)
    table = lp.measure(model, graph, EXAMPLE, lp.Target.here("synthetic"), folder=tmp_path)

    found = lp.fit(model, graph, EXAMPLE, table, lp.magnitude(model, graph), lp.Budget(ms=1.0))

    assert found.is_dense
    assert found.used == pytest.approx(0.1)


@pytest.mark.parametrize("in_memory", [False, True])
def test_without_a_folder_the_table_that_was_given_grows(
    in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic(whole=1.3).install(monkeypatch)
    model = Network().eval()
    graph = lp.trace(model, EXAMPLE)
    table = lp.measure(model, graph, EXAMPLE, lp.Target.here("synthetic"), folder=tmp_path)
    assert table.path is not None
    if in_memory:
        table = lp.LatencyTable.read(table.path)
    asked = table, lp.magnitude(model, graph), lp.Budget(fraction=0.5)

    found = lp.fit(model, graph, EXAMPLE, *asked)

    assert found.used <= 1
    assert set(graph.shapes_at(found.plan.widths).values()) <= found.table.keys()
    assert found.table.network(graph) == table.network(graph)
    assert found.table.path == table.path
    assert (found.table is table) == in_memory


def test_what_is_measured_besides_comes_at_the_pace_of_the_table_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic().install(monkeypatch)
    model = Network().eval()
    graph, target = lp.trace(model, EXAMPLE), lp.Target.here("synthetic")
    quick = lp.measure(model, graph, EXAMPLE, target, folder=tmp_path)
    slow = lp.LatencyTable(target)  # as if begun when the machine took twice as long
    for shape, found in quick.items():
        slow.add(shape, found.scaled(2.0))
    slow.add_network(graph, quick.network(graph).scaled(2.0))
    before = len(slow)

    refine(model, graph, EXAMPLE, slow, lp.magnitude(model, graph), lp.Budget(fraction=0.5))

    assert len(slow) > before
    assert all(
        found.median_ms == pytest.approx(2 * layer_ms(shape)) for shape, found in slow.items()
    )


def test_a_network_is_cut_though_none_of_its_channels_is_worth_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic(whole=1.3).install(monkeypatch)
    model = Network().eval()
    graph = lp.trace(model, EXAMPLE)
    table = lp.measure(model, graph, EXAMPLE, lp.Target.here("synthetic"), folder=tmp_path)
    worthless = lp.Saliency({g.name: np.zeros(g.channels) for g in graph.groups}, criterion="none")

    found = lp.fit(
        model, graph, EXAMPLE, table, worthless, lp.Budget(fraction=0.5), folder=tmp_path
    )

    assert not found.is_dense
    assert found.used <= 1


def test_an_impossible_budget_names_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lp.BudgetTooSmall) as caught:
        fitted(Synthetic(rest_ms=0.5), lp.Budget(ms=0.4), tmp_path, monkeypatch)

    assert caught.value.floor_ms > 0.5  # timed: it is more than the layers let believe
    assert "% of the dense network's" in str(caught.value)


def test_the_floor_is_timed_before_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    with pytest.raises(lp.BudgetTooSmall) as caught:
        fitted(Synthetic(rest_ms=0.5), lp.Budget(ms=1e-3), tmp_path, monkeypatch, progress=told)

    assert told.steps == ["choosing widths", "timing the narrowest network"]
    assert 0.5 < caught.value.floor_ms < 0.6  # most of it is the rest, which only the clock knows


def test_where_the_narrowest_network_is_believed_to_fit_it_is_timed_and_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "believed_ms", lambda *_: 0.3)

    found = fitted(Synthetic(rest_ms=0.5), lp.Budget(ms=0.4), tmp_path, monkeypatch)

    assert found.plan.budget == lp.Budget(ms=0.4)
    assert found.used == pytest.approx(0.541 / 0.4, rel=0.01)  # said, not hidden


def test_a_budget_just_above_the_narrowest_network_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lp.BudgetTooSmall) as caught:
        fitted(Synthetic(rest_ms=0.0), lp.Budget(ms=1e-3), tmp_path / "first", monkeypatch)

    budget = lp.Budget(ms=caught.value.floor_ms * 1.005)  # less than 1.7 % above: not below the aim
    found = fitted(Synthetic(rest_ms=0.0), budget, tmp_path / "second", monkeypatch)

    assert AIM < found.used <= 1


def test_a_slower_network_is_never_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Perverse(Synthetic):
        """Whatever is cut makes the network a little slower."""

        def network_ms(self, model: nn.Module, example: torch.Tensor) -> float:  # type: ignore[override]
            dense_ms = super().network_ms(Network(), example)
            return dense_ms * (1.0 if super().network_ms(model, example) == dense_ms else 1.001)

    found = fitted(Perverse(), lp.Budget(fraction=0.99), tmp_path, monkeypatch)

    assert found.is_dense
    assert found.comparison.ratio == 1


@dataclass(frozen=True)
class Contrary(Synthetic):
    """With one thread whatever is cut makes the network slower, by so much."""

    slower: float = 1.05

    def compare(
        self, dense: nn.Module, small: nn.Module, example: Any, target: Target, **_: Any
    ) -> Comparison:
        found = super().compare(dense, small, example, target)
        if target.threads > 1 or found.ratio == 1:
            return found
        taken = replace(found.dense, median_ms=self.slower * found.dense.median_ms)
        return replace(found, small=taken, ratio=self.slower)


def test_channels_that_are_gone_do_not_come_back_though_the_network_is_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Contrary()
    runtime.install(monkeypatch)
    model = Network().eval()
    graph = lp.trace(model, EXAMPLE)
    table = lp.measure(model, graph, EXAMPLE, lp.Target.here("synthetic"), folder=tmp_path)
    left = {group.name: tuple(range(8, group.channels)) for group in graph.groups}
    saliency, budget = lp.magnitude(model, graph), lp.Budget(fraction=0.7)

    found = lp.fit(model, graph, EXAMPLE, table, saliency, budget, within=left, folder=tmp_path)

    assert all(set(kept) <= set(left[group]) for group, kept in found.plan.kept.items())


def compared(used: float, *, spread: float, rounds: int) -> Comparison:
    """A comparison of networks, the budget being half of the dense one."""
    small = Measurement(5.0 * used, 0.1, rounds)
    error = 0.93 * spread / rounds**0.5
    return Comparison(Measurement(10.0, 0.1, rounds), small, 0.5 * used, 0.5 * spread, 0.5 * error)


@pytest.mark.parametrize(
    ("used", "spread", "rounds", "clear"),
    [
        (AIM, 0.001, 10, True),  # near, and well known
        (AIM, 0.1, 10, False),  # near, as far as one can say
        (AIM - 0.05, 0.03, 10, True),  # far, beyond doubt
        (AIM - 0.015, 0.05, 10, False),  # perhaps far
        (AIM - 0.015, 0.05, 10_000, True),  # far, after many rounds
    ],
)
def test_a_network_is_timed_until_it_is_clear_whether_it_is_near(
    used: float, spread: float, rounds: int, clear: bool
) -> None:
    found = compared(used, spread=spread, rounds=rounds)

    assert decided(lp.Budget(fraction=0.5), found) is clear


@pytest.mark.parametrize(
    ("used", "sure"),
    [
        (AIM, True),
        (AIM - 0.01, True),  # less than is believed, but little is given away
        (AIM - 0.03, False),
        (AIM + 0.01, False),
        (1.001, False),
    ],
)
def test_a_network_whose_own_timings_say_far_less_than_is_believed_is_timed_again(
    used: float, sure: bool
) -> None:
    plan: Any = SimpleNamespace(budget=lp.Budget(fraction=0.5), also=(), widths={})
    place: Any = SimpleNamespace(believed=lambda _: (AIM, 0.003), timings=lambda _: QUICK.own)
    candidate = Candidate(nn.Identity(), plan, runs=[])
    candidate.add([compared(used, spread=0.003, rounds=10)])

    assert is_sure(candidate, [place], QUICK) is sure


@pytest.mark.parametrize(
    ("believed", "error", "timings", "own", "short"),
    [
        (AIM - 0.03, 0.003, QUICK.own, AIM - 0.03, True),
        (AIM - 0.03, 0.02, QUICK.own, AIM - 0.03, False),  # perhaps it is near
        (AIM - 0.03, 0.003, QUICK.own - 1, AIM - 0.03, False),  # too few of its own
        (AIM - 0.03, 0.003, QUICK.own, 1.01, False),  # by its own it does not even fit
        (AIM, 0.003, QUICK.own, AIM, False),
    ],
)
def test_a_network_known_to_take_far_less_is_not_timed_again_and_again(
    believed: float, error: float, timings: int, own: float, short: bool
) -> None:
    plan: Any = SimpleNamespace(budget=lp.Budget(fraction=0.5), also=(), widths={})
    place: Any = SimpleNamespace(believed=lambda _: (believed, error), timings=lambda _: timings)
    candidate = Candidate(nn.Identity(), plan, runs=[])
    candidate.add([compared(own, spread=0.003, rounds=10)])

    assert is_short(candidate, [place], QUICK) is short


@dataclass(frozen=True)
class Uneven(Synthetic):
    """Layers take up to 15 % more or less than their widths let expect."""

    seed: int = 0

    def time_layers(
        self, shapes: Sequence[LayerShape], target: Target, *, apart: int = 0
    ) -> Iterator[tuple[LayerShape, Measurement]]:
        for shape, found in super().time_layers(shapes, target, apart=apart):
            widths = (shape.in_channels, shape.out_channels, *shape.size)
            luck = np.random.default_rng([self.seed, crc32(shape.kind.encode()), *widths])
            yield shape, found.scaled(1 + luck.uniform(-0.15, 0.15))


def test_where_a_plan_leaves_much_its_neighbours_are_measured_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Uneven().install(monkeypatch)
    torch.manual_seed(0)
    model = Network(*FINE).eval()
    graph, target = lp.trace(model, EXAMPLE), lp.Target.here("synthetic")
    saliency, budget = lp.magnitude(model, graph), lp.Budget(fraction=0.25)

    def kept(seed: int, what: str) -> float:
        """The saliency that a plan keeps of a network that nothing was known of."""
        Uneven(seed=seed).install(monkeypatch)
        folder = tmp_path / f"{what} {seed}"
        table = lp.measure(model, graph, EXAMPLE, target, folder=folder)
        planned, _ = refine(model, graph, EXAMPLE, table, saliency, budget, folder=folder)
        assert planned.predicted_ms <= planned.budget_ms
        return planned.value

    seeds = range(16)
    measured = [kept(seed, "neighbours measured") for seed in seeds]
    monkeypatch.setattr(refining, "_leaves_much", lambda *_: False)
    left = [kept(seed, "neighbours left") for seed in seeds]

    more = [a > b for a, b in zip(measured, left, strict=True)]
    less = [a < b for a, b in zip(measured, left, strict=True)]
    assert sum(more) > sum(less)
    assert sum(measured) > sum(left)


def test_a_table_that_holds_a_plans_layers_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic().install(monkeypatch)
    model = Network(*FINE).eval()
    graph, target = lp.trace(model, EXAMPLE), lp.Target.here("synthetic")
    saliency, budget = lp.magnitude(model, graph), lp.Budget(fraction=0.5)
    table = lp.measure(model, graph, EXAMPLE, target, folder=tmp_path)
    first, table = refine(model, graph, EXAMPLE, table, saliency, budget, folder=tmp_path)

    assert table.path is not None
    table.path.write_text("damaged")
    second, again = refine(model, graph, EXAMPLE, table, saliency, budget, folder=tmp_path)

    assert (second.widths, len(again)) == (first.widths, len(table))


def test_networks_timed_in_a_bad_hour_do_not_keep_the_loop_far_below_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic().install(monkeypatch)
    torch.manual_seed(0)
    model = Network(*FINE).eval()
    graph, target = lp.trace(model, EXAMPLE), lp.Target.here("synthetic")
    saliency = lp.magnitude(model, graph)
    table = lp.measure(model, graph, EXAMPLE, target, folder=tmp_path)
    for share in (0.51, 0.53, 0.55, 0.6):
        budget = lp.Budget(fraction=share)
        wider, table = refine(model, graph, EXAMPLE, table, saliency, budget, folder=tmp_path)
        taken = 1.15 * wider.predicted_ms / wider.baseline_ms
        for number in range(QUICK.own):  # no two timings are the same
            slow = compared(2 * taken * (1 + 1e-4 * number), spread=0.003, rounds=10)
            table.add_cut(graph, wider.widths, slow)

    budget = lp.Budget(fraction=0.5)
    found = lp.fit(model, graph, EXAMPLE, table, saliency, budget, folder=tmp_path)

    assert 0.97 <= found.used <= 1


@dataclass(frozen=True)
class Cached(Moody):
    """Networks quickly get faster than their layers where they begin to fit into a cache."""

    moods: Iterator[float] = field(default_factory=lambda: itertools.count(1.0, 1e-6))
    dense_ms: float = 0.0

    def network_ms(
        self, model: nn.Module, example: torch.Tensor | tuple[torch.Tensor, ...]
    ) -> float:
        layers_ms = super().network_ms(model, example)
        return layers_ms * float(np.interp(layers_ms / self.dense_ms, [0.45, 0.6], [0.6, 1.0]))


def test_the_loop_goes_between_networks_on_both_sides_of_its_aim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = Network(*FINE).eval()
    runtime = Cached(dense_ms=Synthetic().network_ms(model, EXAMPLE))

    found = fitted(runtime, lp.Budget(fraction=0.55), tmp_path, monkeypatch, widths=FINE)

    assert 0.97 <= found.used <= 1
    assert len(set(runtime.timed)) == 4  # six, if each plan only has the rest of the one before


def test_timings_that_disagree_are_believed_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Synthetic()
    runtime.install(monkeypatch)
    model = Network().eval()
    graph, target = lp.trace(model, EXAMPLE), lp.Target.here("synthetic")
    widths = {name: width // 2 for name, width in graph.widths.items()}

    def error(spread: float, count: int) -> float:
        folder = tmp_path / f"{spread} {count}"
        table = lp.measure(model, graph, EXAMPLE, target, folder=folder)
        table = lp.measure(model, graph, EXAMPLE, target, folder=folder, widths=widths)
        for number in range(count):
            off = 1 + spread * (-1) ** number * (1 + 0.01 * number)  # none equals another
            found = compared(off, spread=0.003, rounds=10)
            table.add_cut(graph, widths, found)
        place = Place(graph, Demand(table, lp.Budget(fraction=0.5)), dense=model)
        return place.believed(widths)[1]

    assert error(0.04, 8) == pytest.approx(4 * error(0.001, 8), rel=0.2)
    assert error(0.04, 2) == pytest.approx(error(0.001, 2), rel=0.2)  # too few to tell


@pytest.mark.parametrize("slower", [1.0, 1.3])
def test_milliseconds_are_todays_whatever_the_pace_of_the_table_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slower: float
) -> None:
    Synthetic().install(monkeypatch)
    model = Network().eval()
    graph, target = lp.trace(model, EXAMPLE), lp.Target.here("synthetic")
    widths = {name: width // 2 for name, width in graph.widths.items()}
    lp.measure(model, graph, EXAMPLE, target, folder=tmp_path)
    table = lp.measure(model, graph, EXAMPLE, target, folder=tmp_path, widths=widths)
    dense_ms = table.network(graph).median_ms
    half = Measurement(dense_ms / 2, 0.001 * dense_ms, 10)
    then = Comparison(Measurement(dense_ms, 0.001 * dense_ms, 10), half, 0.5, 0.001, 0.0005)
    table.add_cut(graph, widths, then)
    now = replace(then, dense=then.dense.scaled(slower), small=then.small.scaled(slower))

    place = Place(graph, Demand(table, lp.Budget(ms=dense_ms * slower / 2)), dense=model)
    place.add(widths, now)

    assert place.believed(widths)[0] == pytest.approx(1, rel=1e-3)
    assert place.believed_ms(widths) == pytest.approx(dense_ms * slower / 2, rel=1e-3)


@dataclass(frozen=True)
class Tired(Synthetic):
    """Whole networks take half as long again in turns as when the table was made."""

    def compare(self, *networks: Any, **options: Any) -> Comparison:
        found = super().compare(*networks, **options)
        return replace(found, dense=found.dense.scaled(1.5), small=found.small.scaled(1.5))


def test_milliseconds_that_only_the_table_says_are_enough_are_met_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic().install(monkeypatch)
    model = Network(*FINE).eval()
    graph, target = lp.trace(model, EXAMPLE), lp.Target.here("synthetic")
    table = lp.measure(model, graph, EXAMPLE, target, folder=tmp_path)

    dense_ms = table.network(graph).median_ms
    found = fitted(Tired(), lp.Budget(ms=1.2 * dense_ms), tmp_path, monkeypatch, widths=FINE)

    assert not found.is_dense
    assert 0.95 < found.used <= 1
    assert found.plan.baseline_ms == pytest.approx(1.5 * dense_ms)


def test_an_impossible_budget_is_a_share_of_what_the_dense_network_takes_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lp.BudgetTooSmall) as caught:
        fitted(Tired(), lp.Budget(ms=1e-3), tmp_path, monkeypatch)

    share = re.search(r"\(([\d.]+)%\)", str(caught.value))
    assert share is not None
    with pytest.raises(lp.BudgetTooSmall) as again:
        fitted(Tired(), lp.Budget(fraction=1e-3), tmp_path, monkeypatch)
    assert share[0] in str(again.value)


def test_two_targets_are_met_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Synthetic(whole=1.2, rest_ms=0.05)
    runtime.install(monkeypatch)
    torch.manual_seed(0)
    model = Network(*FINE).eval()
    graph = lp.trace(model, EXAMPLE)
    tables = [
        lp.measure(model, graph, EXAMPLE, lp.Target.here("synthetic", threads=n), folder=tmp_path)
        for n in (1, 2)
    ]
    looser, tighter = lp.Budget(fraction=0.8), lp.Budget(fraction=0.5)

    found = lp.fit(
        model,
        graph,
        EXAMPLE,
        tables[0],
        lp.magnitude(model, graph),
        looser,
        also=[lp.Demand(tables[1], tighter)],
        folder=tmp_path,
    )

    (also,) = found.also
    assert found.comparison.ratio == also.ratio  # the same formula on both
    assert 0.95 <= also.ratio / 0.5 == found.used <= 1
    assert found.plan.also[0].budget == tighter


def fitted_twice(
    runtime: Synthetic, budgets: dict[int, float], folder: Path, patch: pytest.MonkeyPatch
) -> lp.Fitted:
    """Fit to a share of the dense network's time for every number of threads."""
    runtime.install(patch)
    torch.manual_seed(0)
    model = Network().eval()
    graph = lp.trace(model, EXAMPLE)
    first, second = (
        lp.Demand(
            lp.measure(
                model, graph, EXAMPLE, lp.Target.here("synthetic", threads=n), folder=folder
            ),
            lp.Budget(fraction=share),
        )
        for n, share in budgets.items()
    )
    saliency = lp.magnitude(model, graph)
    return lp.fit(
        model, graph, EXAMPLE, first.table, saliency, first.budget, also=[second], folder=folder
    )


def test_a_network_within_both_budgets_stays_though_it_is_slower_on_one_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fitted_twice(Contrary(), {1: 1.1, 2: 0.5}, tmp_path, monkeypatch)

    assert not found.is_dense
    assert found.used <= 1


def test_a_dense_network_that_is_left_whole_is_promised_as_such_on_every_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Perverse(Contrary):
        """With two threads it is as slow."""

        def compare(
            self, dense: nn.Module, small: nn.Module, example: Any, target: Target, **_: Any
        ) -> Comparison:
            return super().compare(dense, small, example, replace(target, threads=1))

    found = fitted_twice(Perverse(), {1: 0.9, 2: 0.9}, tmp_path, monkeypatch)

    assert found.is_dense
    (also,) = found.plan.also
    assert found.plan.predicted_ms == found.plan.baseline_ms
    assert also.predicted_ms == also.baseline_ms
    # This runtime's networks take what their layers do.
    assert [found.plan.rest_ms, also.rest_ms] == pytest.approx([0.0, 0.0], abs=1e-9)
