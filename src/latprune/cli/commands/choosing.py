"""`latprune plan` and `latprune frontier`: what a budget would do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latprune.cli.options import spread, usage
from latprune.cli.options.choice import BudgetText, Choosable, Solvable, budget_of
from latprune.cli.options.data import Labelled
from latprune.cli.options.network import Dense
from latprune.cli.options.output import AsJson
from latprune.cli.options.place import Carried, Setting, Settings
from latprune.cli.shown import show

if TYPE_CHECKING:
    from latprune.cli.job import Source
    from latprune.cli.planned import Known
    from latprune.latency.devices import Device
    from latprune.latency.target import Target
    from latprune.progress import Progress
    from latprune.saliency import CriterionName


@spread
def plan_command(
    context: typer.Context,
    *,
    network: Dense,
    budget: BudgetText,
    labelled: Labelled,
    settings: Settings,
    choice: Solvable,
    place: Carried,
    as_json: AsJson = False,
) -> None:
    """Show what a budget would do; cut nothing.

    Without --data, channels are scored by relative_magnitude.
    """
    from latprune.cli.elsewhere import chosen_device
    from latprune.cli.live import working
    from latprune.cli.planned import choose

    asked = _Asked(network.source(), labelled, choice, choice.one(labelled.data))
    allowed, solver = budget_of(budget), choice.solve(budgets=1 + len(settings.also or ()))
    place.check_targets(settings.also)
    place.needs_table()
    with chosen_device(context, **vars(place)) as device, working() as progress:
        also = settings.further(device)
        known = asked.look(settings.on(device), device, progress)
        planned = choose(known, allowed, also=also, solver=solver, progress=progress)
    show(planned.to_json() if as_json else planned.render())


@spread
def frontier_command(
    context: typer.Context,
    *,
    network: Dense,
    labelled: Labelled,
    setting: Setting,
    choice: Choosable,
    place: Carried,
    points: Annotated[int, typer.Option("--points", min=2, help="To show, about.")] = 12,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw to this picture (.png, .svg, .pdf).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what could be kept at every latency; cut nothing.

    Without --data, channels are scored by relative_magnitude.
    """
    from latprune.cli.drawn import check_picture, draw
    from latprune.cli.elsewhere import chosen_device
    from latprune.cli.live import working

    if plot is not None:
        with usage("--plot"):
            check_picture(plot)
    asked = _Asked(network.source(), labelled, choice, choice.one(labelled.data))
    place.needs_table()
    with chosen_device(context, **vars(place)) as device, working() as progress:
        known = asked.look(setting.on(device), device, progress)
        drawn = draw(known, points=points, progress=progress)
    show(drawn.to_json() if as_json else drawn.render())
    if plot is not None:
        with usage("--plot"):
            drawn.plot(plot)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What both commands plan with."""

    source: Source
    labelled: Labelled
    choice: Choosable
    criterion: CriterionName

    def look(self, target: Target, device: Device, progress: Progress) -> Known:
        """Open the network, and its data if they are to score with; trace, measure and score."""
        from latprune.cli.planned import look
        from latprune.saliency.named import needs_data
        from latprune.tuning import cross_entropy

        self.labelled.check_splits(self.source.task)
        network = self.source.open()
        self.choice.check_kept(network.model)
        data = self.labelled.open(network) if needs_data(self.criterion) else None
        return look(
            network,
            target,
            criterion=self.criterion,
            loader=data.train if data else None,
            loss=data.loss if data else cross_entropy,
            distil=data.distil if data else None,
            keep=self.choice.kept,
            branches=self.choice.branches is True,
            progress=progress,
            device=device,
        )
