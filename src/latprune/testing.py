# ruff: noqa: D102  # a test's name is its sentence
"""Tests for those who extend latprune: inherit a contract, name what is to be tested, run pytest.

::

    class TestMySolver(SolverContract):
        solver = staticmethod(my_solver)
        exact = False

    class TestMyCriterion(CriterionContract):
        def score(self, model, graph, batches, loss):
            return my_criterion(model, graph, batches)

Needs pytest and Hypothesis, which latprune itself does not.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from latprune.errors import BudgetTooSmall, ModelMismatch
from latprune.graph.groups import ChannelGroup, Member, PruningGraph
from latprune.knapsack import Choice, Problem, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latprune.graph.groups import Role
    from latprune.saliency.scores import Saliency

    Batches = Sequence[tuple[Tensor, Tensor]]
    Loss = Callable[[Tensor, Tensor], Tensor]

# The same property is inherited by one class per solver, which Hypothesis would warn of.
inherited = settings(max_examples=50, suppress_health_check=[HealthCheck.differing_executors])


@st.composite
def problems(draw: st.DrawFn, *, feasible: bool = True, targets: int = 1) -> Problem:
    """Draw small problems of every kind that a network can give.

    Costs may be negative, forbidden, constant or not monotone; scopes repeat and come in any
    order; variables may have one option, no table, or be the sum of two others.

    Args:
        draw: Hypothesis's.
        feasible: Whether the budget allows something; else it is below the floor.
        targets: How many budgets there are; several need not all be met at once.
    """
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    values = [draw(_numbers(n, -16, 400)) / 8 for n in sizes]
    widths = [np.cumsum(draw(_numbers(n, 1, 4))) for n in sizes]
    tables = draw(st.lists(_tables(sizes), max_size=6))
    tables = [_allowed(table, draw) for table in tables]
    auxiliary = len(sizes) > 1 and draw(st.booleans())
    if auxiliary:
        first, second = draw(st.permutations(range(len(sizes))))[:2]
        totals = np.add.outer(widths[first], widths[second])
        sums = np.unique(totals)
        tables.append(
            Table((first, second, len(sizes)), np.where(totals[..., None] == sums, 0.0, np.inf))
        )
        tables.append(Table((len(sizes),), draw(_numbers(len(sums), -8, 80)) / 4))
        values.append(np.zeros(len(sums)))
    of_target = draw(_numbers(len(tables), 0, targets - 1))
    tables = [t._replace(target=int(k)) for t, k in zip(tables, of_target, strict=True)]
    anything = [math.inf] * (targets - 1)
    problem = Problem(
        values, tables, math.inf, [*widths, None] if auxiliary else widths, further_ms=anything
    )
    budgets_ms = []
    for target in range(targets):
        costs = _all_costs(problem, target=target)
        low, high = costs.min(), costs[np.isfinite(costs)].max()
        share = draw(st.integers(0, 18)) / 16
        budgets_ms.append(float(low + share * (high - low) if feasible else low - 0.25 - share))
    return replace(problem, budget_ms=budgets_ms[0], further_ms=budgets_ms[1:])


def _numbers(count: int, low: int, high: int) -> st.SearchStrategy[np.ndarray]:
    """Draw integers from bytes, which is many times faster than one by one."""
    drawn = st.binary(min_size=2 * count, max_size=2 * count)
    return drawn.map(lambda raw: low + np.frombuffer(raw, np.uint16).astype(int) % (high - low + 1))


def _tables(sizes: Sequence[int]) -> st.SearchStrategy[Table]:
    """Draw a table over up to three variables; sums of its eighths are exact."""

    def over(scope: tuple[int, ...]) -> st.SearchStrategy[Table]:
        shape = tuple(sizes[v] for v in scope)
        costs = _numbers(math.prod(shape), -8, 80)
        return costs.map(lambda flat: Table(scope, flat.reshape(shape) / 8))

    scopes = st.sampled_from(
        [p for count in range(4) for p in itertools.permutations(range(len(sizes)), count)]
    )
    return scopes.flatmap(over)


def _allowed(table: Table, draw: st.DrawFn) -> Table:
    """Forbid some of a table's combinations, never that of the last options."""
    if table.cost_ms.size < 2 or not draw(st.booleans()):
        return table
    forbidden = np.zeros(table.cost_ms.size, dtype=bool)
    forbidden[:-1] = draw(_numbers(table.cost_ms.size - 1, 0, 3)) == 3
    return Table(
        table.scope, np.where(forbidden.reshape(table.cost_ms.shape), np.inf, table.cost_ms)
    )


