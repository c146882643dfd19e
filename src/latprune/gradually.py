"""The line in one call, as HALP walks it: trace, measure, then train and narrow in turns, check."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latprune.answers import ask_in_training
from latprune.batches import calibrating
from latprune.bench import Bench
from latprune.claims import Claim
from latprune.errors import NotFinite, import_extra
from latprune.gradual import prune_in_steps
from latprune.gradual.course import GRADUAL_DEFAULT, check_criterion
from latprune.gradual.processes import meet, rank, shared, world
from latprune.graph.results import batch_of
from latprune.graph.tracing import trace
from latprune.knapsack import joint
from latprune.latency.devices.here import HERE
from latprune.modes import copied, placed
from latprune.pipeline import Pruned, budgets_of, learns_labels, looked_at, own, teaches
from latprune.progress import Quiet
from latprune.report.targets import check_everywhere
from latprune.saliency.scores import check_weights
from latprune.states import leave_out_subnormals
from latprune.tuning import cross_entropy, tune
from latprune.tuning.replay import own_chance, replayed
from latprune.tuning.schedule import check_trained
from latprune.tuning.telling import tuning_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch
    from torch import Tensor, nn

    from latprune.distances import Distil
    from latprune.gradual import GradualPruning
    from latprune.gradual.course import GradualCriterion
    from latprune.knapsack import Solver
    from latprune.latency.devices import Device
    from latprune.latency.target import Target
    from latprune.pipeline import Evaluate
    from latprune.planning import Budget, Plan
    from latprune.progress import Progress
    from latprune.tuning import Recipe
    from latprune.tuning.losses import Loss
    from latprune.tuning.replay import Batches


@own_chance(on_gpus=True)
def prune_gradually(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    budget: Budget | str | float,
    *,
    loader: Batches,
    recipe: Recipe,
    steps: int = 30,
    every: int = 40,
    start: int = 0,
    soft: bool = False,
    loss: Loss = cross_entropy,
    distil: Distil | None = None,
    target: Target | None = None,
    also: Mapping[Target, Budget | str | float] | None = None,
    keep: Sequence[str] = (),
    solver: Solver = joint,
    criterion: GradualCriterion = GRADUAL_DEFAULT,
    calibration: Batches | None = None,
    calibration_batches: int = 8,
    evaluate: Evaluate | None = None,
    folder: Path | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    device: Device = HERE,
) -> Pruned:
    """Prune a network while it is trained, a little at a time, to a measured latency.

    `prune_in_steps` inside `tune`: channels are scored by the gradients of training. All cuts but
    the last are for predicted latencies; the last one is found on the clock, as by `fit`, among the
    channels that are left.

    Runs in every process of `accelerate launch`: the first one measures, plans and checks for all,
    and the networks of all are the same.

    Args:
        model: Any network; it is not changed.
        example: Its input, [target.batch, ...], or a tuple of inputs.
        budget: As for `prune`.
        loader: Batches of (inputs, labels) to train on.
        recipe: How to train. With a `distillation` above 0 the dense network teaches.
        steps: How many cuts there are.
        every: Steps of the optimizer between cuts.
        start: Steps of the optimizer before the first gradients count.
        soft: Mask instead of cutting until the last cut, as for `prune_in_steps`.
        loss: As for `prune`; so are all arguments below.
        distil: Of (outputs, the dense network's outputs, temperature=).
        target: Where the network will run.
        also: Further targets, each with a budget of its own.
        keep: Modules whose output channels must stay.
        solver: Chooses the widths of every cut.
        criterion: What they are worth, as for `prune_in_steps`.
        calibration: Batches that set the scales of a target in int8.
        calibration_batches: How many of them.
        evaluate: Judges a network, where it was trained: shares by the metric's name.
        folder: Of latency tables.
        checkpoint: A folder that keeps the run: the same call, interrupted, goes on from there.
        progress: Is told of every stage.
        device: Where everything is timed; not one that files are carried to.

    Returns:
        As `prune`, the same in every process.

    Warns:
        SubnormalWeights: If the network holds numbers that CPUs are slow with; they are set to
            zero in what is timed and kept, and the model stays as it is.

    Raises:
        ValueError: If training ends before the last cut, and then it says what would fit; or there
            is no such criterion, or no parameter takes gradients.
        BudgetTooSmall: If no network fits, before anything is trained.
        NotFinite: If so many steps overflow in fp16 that the last cut is not made.
        LatpruneError: As `prune`.

    Source:
        Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022.
    """
    meet()
    loader, batch = looked_at(loader, recipe, loss, distil)
    check_room(loader, recipe, steps=steps, every=every, start=start)
    check_criterion(criterion)
    told = progress if progress is not None and rank() == 0 else Quiet()
    budgets = budgets_of(budget, also, target or device.target(batch=batch_of(example)))
    check_weights(model)
    check_trained(model)
    dense = copied(model)
    dense.eval()
    leave_out_subnormals(dense)
    if learns_labels(recipe, loss, distil):
        ask_in_training(dense, batch, recipe, loss=loss)
    told.stage("trace")
    traced: dict[str, Any] = {"keep": list(keep)}
    graph = trace(dense, example, **traced)
    timed = copied(dense)  # the teacher is where training is, and this one stays
    bench = Bench(timed, graph, example, budgets, folder, device)
    with _claimed_by_first(None if checkpoint is None else Path(checkpoint)):
        told.stage("measure")
        first, *others = shared(lambda: bench.measured(progress=told))
        begin = partial(
            prune_in_steps,
            graph=graph,
            table=first.table,
            budget=first.budget,
            steps=steps,
            every=every,
            start=start,
            soft=soft,
            solver=solver,
            criterion=criterion,
            also=others,
            closing=lambda saliency, left: (
                bench.fitted([first, *others], saliency, solver, within=left).plan
            ),
        )
        told.stage("train and prune")
        along = _Along(begin)
        tuned = tune(
            copied(dense),
            loader,
            recipe=recipe,
            teacher=dense if teaches(recipe, loss, distil) else None,
            loss=own(loss),
            distil=distil,
            along=along,
            checkpoint=checkpoint,
            progress=tuning_steps(told),
        )
    plan = along.plan
    told.stage("check")
    report, *more = shared(
        lambda: check_everywhere(
            dense,
            tuned.model,
            plan,
            example,
            graph=graph,
            evaluate=None if evaluate is None else _where_training_is(evaluate),
            calibration=calibrating(
                loader if calibration is None else calibration, calibration_batches, budgets
            ),
            device=device,
        )
    )
    found = tuned.model, dense, graph, plan, report, tuned.history
    return Pruned(*found, also=tuple(more), traced=traced)


@contextmanager
def _claimed_by_first(folder: Path | None) -> Iterator[None]:
    """Have the first process keep other runs from a folder meanwhile; None is no folder."""
    claim = Claim()
    if folder is not None:
        shared(lambda: claim.take(folder))
    try:
        yield
    finally:
        claim.give_back()


class _Along:
    """Begins the pruning of the network that `tune` trains, and keeps hold of it."""

    def __init__(self, begin: Callable[..., GradualPruning]) -> None:
        self._begin = begin
        self._begun: GradualPruning | None = None

    def __call__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, copies: Sequence[nn.Module]
    ) -> GradualPruning:
        self._begun = self._begin(network, optimizer=optimizer, copies=copies)
        return self._begun

    @property
    def plan(self) -> Plan:
        """The last cut's.

        Raises:
            NotFinite: If it was not made: there was room for every cut, but fp16 left steps out.
        """
        assert self._begun is not None
        if not self._begun.done or self._begun.plan is None:
            raise NotFinite(
                f"training ended behind cut {self._begun.taken} of {self._begun.steps}: in fp16 "
                f"steps were left out whose gradients overflow. Leave room behind the last cut, "
                f"or train in another precision"
            )
        return self._begun.plan


def check_room(loader: Batches, recipe: Recipe, *, steps: int, every: int, start: int = 0) -> None:
    """Make sure that training is long enough for all cuts.

    Raises:
        ValueError: If it is not.
    """
    batches = replayed(loader, seed=recipe.seed, process=rank(), processes=world()).steps
    taken, there = start + steps * every, recipe.epochs * batches
    if taken > there:
        fits = max((there - start) // (2 * steps), 0)
        remedy = (
            f"cut every {fits} steps, which leaves half of training for mending"
            if fits
            else "train for longer, or in fewer cuts"
        )
        raise ValueError(
            f"{steps} cuts, one every {every} steps of the optimizer, take {taken} steps, and "
            f"{recipe.epochs} epochs of {batches} batches are {there}: {remedy}"
        )


def _where_training_is(evaluate: Evaluate) -> Evaluate:
    """Judge on the accelerator, if training had one."""
    place = import_extra("accelerate", "train").PartialState().device

    def judged(model: nn.Module) -> Mapping[str, float]:
        with placed(model, place):
            return evaluate(model)

    return judged
