"""The straight line in one call: trace, measure, score, plan, cut, tune, check. Read this first."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latprune.errors import ModelMismatch
from latprune.fitting import AIM, fit, refine
from latprune.graph.tracing import trace
from latprune.knapsack import joint
from latprune.latency.devices.here import HERE
from latprune.latency.measuring import measure, prepare
from latprune.planning import Budget, Demand, Plan, as_budget
from latprune.progress import Quiet
from latprune.report.comparison import Report, check
from latprune.reranking import rerank
from latprune.saliency import check_name, scored
from latprune.surgery import load, load_plan, save
from latprune.tuning import cross_entropy, recalibrate, tune
from latprune.tuning.replay import replayed
from latprune.tuning.telling import tuning_steps

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Solver
    from latprune.latency.devices import Device
    from latprune.latency.target import Target
    from latprune.progress import Progress
    from latprune.saliency import CriterionName, Saliency
    from latprune.tuning import Epoch, Recipe
    from latprune.tuning.losses import Distil, Loss
    from latprune.tuning.replay import Batches

    Evaluate = Callable[[nn.Module], Mapping[str, float]]
    Score = Callable[[nn.Module, PruningGraph], Saliency]


@dataclass(frozen=True, eq=False)
class Pruned:
    """What `prune` made.

    Attributes:
        model: The small network; needs nothing from latprune to run.
        dense: The network that was given, untouched.
        graph: Of the dense network.
        plan: What was cut.
        report: Dense beside pruned, as measured at the end.
        also: The same on every further target.
        history: The epochs of tuning.
        before_tuning: What `evaluate` said of the small network after the cut, its batch norms
            re-estimated.
        reranked: Where several criteria were tried, the held-out loss that each came to.
    """

    model: nn.Module
    dense: nn.Module
    graph: PruningGraph
    plan: Plan
    report: Report
    history: tuple[Epoch, ...] = ()
    before_tuning: Mapping[str, float] = field(default_factory=dict)
    also: tuple[Report, ...] = ()
    reranked: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether every budget is."""
        return all(report.met for report in (self.report, *self.also))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the small network, its plan and its report to one `.safetensors` file."""
        save(
            self.model,
            path,
            graph=self.graph,
            plan=self.plan,
            notes={
                "report": self.report.to_json(),
                "also": [report.to_json() for report in self.also],
            },
        )


def prune(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    budget: Budget | str | float,
    *,
    loader: Batches | None = None,
    loss: Loss = cross_entropy,
    distil: Distil | None = None,
    target: Target | None = None,
    also: Mapping[Target, Budget | str | float] | None = None,
    keep: Sequence[str] = (),
    branches: bool = False,
    criterion: CriterionName | Score | Sequence[CriterionName | Score] = "taylor",
    solver: Solver = joint,
    recipe: Recipe | None = None,
    score_batches: int = 16,
    held_out_batches: int = 16,
    calibration_batches: int = 8,
    evaluate: Evaluate | None = None,
    folder: Path | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    device: Device = HERE,
) -> Pruned:
    """Prune a network to a latency budget, measured here or on another device.

    Args:
        model: Any network; it is not changed.
        example: Its input, [target.batch, ...], or a tuple of inputs.
        budget: `"60%"` or `0.6` of the dense network's latency, `"12ms"`, or a `Budget`.
        loader: Batches of (inputs, labels) to score, re-estimate batch norms and tune with.
            Without one, channels are scored by `magnitude` and nothing is tuned.
        loss: Of (outputs, labels), to score and tune with.
        distil: Of (outputs, the dense network's outputs, temperature=), to tune with; None for
            `distillation` beside the default loss, and for no teaching beside another.
        target: Where the network will run; by default ONNX Runtime on the device, on one
            thread, at the example's batch.
        also: Further targets of the device, each with a budget of its own: more threads,
            another runtime. The network is within all of them.
        keep: Modules whose output channels must stay, by name or pattern.
        branches: Whether residual branches may go as a whole.
        criterion: What makes a channel worth keeping: a name, or a function of model and graph.
            Of several, the one whose network has the least loss on held-out batches (`rerank`).
        solver: What chooses the widths.
        recipe: How to tune, the dense network teaching; None: not at all.
        score_batches: Batches to score with.
        held_out_batches: Batches to re-rank with, the last ones of the loader.
        calibration_batches: Batches of `loader` that set the scales of a target in int8, where
            `evaluate` then also judges what ships. Scoring and tuning stay in floating point.
        evaluate: Judges a network: shares in [0, 1] by the metric's name.
        folder: Of latency tables; None: the user's cache.
        checkpoint: A folder that keeps the cut network and the state of tuning: the same call,
            interrupted, goes on from there.
        progress: Is told of every stage.
        device: Where the network will run, and everything is timed: this process, or `Ssh(...)`.

    Returns:
        The pruned network and its report. If the budget could not be met, the report says why.

    Raises:
        BudgetTooSmall: If no network fits.
        UntraceableModel: If the model does not run on the example.
        MissingExtra: If the runtime, or a library for tuning, is not installed.
        ValueError: If a criterion has no such name, or there are several and no loader.
        CannotQuantise: If a target runs in int8 and the quantiser fails on the network.
        NotFinite: If scores or the loss of tuning are NaN or infinite.
        ModelMismatch: If `checkpoint` holds another run.
        DeviceError: If the device fails; what it measured before is kept.
        JobsPacked: If somebody has to carry what is missing to the device.
    """
    progress = progress or Quiet()
    budget = as_budget(budget)
    target = target or device.target(batch=batch_of(example))
    further = {place: as_budget(asked) for place, asked in (also or {}).items()}
    dense = copy.deepcopy(model).eval()
    seed = 0 if recipe is None else recipe.seed
    cut_file = None if checkpoint is None else Path(checkpoint) / "cut.safetensors"
    criteria = _as_criteria(criterion, loader)

    reranked: Mapping[str, float] = {}
    progress.stage("trace")
    graph = trace(dense, example, keep=keep, branches=branches)
    if cut_file is not None and cut_file.is_file():
        plan = _resumed_plan(cut_file, {target: budget, **further})
        if not graph.allows(plan.widths):
            raise ModelMismatch(
                f"{cut_file} was cut with other branches than now can go: ask for branches= as it "
                f"was, give another checkpoint folder, or delete this one"
            )
        small = load(cut_file, dense)
    else:
        progress.stage("measure")
        ready = {
            place: prepare(dense, example, place, device=device) for place in (target, *further)
        }
        table, *others = (
            measure(
                dense,
                graph,
                example,
                place,
                folder=folder,
                progress=progress.step,
                device=device,
                ready=whole,
            )
            for place, whole in ready.items()
        )
        demands = list(map(Demand, others, further.values()))
        progress.stage("score")
        scoring = {"score_batches": score_batches, "seed": seed}
        saliencies = [
            _score(dense, graph, one, loader, loss, **scoring, progress=progress)
            for one in criteria
        ]
        saliency = saliencies[0]
        if loader is not None and len(saliencies) > 1:
            progress.stage("re-rank")
            planned = partial(refine, dense, graph, example, table, budget=budget, aim=AIM)
            places: dict[str, Any] = {"also": demands, "folder": folder, "device": device}
            plans = [planned(saliency=one, solver=solver, **places)[0] for one in saliencies]
            decided = partial(rerank, dense, graph, plans, loss=loss, seed=seed, progress=progress)
            held_out = _last(loader, held_out_batches, seed=seed)
            ranking = decided(calibration=loader, held_out=held_out)
            saliency = saliencies[plans.index(ranking[0].plan)]
            reranked = {candidate.plan.criterion: candidate.loss for candidate in ranking}
        progress.stage("plan and cut")
        fitted = fit(
            dense,
            graph,
            example,
            table,
            saliency,
            budget,
            solver=solver,
            also=demands,
            folder=folder,
            progress=progress,
            device=device,
            ready=ready,
        )
        plan, small = fitted.plan, fitted.model
        if loader is not None:
            recalibrate(small, replayed(loader, seed=seed).epoch(0))
        if cut_file is not None:
            save(small, cut_file, graph=graph, plan=plan)

    before: Mapping[str, float] = {}
    history: tuple[Epoch, ...] = ()
    if loader is not None and recipe is not None:
        progress.stage("tune")
        before = evaluate(small) if evaluate is not None else {}
        own_loss = None if loss is cross_entropy else loss
        history = tune(
            small,
            loader,
            recipe=recipe,
            teacher=dense if own_loss is None or distil is not None else None,
            loss=own_loss,
            distil=distil,
            checkpoint=checkpoint,
            progress=tuning_steps(progress),
        ).history
    progress.stage("check")
    report, *reports = checked(
        dense,
        small,
        plan,
        example,
        graph=graph,
        evaluate=evaluate,
        calibration=calibration_of(loader, calibration_batches, seed, (target, *further)),
        device=device,
    )
    return Pruned(small, dense, graph, plan, report, history, before, tuple(reports), reranked)


def checked(
    dense: nn.Module,
    small: nn.Module,
    plan: Plan,
    example: Tensor | tuple[Tensor, ...],
    *,
    graph: PruningGraph,
    evaluate: Evaluate | None,
    calibration: Sequence[Tensor],
    device: Device,
) -> tuple[Report, ...]:
    """Time both networks on all targets of a plan, and judge them on the first and in int8."""
    return tuple(
        check(
            dense,
            small,
            promised,
            example,
            graph=graph,
            evaluate=evaluate if promised is plan or _is_int8(promised.target) else None,
            calibration=calibration,
            device=device,
        )
        for promised in (plan, *map(plan.on, plan.also))
    )


def batch_of(example: Tensor | tuple[Tensor, ...]) -> int:
    """Count the samples of an input."""
    return (example[0] if isinstance(example, tuple) else example).shape[0]


def _first(loader: Batches, count: int, *, seed: int) -> Iterator[tuple[Tensor, Any]]:
    """The first batches of an epoch, the same ones every time."""
    return islice(replayed(loader, seed=seed).epoch(0), count)


def _last(loader: Batches, count: int, *, seed: int) -> Iterator[tuple[Tensor, Any]]:
    """The last batches of the same epoch."""
    batches = replayed(loader, seed=seed)
    return batches.epoch(0, start=max(batches.steps - count, 0))


def calibration_of(
    loader: Batches | None, count: int, seed: int, targets: Iterable[Target]
) -> list[Tensor]:
    """Give the inputs that int8 is calibrated with, if a target asks for it and there are any."""
    if loader is None or not any(map(_is_int8, targets)):
        return []
    return [inputs for inputs, _ in _first(loader, count, seed=seed)]


def _is_int8(target: Target) -> bool:
    return target.precision == "int8"


def _as_criteria(
    criterion: str | Score | Sequence[str | Score], loader: Batches | None
) -> list[str | Score]:
    """Give criteria that exist, and no more than can be told apart."""
    if isinstance(criterion, str) or callable(criterion):
        criterion = [criterion]
    criteria = list(criterion)
    for one in criteria:
        if isinstance(one, str):
            check_name(one)
    if not criteria or (len(criteria) > 1 and loader is None):
        raise ValueError(
            f"give one criterion, or several and a loader with images that decide, not "
            f"{len(criteria)} and {'no' if loader is None else 'a'} loader"
        )
    return criteria


def _score(
    model: nn.Module,
    graph: PruningGraph,
    criterion: str | Score,
    loader: Batches | None,
    loss: Loss,
    *,
    score_batches: int,
    seed: int,
    progress: Progress,
) -> Saliency:
    if callable(criterion):
        return criterion(model, graph)
    batches = None if loader is None else _first(loader, score_batches, seed=seed)
    return scored(criterion, model, graph, batches, loss, progress=progress)


def _resumed_plan(cut_file: Path, budgets: Mapping[Target, Budget]) -> Plan:
    plan = load_plan(cut_file)
    kept = {plan.target: plan.budget, **{one.target: one.budget for one in plan.also}}
    if kept != budgets:
        raise ModelMismatch(
            f"{cut_file} was cut to {_in_words(kept)}, not to {_in_words(budgets)}: give another "
            f"checkpoint folder, or delete this one"
        )
    return plan


def _in_words(budgets: Mapping[Target, Budget]) -> str:
    return " and ".join(f"{budget} on {target.describe()}" for target, budget in budgets.items())
