"""What `latprune prune` was asked for: checked before anything is built, and then done."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from latprune.cli.folder import RunFolder
from latprune.cli.options import usage
from latprune.gradual.course import GRADUAL_DEFAULT
from latprune.gradual.processes import rank, shared
from latprune.gradually import check_room, prune_gradually
from latprune.pipeline import prune
from latprune.tuning.checkpoint import WEIGHTS, hash_of_weights
from latprune.tuning.schedule import check_trained

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from latprune.cli.job import Data, Network, Source
    from latprune.cli.options.choice import Solvable
    from latprune.cli.options.data import Calibrating
    from latprune.cli.options.network import Judged
    from latprune.cli.options.place import Carried, Settings
    from latprune.cli.options.training import Cuts, Training
    from latprune.gradual.course import GradualCriterion
    from latprune.knapsack import Solver
    from latprune.latency.devices import Device
    from latprune.latency.target import Target
    from latprune.pipeline import Pruned
    from latprune.planning import Budget
    from latprune.progress import Progress
    from latprune.saliency import CriterionName
    from latprune.tuning import Recipe


@dataclass(frozen=True, eq=False)
class Asked:
    """The options of a run."""

    network: Judged
    budget: Budget
    labelled: Calibrating
    settings: Settings
    choice: Solvable
    cuts: Cuts
    training: Training

    @cached_property
    def source(self) -> Source:
        """Where the dense network comes from."""
        return self.network.source()

    @cached_property
    def criteria(self) -> list[CriterionName]:
        """What makes a channel worth keeping."""
        if self.cuts.steps is not None and self.choice.criterion is None:
            return [GRADUAL_DEFAULT]
        return self.choice.several(self.labelled.data)

    @cached_property
    def solvers(self) -> list[Solver]:
        """What chooses the widths."""
        budgets = 1 + len(self.settings.also or ())
        return self.choice.solvers(self.labelled.data, budgets=budgets)

    @cached_property
    def recipe(self) -> Recipe | None:
        """How to train; None: not at all."""
        if self.labelled.data is None or not self.training.epochs:
            return None
        return self.training.recipe(self.network.task)

    @property
    def networks(self) -> int:
        """How many are tried before one is kept."""
        return len(self.criteria) * len(self.solvers)

    def check(self, place: Carried) -> None:
        """See that all options can be read, and go together.

        Raises:
            BadParameter: If not.
        """
        # Each refuses what it cannot read.
        _ = self.source, self.criteria, self.solvers, self.recipe
        self.training.check_augmentation(self.network.task)
        self.training.check_trial(trains=self.recipe is not None, networks=self.networks)
        self.cuts.check(
            trains=self.recipe is not None,
            criterion=self.choice.criterion,
            solvers=len(self.solvers),
            branches=self.choice.branches is True,
            is_by_hand=place.is_by_hand,
        )
        self.labelled.check_splits(self.network.task)
        place.check_targets(self.settings.also)
        place.needs_table()

    def prune(
        self, out: Path, *, device: Device, progress: Progress, held: ExitStack
    ) -> tuple[RunFolder, Pruned, Network]:
        """Prune, or go on with what the folder holds; give the dense network, too.

        The folder is this process's until `held` ends.

        Raises:
            BadParameter: If the device has no such target, or the folder holds another run.
            LatpruneError: As `latprune.prune` and `latprune.prune_gradually`.
        """
        target, also = self.settings.on(device), self.settings.further(device)
        network = self.source.open()
        self.choice.check_kept(network.model)
        data = self.labelled.open(network, auto_augment=self.training.auto_augment)
        if data is not None and self.recipe is not None:
            with usage("--epochs"):
                check_trained(network.model)
        with usage("--out"):
            folder = shared(
                lambda: RunFolder.claim(out, "prune", self._identity(network, target, also))
            )
            if rank() == 0:
                held.enter_context(folder.held())
        common: dict[str, Any] = {
            "target": target,
            "also": also,
            "keep": self.choice.kept,
            "evaluate": data.judge if data and self.source.is_trained else None,
            "calibration": data.calibrating if data else None,
            "calibration_batches": self.labelled.calibration,
            "checkpoint": folder.checkpoint,
            "progress": progress,
            "device": device,
            **({"loss": data.loss, "distil": data.distil} if data else {}),
        }
        if data is not None and self.recipe is not None and self.cuts.steps is not None:
            pruned = self._gradually(network, data, self.recipe, self.cuts.steps, common)
        else:
            pruned = self._at_once(network, data, common)
        return folder, pruned, network

    def _at_once(self, network: Network, data: Data | None, common: dict[str, Any]) -> Pruned:
        return prune(
            network.model,
            network.example(self.settings.batch),
            self.budget,
            loader=data.train if data else None,
            branches=self.choice.branches,
            criterion=self.criteria,
            solver=self.solvers,
            recipe=self.recipe,
            trial_steps=self.training.trial_steps,
            reconstruct=self.training.reconstruct,
            **common,
        )

    def _gradually(
        self, network: Network, data: Data, recipe: Recipe, steps: int, common: dict[str, Any]
    ) -> Pruned:
        with usage("--every"):
            check_room(data.train, recipe, steps=steps, every=self.cuts.interval)
        return prune_gradually(
            network.model,
            network.example(self.settings.batch),
            self.budget,
            loader=data.train,
            recipe=recipe,
            solver=self.solvers[0],
            criterion=cast("GradualCriterion", self.criteria[0]),
            steps=steps,
            every=self.cuts.interval,
            soft=self.cuts.soft,
            **common,
        )

    def _identity(
        self, network: Network, target: Target, also: Mapping[Target, Budget]
    ) -> dict[str, Any]:
        """What another command in the same folder may not differ in."""
        return {
            **vars(self.source.resolved()),
            WEIGHTS: hash_of_weights(network.model),
            "data": self.labelled.place,
            "target": target.describe(),
            "budget": str(self.budget),
            "also": {place.describe(): str(budget) for place, budget in also.items()},
            "criterion": ",".join(self.criteria),
            "solver": ",".join(self.choice.solver_names),
            "keep": self.choice.kept,
            "branches": self.choice.branches,
            **vars(self.cuts),
            "every": self.cuts.interval if self.cuts.steps else None,
            **({"epochs": 0} if self.recipe is None else self.recipe.to_json()),
            "auto_augment": self.training.auto_augment,
            "trial_steps": self.training.trial_steps or None,
            "reconstruct": self.training.reconstruct,
            "train_batch": self.labelled.train_batch,
            "splits": self.labelled.splits,
        }
