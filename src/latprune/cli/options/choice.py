"""Options that say what may be cut, what a channel is worth, and what chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

import typer

from latprune.cli.options.usage import usage
from latprune.errors import or_meant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from latprune.knapsack import Solver
    from latprune.planning import Budget
    from latprune.saliency import CriterionName

SOLVERS = ("joint", "halp", "greedy", "uniform", "milp")
OF_ONE_BUDGET = ("halp",)

BudgetText = Annotated[
    str,
    typer.Option("--budget", metavar="60%|12ms", help="A share of the dense latency, or a time."),
]
CriterionNames = Annotated[
    str | None,
    typer.Option(
        "--criterion",
        help="What makes a channel worth keeping: taylor (the paper's), taylor_squared, fisher, "
        "gauss_newton or probe, which need --data, or magnitude; relative_ before all but probe "
        "values widths by what they leave (the default: relative_gauss_newton; without --data "
        "relative_magnitude; of prune --steps taylor). prune takes several, as taylor,fisher: "
        "whichever network does best on held-out pictures.",
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="NAME", help="Layers to leave as they are; may be repeated."),
]
Branches = Annotated[
    bool | None,
    typer.Option(
        "--branches/--no-branches",
        help="Whether residual branches may go as a whole. By default prune lets them where all "
        "criteria are relative_… and pictures (--data) show what that costs, but not with --steps.",
    ),
]
SolverName = Annotated[
    str,
    typer.Option(
        "--solver",
        help="What chooses the widths: joint (the best choice, with a proof), or to compare with: "
        "halp, greedy, uniform, milp (needs the extra milp). prune takes several, as "
        "joint,uniform: whichever network does best on held-out pictures.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Choosable:
    """What may be cut, and what a channel is worth."""

    heading: ClassVar[str] = "What goes"

    criterion: CriterionNames = None
    keep: Keep = None
    branches: Branches = None

    @property
    def kept(self) -> tuple[str, ...]:
        """Layers to leave as they are."""
        return tuple(self.keep or ())

    def check_kept(self, model: nn.Module) -> None:
        """See that the layers to leave as they are exist.

        Raises:
            BadParameter: If one does not.
        """
        check_kept(model, self.kept)

    def one(self, data: Path | None) -> CriterionName:
        """Read one criterion; by default the best one that there is data for."""
        return _criterion(self.criterion, data)

    def several(self, data: Path | None) -> list[CriterionName]:
        """Read one criterion, or several between commas."""
        if self.criterion is None:
            return [_criterion(None, data)]
        chosen = [_criterion(name.strip(), data) for name in self.criterion.split(",")]
        if len(chosen) > 1 and data is None:
            sentence = "several criteria need --data to decide"
            raise typer.BadParameter(sentence, param_hint="--criterion")
        return chosen


@dataclass(frozen=True, kw_only=True)
class Solvable(Choosable):
    """What may be cut, what a channel is worth, and what chooses."""

    solver: SolverName = "joint"

    def solve(self, *, budgets: int = 1) -> Solver:
        """Read the solver, which has so many budgets to hold.

        Raises:
            BadParameter: If there is no such solver, it holds one budget, or there are several.
        """
        if len(self.solver_names) > 1:
            sentence = "one solver makes a plan; prune tries several and keeps the best network"
            raise typer.BadParameter(sentence, param_hint="--solver")
        return _solver(self.solver, budgets)

    @property
    def solver_names(self) -> list[str]:
        """The solvers between commas, by name."""
        return [name.strip() for name in self.solver.split(",")]

    def solvers(self, data: Path | None, *, budgets: int) -> list[Solver]:
        """Read one solver, or several between commas, which have so many budgets to hold.

        Raises:
            BadParameter: If there is no such solver, it holds only one budget, or there are
                several and no pictures that decide.
        """
        chosen = [_solver(name, budgets) for name in self.solver_names]
        if len(chosen) > 1 and data is None:
            sentence = "several solvers need --data to decide"
            raise typer.BadParameter(sentence, param_hint="--solver")
        return chosen


def _solver(name: str, budgets: int) -> Solver:
    import latprune.knapsack as knapsack

    if name not in SOLVERS:
        sentence = f"{name} is none of {', '.join(SOLVERS)}{or_meant(name, SOLVERS)}"
        raise typer.BadParameter(sentence, param_hint="--solver")
    if budgets > 1 and name in OF_ONE_BUDGET:
        sentence = f"{name} takes one budget: choose with joint, or leave out --also"
        raise typer.BadParameter(sentence, param_hint="--solver")
    solver: Solver = getattr(knapsack, name)
    return solver


def check_kept(model: nn.Module, kept: Sequence[str]) -> None:
    """See that a network has the layers that `--keep` names.

    Raises:
        BadParameter: If not.
    """
    from latprune.graph.following import check_keep

    with usage("--keep"):
        check_keep(model, kept)


def budget_of(text: str) -> Budget:
    """Read a budget."""
    from latprune.planning import Budget

    with usage("--budget"):
        return Budget.parse(text)


def _criterion(name: str | None, data: Path | None) -> CriterionName:
    from latprune.saliency.named import check_name, default, needs_data

    if name is None:
        return default(has_data=data is not None)
    with usage("--criterion"):
        check_name(name)
    if data is None and needs_data(name):
        raise typer.BadParameter(f"{name} needs --data", param_hint="--criterion")
    return cast("CriterionName", name)