def _all_costs(problem: Problem, *, target: int = 0) -> np.ndarray:
    """Give the cost of every combination, [options of variable 0, of 1, …]."""
    total = np.zeros(problem.sizes)
    for scope, cost, _, _ in problem.tables_of(target):
        axes = np.argsort(scope)
        shape = [n if v in scope else 1 for v, n in enumerate(problem.sizes)]
        total = total + np.transpose(cost, axes).reshape(shape)
    return total


def exhaustive(problem: Problem) -> Choice:
    """Choose by trying everything: the independent answer for small problems.

    Raises:
        BudgetTooSmall: If nothing fits.
    """
    every = [_all_costs(problem, target=target) for target in range(len(problem.budgets_ms))]
    fits = np.logical_and.reduce(
        [np.isfinite(c) & (c <= ms) for c, ms in zip(every, problem.budgets_ms, strict=True)]
    )
    if not fits.any():
        raise BudgetTooSmall(problem.budget_ms, float(every[0].min()))
    values = np.zeros(problem.sizes)
    for variable, of_options in enumerate(problem.values):
        values += np.expand_dims(of_options, tuple(v for v in range(values.ndim) if v != variable))
    best = np.where(fits, values, -np.inf).argmax()
    picks = [int(index) for index in np.unravel_index(best, problem.sizes)]
    return Choice.of(problem, picks, bound=problem.value_of(picks))


class SolverContract:
    """What every solver must hold; inherit it, and name the solver.

    Attributes:
        solver: The solver, wrapped in `staticmethod`.
        exact: Whether it finds the optimum of small problems. One that does not may also refuse
            a problem that something would fit.
        several: Whether it takes several budgets at once; if not, it refuses them.
    """

    solver: ClassVar[Any]
    exact: ClassVar[bool] = True
    several: ClassVar[bool] = True

    def choose(self, problem: Problem) -> Choice | None:
        """Solve; None where a solver that is not exact refuses."""
        try:
            choice = self.solver(problem)
        except (BudgetTooSmall, ValueError):
            if self.exact:
                raise
            return None
        assert isinstance(choice, Choice)
        return choice

    @inherited
    @given(problem=problems())
    def test_the_choice_fits_the_budget_by_the_tables_own_sums(self, problem: Problem) -> None:
        choice = self.choose(problem)

        if choice is not None:
            assert problem.cost_of(choice.picks) <= problem.budget_ms
            assert choice.cost_ms == problem.cost_of(choice.picks)
            assert choice.value == problem.value_of(choice.picks)

    @inherited
    @given(problem=problems())
    def test_the_optimum_lies_between_value_and_bound(self, problem: Problem) -> None:
        choice = self.choose(problem)
        optimum = exhaustive(problem).value

        if choice is not None:
            assert choice.value <= optimum <= _above(choice.bound)
            if self.exact or choice.gap == 0:
                assert choice.value == pytest.approx(optimum, rel=1e-9)

    @inherited
    @given(problem=problems(feasible=False))
    def test_an_impossible_budget_is_an_error_with_the_floor(self, problem: Problem) -> None:
        with pytest.raises((BudgetTooSmall, ValueError)) as error:
            self.solver(problem)

        if self.exact:
            assert isinstance(error.value, BudgetTooSmall)
        if isinstance(error.value, BudgetTooSmall):
            least_ms = _all_costs(problem).min()
            assert error.value.budget_ms == problem.budget_ms
            assert error.value.floor_ms >= least_ms
            if self.exact:
                assert error.value.floor_ms == least_ms

    @inherited
    @given(problem=problems(targets=2))
    def test_two_budgets_hold_at_once_or_are_refused(self, problem: Problem) -> None:
        if not self.several:
            with pytest.raises(ValueError, match="one budget"):
                self.solver(problem)
            return
        try:
            optimum = exhaustive(problem).value
        except BudgetTooSmall:
            with pytest.raises((BudgetTooSmall, ValueError)):
                self.solver(problem)
            return
        choice = self.choose(problem)

        if choice is not None:
            assert problem.fits(choice.costs_ms)
            assert choice.costs_ms == problem.costs_of(choice.picks)
            assert choice.value <= optimum <= _above(choice.bound)
            if self.exact:
                assert choice.value == pytest.approx(optimum, rel=1e-9)

    @inherited
    @given(problem=problems())
    def test_where_everything_fits_the_most_valuable_is_chosen(self, problem: Problem) -> None:
        problem = replace(problem, budget_ms=math.inf)
        choice = self.choose(problem)

        if choice is not None:
            assert math.isfinite(choice.cost_ms)
            if self.exact:
                assert choice.value == exhaustive(problem).value == choice.bound

    @inherited
    @given(problem=problems())
    def test_the_same_problem_gives_the_same_choice(self, problem: Problem) -> None:
        assert self.choose(problem) == self.choose(problem)

    @inherited
    @given(problem=problems(), data=st.data())
    def test_the_order_of_variables_does_not_matter(
        self, problem: Problem, data: st.DataObject
    ) -> None:
        order = data.draw(st.permutations(range(len(problem.values))))
        position = {variable: index for index, variable in enumerate(order)}
        reordered = Problem(
            values=[problem.values[variable] for variable in order],
            tables=[
                table._replace(scope=tuple(position[v] for v in table.scope))
                for table in reversed(problem.tables)
            ],
            budget_ms=problem.budget_ms,
            widths=[problem.widths[variable] for variable in order],
        )

        _assert_same_value(self.choose(reordered), self.choose(problem))

    @inherited
    @given(problem=problems(), power=st.integers(-12, 12))
    def test_the_unit_of_time_does_not_matter(self, problem: Problem, power: int) -> None:
        rescaled = replace(
            problem,
            tables=[t._replace(cost_ms=t.cost_ms * 2.0**power) for t in problem.tables],
            budget_ms=problem.budget_ms * 2.0**power,
        )

        _assert_same_value(self.choose(rescaled), self.choose(problem))

    @inherited
    @given(problem=problems(), power=st.integers(-12, 12))
    def test_the_unit_of_value_does_not_matter(self, problem: Problem, power: int) -> None:
        rescaled = replace(problem, values=[v * 2.0**power for v in problem.values])

        _assert_same_value(self.choose(rescaled), self.choose(problem), factor=2.0**power)


