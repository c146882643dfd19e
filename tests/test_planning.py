"""A plan keeps what is worth most within the budget, by the table's own measurements."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latprune.errors import BudgetTooSmall, ModelMismatch, NotMeasured
from latprune.graph.groups import PruningGraph
from latprune.graph.layers import Layer, LayerShape, Width
from latprune.graph.tracing import trace
from latprune.knapsack import Choice, Problem, Solver, greedy, halp, joint, uniform
from latprune.latency.staircase import lines_needed, options
from latprune.latency.table import LatencyTable
from latprune.latency.target import Target
from latprune.latency.timing import Measurement
from latprune.planning import Budget, Demand, Plan, as_budget, frontier, plan
from latprune.saliency import Saliency
from tests import networks
from tests.strategies import group_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TARGET = Target(device="a stopwatch", runtime="eager", runtime_version="1")


def conv(name: str, reads: Width, writes: Width, *, size: int, depthwise: bool = False) -> Layer:
    dense = {group.name: group.channels for group in GROUPS}
    inputs, outputs = reads.at(dense), writes.at(dense)
    shape = LayerShape(
        "conv", inputs, outputs, size=(size, size), kernel=(3, 3), groups=inputs if depthwise else 1
    )
    return Layer(name, shape, reads, writes, groups_follow=depthwise)


# Two branches side by side, a layer that reads both, a depthwise one, and a last one.
GROUPS = (group_of("left", 32), group_of("right", 16), group_of("joined", 32))
LEFT, RIGHT, JOINED = (Width(0, ((group.name, 1),)) for group in GROUPS)
BOTH = Width(0, (("left", 1), ("right", 1)))
GRAPH = PruningGraph(
    layers=(
        conv("left", Width(3), LEFT, size=8),
        conv("right", Width(3), RIGHT, size=8),
        conv("joined", BOTH, JOINED, size=8),
        conv("depthwise", JOINED, JOINED, size=8, depthwise=True),
        conv("last", JOINED, Width(10), size=4),
    ),
    groups=GROUPS,
)


def made_up_ms(shape: LayerShape, *, step: int = 8) -> float:
    """Climb in stairs of so many channels."""
    outputs = math.ceil(shape.out_channels / step)
    inputs = 1 if shape.groups > 1 else math.ceil(shape.in_channels / step)
    return round(0.01 + inputs * outputs * shape.size[0] ** 2 / 1000, 6)


def measured(
    graph: PruningGraph, *, network_ms: float | None, step: int = 8, target: Target = TARGET
) -> LatencyTable:
    """Make a table that holds every width a plan may choose; without a network where None."""
    table = LatencyTable(target)
    for shape in (*lines_needed(graph), *(layer.shape for layer in graph.layers)):
        table.add(shape, Measurement(made_up_ms(shape, step=step), 0.0, 1))
    allowed = options(graph, table)
    for widths in itertools.product(*allowed.values()):
        for layer in graph.layers:
            shape = layer.shape_at(dict(zip(allowed, widths, strict=True)))
            table.add(shape, Measurement(made_up_ms(shape, step=step), 0.0, 1))
    if network_ms is not None:
        table.add_network(graph, Measurement(network_ms, 0.0, 1))
    return table


def layers_ms(widths: Mapping[str, int]) -> float:
    return sum(made_up_ms(layer.shape_at(widths)) for layer in GRAPH.layers)


DENSE_MS = layers_ms(GRAPH.widths)
REST_MS = 0.25
TABLE = measured(GRAPH, network_ms=DENSE_MS + REST_MS)


def rest_ms_at(widths: Mapping[str, int]) -> float:
    """What a network takes beside its layers: it shrinks with them."""
    return REST_MS * layers_ms(widths) / DENSE_MS


def random_saliency(seed: int = 0) -> Saliency:
    rng = np.random.default_rng(seed)
    return Saliency(
        {group.name: rng.lognormal(size=group.channels) for group in GROUPS}, criterion="random"
    )


def best_by_trying_everything(
    saliency: Saliency, budget_ms: float, *, within: Mapping[str, Sequence[int]] | None = None
) -> float:
    left = within or {group.name: range(group.channels) for group in GROUPS}
    allowed = {
        name: widths[widths <= len(left[name])] for name, widths in options(GRAPH, TABLE).items()
    }
    ranked = {
        name: np.sort(scores[list(left[name])])[::-1] for name, scores in saliency.scores.items()
    }
    every = (dict(zip(allowed, w, strict=True)) for w in itertools.product(*allowed.values()))
    return max(
        sum(float(ranked[name][:width].sum()) for name, width in widths.items())
        for widths in every
        if layers_ms(widths) + rest_ms_at(widths) <= budget_ms
    )


@pytest.mark.parametrize("share", [0.5, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_widths_within_the_budget_keep_more(share: float, seed: int) -> None:
    saliency = random_saliency(seed)
    made = plan(GRAPH, TABLE, saliency, Budget(fraction=share))

    best = best_by_trying_everything(saliency, share * (DENSE_MS + REST_MS))
    assert made.value == pytest.approx(best)
    assert made.value <= made.bound
    assert made.gap <= 1e-4


@pytest.mark.parametrize("solver", [joint, uniform, greedy, partial(halp, steps=1)])
def test_what_is_gone_already_is_not_chosen(solver: Solver) -> None:
    first = plan(GRAPH, TABLE, random_saliency(0), Budget(fraction=0.7), solver=solver)
    saliency = random_saliency(1)

    made = plan(GRAPH, TABLE, saliency, Budget(fraction=0.45), solver=solver, within=first.kept)

    assert all(set(kept) <= set(first.kept[group]) for group, kept in made.kept.items())
    assert made.predicted_ms == pytest.approx(layers_ms(made.widths) + rest_ms_at(made.widths))
    assert made.predicted_ms <= made.budget_ms == 0.45 * (DENSE_MS + REST_MS)
    best = best_by_trying_everything(saliency, made.budget_ms, within=first.kept)
    assert made.value <= best + 1e-9
    if solver is joint:
        assert made.value == pytest.approx(best)


def test_a_budget_that_what_is_left_meets_cuts_nothing_more() -> None:
    first = plan(GRAPH, TABLE, random_saliency(0), Budget(fraction=0.5))

    made = plan(GRAPH, TABLE, random_saliency(1), Budget(fraction=0.6), within=first.kept)

    assert made.kept == first.kept
    assert made.predicted_ms == pytest.approx(first.predicted_ms)


def test_a_solver_with_arguments_filled_in_keeps_its_name() -> None:
    solver = partial(halp, steps=1)

    made = plan(GRAPH, TABLE, random_saliency(), Budget(fraction=0.6), solver=solver)

    assert made.solver == "halp"


def test_the_prediction_is_what_the_layers_were_measured_to_take_and_the_rest() -> None:
    made = plan(GRAPH, TABLE, random_saliency(), Budget(fraction=0.6))

    assert made.rest_ms == pytest.approx(rest_ms_at(made.widths))
    assert made.predicted_ms == pytest.approx(layers_ms(made.widths) + made.rest_ms)
    assert made.predicted_ms <= made.budget_ms == 0.6 * made.baseline_ms


def test_each_group_keeps_its_best_channels_and_the_first_of_equal_ones() -> None:
    scores = {group.name: np.ones(group.channels) for group in GROUPS}
    for of_channels in scores.values():
        of_channels[[5, 12]] = 2.0
    made = plan(GRAPH, TABLE, Saliency(scores, "mine"), Budget(fraction=0.4))

    assert any(width < GRAPH.widths[group] for group, width in made.widths.items())
    for group, width in made.widths.items():
        others = [channel for channel in range(GRAPH.widths[group]) if channel not in (5, 12)]
        assert made.kept[group] == tuple(sorted([5, 12, *others[: width - 2]]))


def test_every_group_is_in_the_plan_and_its_saliency_is_added_up() -> None:
    saliency = random_saliency()
    made = plan(GRAPH, TABLE, saliency, Budget(fraction=0.6))

    kept = sum(float(saliency.scores[g][list(channels)].sum()) for g, channels in made.kept.items())
    assert set(made.kept) == set(GRAPH.widths)
    assert made.value == pytest.approx(kept)
    assert made.dense_value == pytest.approx(sum(s.sum() for s in saliency.scores.values()))


@pytest.mark.parametrize("budget", [Budget(fraction=1.0), Budget(ms=1e3), Budget(fraction=1.5)])
def test_a_budget_that_the_dense_network_meets_keeps_everything(budget: Budget) -> None:
    made = plan(GRAPH, TABLE, random_saliency(), budget)

    assert made.widths == GRAPH.widths
    assert made.predicted_ms == pytest.approx(made.baseline_ms)
    assert made.value == made.bound == made.dense_value
    assert made.gap == 0.0


def test_what_the_dense_network_was_measured_to_take_counts_more_than_a_prediction() -> None:
    made = plan(GRAPH, TABLE, random_saliency(), Budget(fraction=1.0), rest_ms=REST_MS + 0.2)

    assert made.widths == GRAPH.widths
    assert made.predicted_ms > made.budget_ms


@pytest.mark.parametrize("rest_ms", [0.25, -0.05])
def test_an_impossible_budget_reports_the_whole_networks_floor(rest_ms: float) -> None:
    table = measured(GRAPH, network_ms=DENSE_MS + rest_ms)
    narrowest = {group: int(widths[0]) for group, widths in options(GRAPH, table).items()}

    with pytest.raises(BudgetTooSmall) as error:
        plan(GRAPH, table, random_saliency(), Budget(ms=0.01))
    assert error.value.budget_ms == pytest.approx(0.01)
    assert "--branches" in str(error.value)
    floor_ms = layers_ms(narrowest)
    floor_ms += rest_ms * floor_ms / DENSE_MS  # the rest shrinks with the layers
    assert error.value.floor_ms == pytest.approx(floor_ms)
    dense_ms = DENSE_MS + rest_ms
    assert f"{1 / dense_ms:.3g}% of the dense network's {dense_ms:.3f} ms" in str(error.value)
    said = re.search(r"Raise the budget above \d\.\d{3} ms \(([\d.]+)%\)", str(error.value))
    assert said is not None
    assert 0 <= float(said[1]) - 100 * floor_ms / dense_ms <= 0.1


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ((), " ms (17.1%), or let residual branches, if there are any, go as a whole with "),
        (
            ("stem",),
            " ms (17.1%), protect fewer layers with keep= (--keep), or let residual branches, ",
        ),
    ],
)
def test_only_who_protected_layers_is_told_to_protect_fewer(
    keep: tuple[str, ...], said: str
) -> None:
    frozen = trace(networks.Residual(), torch.randn(1, 3, 12, 12), keep=keep).frozen

    with pytest.raises(BudgetTooSmall) as error:
        plan(replace(GRAPH, frozen=frozen), TABLE, random_saliency(), Budget(ms=0.01))
    assert said in str(error.value)


def test_a_budget_of_the_reported_floor_is_met() -> None:
    with pytest.raises(BudgetTooSmall) as error:
        plan(GRAPH, TABLE, random_saliency(), Budget(ms=0.01))

    floor_ms = error.value.floor_ms
    assert plan(GRAPH, TABLE, random_saliency(), Budget(ms=floor_ms)).predicted_ms <= floor_ms


def test_a_corrected_rest_leaves_less_for_the_layers() -> None:
    budget = Budget(fraction=0.7)
    plain = plan(GRAPH, TABLE, random_saliency(), budget)
    corrected = plan(GRAPH, TABLE, random_saliency(), budget, rest_ms=REST_MS + 0.2)

    assert corrected.predicted_ms <= corrected.budget_ms == plain.budget_ms
    assert layers_ms(corrected.widths) <= plain.budget_ms - REST_MS - 0.2
    assert corrected.value < plain.value


def test_aim_spends_a_share_of_the_budget() -> None:
    made = plan(GRAPH, TABLE, random_saliency(), Budget(fraction=0.8), aim=0.8)

    assert made.predicted_ms <= 0.8 * made.budget_ms
    assert made.budget_ms == 0.8 * made.baseline_ms


@pytest.mark.parametrize("aim", [0.0, -1.0, math.nan])
def test_aiming_at_nothing_is_an_error(aim: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        plan(GRAPH, TABLE, random_saliency(), Budget(fraction=0.8), aim=aim)


def test_another_solver_is_used_and_named() -> None:
    made = plan(GRAPH, TABLE, random_saliency(), Budget(fraction=0.6), solver=uniform)
    best = plan(GRAPH, TABLE, random_saliency(), Budget(fraction=0.6))

    assert (made.solver, best.solver) == ("uniform", "joint")
    assert made.criterion == best.criterion == "random"
    assert made.value <= best.value <= made.bound


def test_a_solvers_own_totals_are_not_believed() -> None:
    def boastful(problem: Problem) -> Choice:
        return Choice(joint(problem).picks, value=1e9, costs_ms=(0.0,), bound=1e9)

    made = plan(GRAPH, TABLE, random_saliency(), Budget(fraction=0.6), solver=boastful)
    assert made.predicted_ms == pytest.approx(layers_ms(made.widths) + rest_ms_at(made.widths))
    assert made.value < made.dense_value


def test_a_solver_that_knows_no_bound_leaves_the_trivial_one() -> None:
    def boundless(problem: Problem) -> Choice:
        choice = Choice.of(problem, joint(problem).picks)
        assert choice.gap == 1.0
        return choice

    made = plan(GRAPH, TABLE, random_saliency(), Budget(fraction=0.6), solver=boundless)

    assert made.bound == pytest.approx(made.dense_value)
    assert 0 < made.gap < 1


def test_a_table_without_the_network_is_an_error() -> None:
    with pytest.raises(NotMeasured):
        plan(GRAPH, measured(GRAPH, network_ms=None), random_saliency(), Budget(fraction=0.6))


def test_scores_of_another_network_are_an_error() -> None:
    with pytest.raises(ModelMismatch):
        plan(GRAPH, TABLE, Saliency({}, "mine"), Budget(fraction=0.6))


@pytest.mark.parametrize("budget", [Budget(fraction=0.6), Budget(ms=0.9), Budget(ms=1e3)])
def test_a_plan_survives_json_exactly(budget: Budget) -> None:
    made = plan(GRAPH, TABLE, random_saliency(), budget)

    text = json.dumps(made.to_json(), allow_nan=False)
    assert Plan.from_json(json.loads(text)) == made


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("60%", Budget(fraction=0.6)),
        ("12ms", Budget(ms=12.0)),
        (" 12.5 ms ", Budget(ms=12.5)),
        (".5%", Budget(fraction=0.005)),
    ],
)
def test_a_budget_is_read_from_text(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "60", "0.6", "12s", "-3ms", "0%", "ms", "1e3ms", "60 % ms"])
def test_other_text_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="budget"):
        Budget.parse(text)


def test_text_in_place_of_a_number_is_told_where_it_is_read() -> None:
    with pytest.raises(ValueError, match=r"Budget\.parse\('60%'\)"):
        Budget("60%")  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [60, 12.5, 1.01])
def test_a_bare_number_above_1_is_no_budget(number: float) -> None:
    with pytest.raises(ValueError, match=f"write '{number:g}%' or '{number:g}ms'"):
        as_budget(number)

    assert as_budget(Budget(fraction=number)) == Budget(fraction=number)


def test_what_is_no_number_is_no_budget() -> None:
    with pytest.raises(ValueError, match=r"reads like 0\.6, '60%' or '12ms', or .*, not None"):
        as_budget(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [1, 0.6])
def test_a_bare_number_up_to_1_is_a_share(number: float) -> None:
    assert as_budget(number) == Budget(fraction=number)


@given(ms=st.floats(1e-3, 1e4))
def test_a_budget_written_out_is_read_back(ms: float) -> None:
    ms = float(f"{ms:.4f}")
    assert Budget.parse(str(Budget(ms=ms))).ms == pytest.approx(ms, rel=1e-5)
    assert Budget.from_json(Budget(ms=ms).to_json()) == Budget(ms=ms)


@pytest.mark.parametrize(
    "given", [{}, {"ms": 1.0, "fraction": 0.5}, {"ms": 0.0}, {"fraction": -1.0}, {"ms": math.inf}]
)
def test_a_budget_has_exactly_one_number_above_0(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="budget"):
        Budget(**given)


def at_twice(table: LatencyTable, *, rest_ms: float) -> LatencyTable:
    """The same network on a target half as fast, with stairs of its own kind of rest."""
    slow = Target(device="a slow stopwatch", runtime="eager", runtime_version="1")
    other = LatencyTable(slow)
    for shape in table:
        other.add(shape, Measurement(2 * table[shape].median_ms ** 0.9, 0.0, 1))
    dense_ms = sum(other[layer.shape].median_ms for layer in GRAPH.layers)
    other.add_network(GRAPH, Measurement(dense_ms + rest_ms, 0.0, 1))
    return other


SLOW = at_twice(TABLE, rest_ms=0.5)


@pytest.mark.parametrize(("share", "slow_share"), [(0.6, 0.9), (0.9, 0.6), (0.7, 0.7)])
def test_two_targets_are_planned_for_at_once(share: float, slow_share: float) -> None:
    saliency, budget = random_saliency(), Budget(fraction=share)
    demand = Demand(SLOW, Budget(fraction=slow_share))

    made = plan(GRAPH, TABLE, saliency, budget, also=[demand])

    (promise,) = made.also
    slow_ms = SLOW.layers_ms(GRAPH, made.widths)
    whole_ms = slow_ms * SLOW.network(GRAPH).median_ms / SLOW.layers_ms(GRAPH, GRAPH.widths)
    assert promise.predicted_ms == pytest.approx(whole_ms)
    assert (
        promise.predicted_ms <= promise.budget_ms == pytest.approx(slow_share * promise.baseline_ms)
    )
    assert made.predicted_ms <= made.budget_ms
    alone = plan(GRAPH, TABLE, saliency, budget)
    assert made.value <= alone.value <= made.dense_value
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_second_target_that_cannot_be_met_is_named_by_its_own_numbers() -> None:
    demand = Demand(SLOW, Budget(ms=0.51))

    with pytest.raises(BudgetTooSmall) as error:
        plan(GRAPH, TABLE, random_saliency(), Budget(fraction=0.9), also=[demand])

    assert error.value.target == 1
    assert error.value.budget_ms == pytest.approx(0.51)
    assert error.value.floor_ms > 0.51


def test_the_frontier_is_made_of_plans_that_no_other_beats() -> None:
    saliency = random_saliency()
    plans = frontier(GRAPH, TABLE, saliency, tolerance=0.0)

    times = [made.predicted_ms for made in plans]
    assert times == sorted(times)
    assert plans[-1].widths == GRAPH.widths
    assert plans[-1].predicted_ms == pytest.approx(DENSE_MS + REST_MS)
    for made in plans:
        rest_ms = rest_ms_at(made.widths)
        assert made.predicted_ms == pytest.approx(layers_ms(made.widths) + rest_ms)
        best = best_by_trying_everything(saliency, made.predicted_ms + 1e-9)
        assert made.value == pytest.approx(best)


@pytest.mark.parametrize("rest_ms", [None, 0.1])
@pytest.mark.parametrize("beside_ms", [-0.3, 0.0, 0.25])
def test_what_a_plan_was_predicted_to_take_is_a_budget_that_it_meets(
    beside_ms: float, rest_ms: float | None
) -> None:
    table = measured(GRAPH, network_ms=DENSE_MS + beside_ms)
    saliency = random_saliency()

    for corner in frontier(GRAPH, table, saliency, rest_ms=rest_ms, tolerance=0)[:-1]:
        made = plan(GRAPH, table, saliency, Budget(ms=corner.predicted_ms), rest_ms=rest_ms)
        assert made.value >= corner.value
        assert made.predicted_ms <= corner.predicted_ms


def test_wherever_much_is_fixed_the_frontier_rises_though_layers_take_longer_alone() -> None:
    fixed = conv("fixed", Width(3), Width(10), size=100)
    graph = PruningGraph(layers=(*GRAPH.layers, fixed), groups=GROUPS)
    table = LatencyTable(TARGET)
    for shape, measurement in {**TABLE, fixed.shape: Measurement(40.0, 0.0, 1)}.items():
        table.add(shape, measurement)
    dense_ms = table.layers_ms(graph, graph.widths)
    table.add_network(graph, Measurement(0.8 * dense_ms, 0.0, 1))

    found = frontier(graph, table, random_saliency(), tolerance=0)
    taken_ms = [corner.predicted_ms for corner in found]
    assert len(found) > 5
    assert taken_ms == sorted(taken_ms)


def test_a_price_is_the_slope_of_the_frontier_at_the_budget() -> None:
    saliency, budget_ms = random_saliency(), 0.7 * (DENSE_MS + REST_MS)
    made = plan(GRAPH, TABLE, saliency, Budget(ms=budget_ms))

    corners = frontier(GRAPH, TABLE, saliency)
    (above, *_), below = [
        [p for p in corners if (p.predicted_ms > budget_ms) == over] for over in (True, False)
    ]
    slope = (above.value - below[-1].value) / (above.predicted_ms - below[-1].predicted_ms)
    assert made.price_ms == pytest.approx(below[-1].price_ms) == pytest.approx(slope)


def test_a_solver_without_prices_leaves_the_price_open() -> None:
    made = plan(GRAPH, TABLE, random_saliency(), Budget(fraction=0.6), solver=uniform)

    assert math.isnan(made.price_ms)
    assert math.isnan(Plan.from_json(json.loads(json.dumps(made.to_json()))).price_ms)


def test_no_width_is_chosen_that_one_of_the_targets_knows_no_price_of() -> None:
    saliency = Saliency({g.name: np.ones(g.channels) for g in GROUPS}, "even")
    fine, coarse = (
        measured(
            GRAPH, network_ms=50.0, step=step, target=replace(TARGET, device=f"steps of {step}")
        )
        for step in (8, 16)
    )
    narrowest = {name: int(widths[0]) for name, widths in options(GRAPH, coarse).items()}
    assert narrowest["left"] > options(GRAPH, fine)["left"][0]

    for one, other in ((fine, coarse), (coarse, fine)):
        also = [Demand(other, Budget.parse("99.5%"))]
        found = plan(GRAPH, one, saliency, Budget.parse("99%"), also=also)
        assert all(found.widths[name] >= width for name, width in narrowest.items())