def _above(bound: float) -> float:
    """Allow a bound the rounding of its own sum."""
    return bound + 1e-9 * (1 + abs(bound))


def _assert_same_value(found: Choice | None, expected: Choice | None, factor: float = 1.0) -> None:
    if found is None or expected is None:
        assert found == expected
    else:
        assert found.value == pytest.approx(factor * expected.value, rel=1e-9)


class SmallNetwork(nn.Module):
    """A residual network of three convolutions, one of them without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 4, 3, padding=1)
        self.outer = nn.Conv2d(4, 8, 1, bias=False)
        self.outer_norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [batch, 3, height, width]."""
        trunk = F.relu(self.stem_norm(self.stem(images)))
        branch = self.outer_norm(self.outer(F.relu(self.inner(trunk))))
        scores: Tensor = self.head(F.relu(trunk + branch).mean(dim=(2, 3)))
        return scores


def small_network(seed: int = 0) -> tuple[SmallNetwork, PruningGraph]:
    """Make a network with random weights and statistics, and its channel groups by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallNetwork()
        for norm in (model.stem_norm, model.outer_norm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    norms: list[tuple[str, int, Role]] = [
        (f"{norm}.{entries}", 0, role)
        for norm in ("stem_norm", "outer_norm")
        for entries, role in _NORM_ROLES
    ]
    trunk = _group(
        "stem",
        8,
        [
            ("stem.weight", 0, "writes"),
            ("outer.weight", 0, "writes"),
            *norms,
            ("inner.weight", 1, "reads"),
            ("head.weight", 1, "reads"),
        ],
    )
    inner = _group(
        "inner",
        4,
        [("inner.weight", 0, "writes"), ("inner.bias", 0, "writes"), ("outer.weight", 1, "reads")],
    )
    return model, PruningGraph(layers=(), groups=(trunk, inner))


_NORM_ROLES: tuple[tuple[str, Role], ...] = (
    ("weight", "scale"),
    ("bias", "shift"),
    ("running_mean", "statistic"),
    ("running_var", "statistic"),
)


def _group(name: str, channels: int, members: list[tuple[str, int, Role]]) -> ChannelGroup:
    positions = np.arange(channels)[:, None]
    return ChannelGroup(
        name,
        channels,
        tuple(Member(parameter, axis, positions, role) for parameter, axis, role in members),
    )


def random_batches(count: int = 3, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Draw pairs of images [4, 3, 6, 6] and labels [4] for `SmallNetwork`."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(4, 3, 6, 6, generator=generator),
            torch.randint(5, (4,), generator=generator),
        )
        for _ in range(count)
    ]


class CriterionContract:
    """What every criterion must hold; inherit it, and write `score`."""

    def score(
        self, model: nn.Module, graph: PruningGraph, batches: Batches, loss: Loss
    ) -> Saliency:
        """Call the criterion; data-free ones ignore batches and loss."""
        raise NotImplementedError(f"{type(self).__name__} must write score()")

    def _scores(self, model: nn.Module, graph: PruningGraph) -> dict[str, np.ndarray]:
        return dict(self.score(model, graph, random_batches(), F.cross_entropy).scores)

    def test_every_channel_gets_a_finite_score_that_is_not_negative(self) -> None:
        model, graph = small_network()
        scores = self._scores(model, graph)

        assert {group: s.shape for group, s in scores.items()} == {"stem": (8,), "inner": (4,)}
        for of_channels in scores.values():
            assert of_channels.dtype == np.float64
            assert np.isfinite(of_channels).all()
            assert (of_channels >= 0).all()
            assert (of_channels > 0).any()

    def test_a_width_is_worth_no_less_than_a_narrower_one(self) -> None:
        model, graph = small_network()
        saliency = self.score(model, graph, random_batches(), F.cross_entropy)

        for group in graph.groups:
            values = saliency.values(group.name)
            assert values.shape == (group.channels + 1,)
            assert values[0] == 0
            assert (np.diff(values) >= 0).all()

    def test_the_same_input_gives_the_same_scores(self) -> None:
        model, graph = small_network()
        first, second = self._scores(model, graph), self._scores(model, graph)

        for group, expected in first.items():
            np.testing.assert_array_equal(second[group], expected)

    @pytest.mark.parametrize("training", [True, False])
    def test_the_model_stays_as_it_was(self, training: bool) -> None:
        model, graph = small_network()
        model.train(training)
        model.stem_norm.train(not training)
        images, labels = random_batches(1)[0]
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        before = _state(model)
        self._scores(model, graph)

        assert _equal(_state(model), before)

    def test_frozen_parameters_are_scored_and_stay_frozen(self) -> None:
        model, graph = small_network()
        expected = self._scores(model, graph)
        model.requires_grad_(False)

        with torch.no_grad():
            found = self._scores(model, graph)

        for group, of_channels in expected.items():
            np.testing.assert_array_equal(found[group], of_channels)
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_a_channel_whose_writers_are_zero_is_worth_nothing(self) -> None:
        model, graph = small_network()
        with torch.no_grad():
            for group in graph.groups:
                for member in group.with_role("writes", "scale", "shift"):
                    model.get_parameter(member.parameter)[1] = 0
        scores = self._scores(model, graph)

        assert scores["stem"][1] == 0
        assert scores["inner"][1] == 0

    def test_another_models_graph_is_an_error(self) -> None:
        _, graph = small_network()

        with pytest.raises(ModelMismatch):
            self._scores(nn.Sequential(nn.Conv2d(3, 8, 3)), graph)


def _state(model: nn.Module) -> dict[str, Any]:
    """Copy all that a criterion might change."""
    return {
        "entries": copy.deepcopy(model.state_dict()),
        "gradients": {name: copy.deepcopy(p.grad) for name, p in model.named_parameters()},
        "frozen": {name: torch.tensor(p.requires_grad) for name, p in model.named_parameters()},
        "modes": {name: torch.tensor(m.training) for name, m in model.named_modules()},
    }


def _equal(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(
        torch.equal(found[kind][name], entries)
        for kind, of_kind in expected.items()
        for name, entries in of_kind.items()
    )
