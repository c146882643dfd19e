"""The straight line in one call: trace, measure, score, plan, cut, tune, check. Read this first."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import latprune.tuning as tuning
from latprune.answers import ask_in_training, ask_once
from latprune.batches import a_batch, calibrating
from latprune.bench import Bench
from latprune.claims import claimed
from latprune.distances import Curved
from latprune.errors import BudgetTooSmall, ModelMismatch
from latprune.graph.results import batch_of
from latprune.graph.tracing import trace
from latprune.knapsack import joint
from latprune.latency.devices.here import HERE
from latprune.modes import copied
from latprune.outputs import as_numbers
from latprune.planning import Budget, Plan, as_budget
from latprune.progress import Quiet
from latprune.report.targets import check_everywhere
from latprune.reranking import names_of
from latprune.saliency.named import default, values_branches
from latprune.saliency.scores import check_weights
from latprune.scoring import Scoring, as_criteria
from latprune.states import leave_out_subnormals
from latprune.surgery import TRACED, load, load_notes, load_plan, save
from latprune.trial import Trial
from latprune.tuning import cross_entropy, recalibrate, tune
from latprune.tuning.checkpoint import hash_of_weights
from latprune.tuning.losses import check_labels, distil_beside
from latprune.tuning.reconstruction import first_of
from latprune.tuning.replay import counted, own_chance
from latprune.tuning.schedule import check_trained
from latprune.tuning.telling import tuning_steps

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.distances import Distil
    from latprune.graph.groups import PruningGraph
    from latprune.knapsack import Solver
    from latprune.latency.devices import Device
    from latprune.latency.target import Target
    from latprune.planning import Demand
    from latprune.progress import Progress
    from latprune.report import Report
    from latprune.saliency import Saliency
    from latprune.scoring import Criteria
    from latprune.tuning import Epoch, Recipe
    from latprune.tuning.losses import Loss
    from latprune.tuning.replay import Batch, Batches

    Evaluate = Callable[[nn.Module], Mapping[str, float]]


WEIGHTS = "the hash of the dense network's weights"
ALWAYS_NOTED = (WEIGHTS, "criteria", "solvers")
"""What the files of cuts say since there are any; the rest came later."""


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
        reranked: Where several criteria or solvers were tried, the held-out loss that each came to,
            after its trial if there was one: by the criterion, and the solver where there are
            several; the least first.
        traced: How `graph` was found: what `trace` was given beside the network and its input.
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
    traced: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"<Pruned: {type(self.model).__name__}, takes {self.report.used:.1%} of its budget of "
            f"{self.plan.budget}>"
        )

    @property
    def met(self) -> bool:
        """Whether every budget is."""
        return all(report.met for report in (self.report, *self.also))

    def save(self, path: str | os.PathLike[str], *, notes: Mapping[str, Any] | None = None) -> None:
        """Write the small network, its plan and its report to one `.safetensors` file.

        Args:
            path: Where to; an existing file is replaced.
            notes: Further JSON values to keep there; `load_notes` gives them.
        """
        save(
            self.model,
            path,
            graph=self.graph,
            plan=self.plan,
            notes={
                **(notes or {}),
                "report": self.report.to_json(),
                "also": [report.to_json() for report in self.also],
                TRACED: dict(self.traced),
            },
        )


@own_chance(on_gpus=True)
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
    branches: bool | None = None,
    criterion: Criteria | None = None,
    solver: Solver | Sequence[Solver] = joint,
    recipe: Recipe | None = None,
    score_batches: int = 16,
    held_out_batches: int = 16,
    trial_steps: int = 0,
    reconstruct: bool = True,
    calibration: Batches | None = None,
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
        loader: Batches of (inputs, labels) to score, re-estimate batch norms and tune with; several
            inputs in a tuple. It is run through again and again; one without a length, such as
            over an `IterableDataset`, once more, to be counted. Inputs alone will do where nothing
            needs labels, as by default to score. Without a loader channels are scored by
            `magnitude`, or `relative_magnitude` where the criterion is relative, and nothing is
            tuned.
        loss: Of (outputs, labels), to score and tune with.
        distil: Of (outputs, the dense network's outputs, temperature=), to tune, to score and to
            price branches with; None for `distillation` beside the default loss, and for none of
            them beside another. To score by, it must be `Curved`, as `latprune.tuning.distillation`
            and `latprune.tasks.detection.distillation` are.
        target: Where the network will run; by default ONNX Runtime on the device, on one
            thread, at the example's batch.
        also: Further targets of the device, each with a budget of its own: more threads,
            another runtime. The network is within all of them.
        keep: Modules whose output channels must stay, by name or pattern.
        branches: Whether residual branches may go as a whole; None: where all criteria are
            `relative_…` and there is a loader, for there it is measured what that costs.
        criterion: What makes a channel worth keeping: a name (`taylor` is the paper's), or a
            function of model and graph. Of several, the one whose network has the least loss on
            held-out batches (`rerank`). None: `relative_gauss_newton` with the default loss or a
            `distil` that is `Curved`, else `relative_fisher`.
        solver: What chooses the widths. Of several, each with every criterion, likewise.
        recipe: How to tune, the dense network teaching; None: not at all.
        score_batches: Batches to score with.
        held_out_batches: Batches to re-rank with, the last ones of the loader, at most half of
            them; where they decide they neither score nor calibrate.
        trial_steps: Steps by which every network is tuned before they decide, with the recipe's
            schedule squeezed into them, on the loader's other batches. Who is ahead after a cut
            need not be after tuning. 0: not at all.
        reconstruct: Whether layers of the cut network get weights by which they give what they gave
            in the dense one, before anything is tuned (`latprune.reconstruct`); without a loader
            they do not.
        calibration: Batches that set the scales of a target in int8, where `evaluate` then also
            judges what ships: pictures prepared as for judging, if `loader` augments them. None:
            `loader`. Scoring and tuning stay in floating point.
        calibration_batches: How many of them.
        evaluate: Judges a network: shares in [0, 1] by the metric's name.
        folder: Of latency tables; None: the user's cache.
        checkpoint: A folder that keeps the cut network and the state of tuning: the same call,
            interrupted, goes on from there.
        progress: Is told of every stage.
        device: Where the network will run, and everything is timed: this process, or `Ssh(...)`.

    Returns:
        The pruned network and its report. If the budget could not be met, the report says why.

    Warns:
        SubnormalWeights: If the network holds numbers that CPUs are slow with; they are set to
            zero in what is timed and kept, and the model stays as it is.

    Raises:
        BudgetTooSmall: If no network fits.
        UntraceableModel: If the model does not run on the example.
        MissingExtra: If the runtime, or a library for tuning, is not installed.
        ValueError: If a criterion has no such name, or there are several, or several solvers, and
            no loader; if there are `trial_steps` and no recipe, or nothing to decide between; if
            no parameter takes gradients, and there is a recipe.
        DataError: If the loader gives no batch, none that is (inputs, labels), none that the loss
            takes, or a single one where another has to decide; before anything is measured, where
            that can be seen.
        CannotQuantise: If a target runs in int8 and the quantiser fails on the network.
        NotFinite: If weights are NaN, or scores or the loss of tuning NaN or infinite.
        ModelMismatch: If `checkpoint` holds another run, as of other weights or criteria.
        FolderInUse: If another process is at work in `checkpoint`.
        DeviceError: If the device fails; what it measured before is kept.
        JobsPacked: If somebody has to carry what is missing to the device.
    """
    told = progress or Quiet()
    budgets = budgets_of(budget, also, target or device.target(batch=batch_of(example)))
    seed = 0 if recipe is None else recipe.seed
    batch: Batch | None = None
    if loader is not None:
        loader, batch = looked_at(loader, recipe, loss, distil, joins=reconstruct)
    solvers = (solver,) if callable(solver) else tuple(solver)
    if not solvers or (len(solvers) > 1 and loader is None):
        raise ValueError("give one solver, or several and a loader with images that decide")
    if criterion is None:
        criterion = default(by_answers=own(loss) is None or isinstance(distil, Curved))
    criteria = as_criteria(criterion)
    if trial_steps and len(criteria) * len(solvers) == 1:
        raise ValueError(
            f"{trial_steps} trial_steps decide between several criteria or solvers, and there is "
            f"one of each: give several, or no trial_steps"
        )
    scoring = Scoring(
        criteria,
        loader,
        loss,
        score_batches=score_batches,
        held_out_batches=held_out_batches,
        seed=seed,
        distil=distil_beside(loss, distil),
        trial=_trial(trial_steps, recipe, loss, distil),
        reconstruct=reconstruct,
        ways=len(criteria) * len(solvers),
    )
    check_weights(model)
    if loader is not None and recipe is not None:
        check_trained(model)
    dense = copied(model)
    dense.eval()
    leave_out_subnormals(dense)
    if batch is not None:
        ask_once(dense, batch, criteria, loss=loss, distil=distil)
        if recipe is not None and learns_labels(recipe, loss, distil):
            ask_in_training(dense, batch, recipe, loss=loss)
    told.stage("trace")
    valued = loader is not None and all(map(values_branches, criteria))
    traced: dict[str, Any] = {
        "keep": list(keep),
        "branches": valued if branches is None else branches,
    }
    graph = trace(dense, example, **traced)
    bench = Bench(dense, graph, example, budgets, folder, device)
    asked = _asked(bench, scoring, solvers, traced)
    with claimed(None if checkpoint is None else Path(checkpoint)):
        plan, small, reranked = _cut(bench, scoring, solvers, checkpoint, asked, told)
        before: Mapping[str, float] = {}
        history: tuple[Epoch, ...] = ()
        if loader is not None and recipe is not None:
            told.stage("tune")
            before = as_numbers(evaluate(small)) if evaluate is not None else {}
            history = tune(
                small,
                loader,
                recipe=recipe,
                teacher=dense if teaches(recipe, loss, distil) else None,
                loss=own(loss),
                distil=distil,
                checkpoint=checkpoint,
                progress=tuning_steps(told),
            ).history
    told.stage("check")
    report, *reports = check_everywhere(
        dense,
        small,
        plan,
        example,
        graph=graph,
        evaluate=evaluate,
        calibration=calibrating(
            loader if calibration is None else calibration, calibration_batches, budgets
        ),
        device=device,
        ready=bench.ready,
    )
    found = report, history, before, tuple(reports), reranked
    return Pruned(small, dense, graph, plan, *found, traced=traced)


def budgets_of(
    budget: Budget | str | float,
    also: Mapping[Target, Budget | str | float] | None,
    target: Target,
) -> dict[Target, Budget]:
    """Give the budget of every target, the first one's first.

    Raises:
        ValueError: If one cannot be read, or a target has two.
    """
    if also and target in also:
        raise ValueError(f"{target.describe()} has two budgets: {budget} and {also[target]}")
    return {place: as_budget(asked) for place, asked in {target: budget, **(also or {})}.items()}


def own(loss: Loss) -> Loss | None:
    """Give a loss that is not the default one, whose smoothing is the recipe's."""
    return None if loss is cross_entropy else loss


def teaches(recipe: Recipe, loss: Loss, distil: Distil | None) -> bool:
    """Say whether the dense network teaches: whether its outputs count, and can be compared."""
    return recipe.distillation > 0 and (own(loss) is None or distil is not None)


def learns_labels(recipe: Recipe, loss: Loss, distil: Distil | None) -> bool:
    """Say whether a network is tuned by labels, beside the dense one or by them alone."""
    return recipe.distillation < 1 or not teaches(recipe, loss, distil)


def looked_at(
    loader: Batches,
    recipe: Recipe | None,
    loss: Loss,
    distil: Distil | None,
    *,
    joins: bool = False,
) -> tuple[Batches, Batch]:
    """Look at a loader's first batch before anything that takes long; give the loader a length.

    Args:
        loader: Batches of (inputs, labels).
        recipe: See `prune`.
        loss: See `prune`.
        distil: See `prune`.
        joins: Whether batches are joined, as to reconstruct layers.

    Returns:
        The loader, and the batch.

    Raises:
        DataError: If there is no batch, or it is none to score, to reconstruct or to tune with.
    """
    loader = counted(loader)
    batch = a_batch(loader, seed=0 if recipe is None else recipe.seed)
    inputs, labels = batch
    if joins:
        first_of(inputs)
    if own(loss) is None and recipe is not None and learns_labels(recipe, loss, distil):
        check_labels(labels)
    return loader, batch


def _trial(steps: int, recipe: Recipe | None, loss: Loss, distil: Distil | None) -> Trial | None:
    if steps < 0 or (steps and recipe is None):
        raise ValueError(f"{steps} trial_steps: 0 for no trial, or more and a recipe= to tune by")
    if not steps or recipe is None:
        return None
    return Trial(steps, recipe, own(loss), distil, teaches=teaches(recipe, loss, distil))


class _Cut(NamedTuple):
    """What is known once the network is cut; see `Pruned`."""

    plan: Plan
    model: nn.Module
    reranked: Mapping[str, float]


def _cut(
    bench: Bench,
    scoring: Scoring,
    solvers: Sequence[Solver],
    checkpoint: Path | None,
    asked: Mapping[str, Any],
    told: Progress,
) -> _Cut:
    """Measure, score, plan, cut and repair; or go on from what a checkpoint kept of that."""
    if checkpoint is None:
        cut = _fitted(bench, scoring, solvers, told)
        _repair(cut, bench, scoring, told)
        return cut
    fitted, repaired = (Path(checkpoint) / f"{name}.safetensors" for name in ("fitted", "cut"))
    if repaired.is_file():
        return _resumed(repaired, bench, asked)
    if fitted.is_file():
        cut = _resumed(fitted, bench, asked)
    else:
        cut = _fitted(bench, scoring, solvers, told)
        _keep(cut, fitted, bench, asked)
    _repair(cut, bench, scoring, told)
    _keep(cut, repaired, bench, asked)
    fitted.unlink()
    return cut


def _fitted(bench: Bench, scoring: Scoring, solvers: Sequence[Solver], told: Progress) -> _Cut:
    """Measure, score, plan and cut, all on the clock."""
    told.stage("measure")
    demands = bench.measured(progress=told)
    told.stage("score")
    saliencies = scoring.score(bench.model, bench.graph, progress=told)
    ways = list(product(saliencies, solvers))
    best, reranked = ways[0], dict[str, float]()
    if len(ways) > 1:
        told.stage("re-rank")
        planned = _planned(bench, demands, ways)
        plans = [plan for _, plan in planned]
        if planned:  # else the closed loop finds out whether anything fits
            best, _ = planned[0]
        if len(plans) > 1:
            ranking = scoring.ranked(bench.model, bench.graph, plans, progress=told)
            best, _ = planned[plans.index(ranking[0].plan)]
            names = names_of([candidate.plan for candidate in ranking])
            reranked = {name: one.loss for name, one in zip(names, ranking, strict=True)}
    told.stage("plan and cut")
    fitted = bench.fitted(demands, *best, progress=told)
    return _Cut(fitted.plan, fitted.model, reranked)


def _keep(cut: _Cut, file: Path, bench: Bench, asked: Mapping[str, Any]) -> None:
    """Write what is known of a cut, for the same call to go on from."""
    notes = {**asked, "reranked": cut.reranked}
    save(cut.model, file, graph=bench.graph, plan=cut.plan, notes=notes)


def _repair(cut: _Cut, bench: Bench, scoring: Scoring, told: Progress) -> None:
    """Fit what was cut to what is left: the weights of its layers, and its batch norms."""
    if scoring.loader is None:
        return
    small, batches = cut.model, scoring.replay
    if scoring.reconstruct:
        told.stage("reconstruct")
        tuning.reconstruct(
            small, bench.model, bench.graph, cut.plan, batches.epoch(0), progress=told
        )
    recalibrate(small, batches.epoch(0))


def _planned(
    bench: Bench, demands: Sequence[Demand], ways: Sequence[tuple[Saliency, Solver]]
) -> list[tuple[tuple[Saliency, Solver], Plan]]:
    """Plan in every way that finds a network within the budgets."""
    found: list[tuple[tuple[Saliency, Solver], Plan]] = []
    for way in ways:
        with suppress(BudgetTooSmall):
            found.append((way, bench.planned(demands, *way)))
    return found


def _resumed(cut_file: Path, bench: Bench, asked: Mapping[str, Any]) -> _Cut:
    """Read a checkpoint's network, if it is this run's."""
    plan = load_plan(cut_file)
    kept = {plan.target: plan.budget, **{one.target: one.budget for one in plan.also}}
    if kept != bench.budgets:
        raise ModelMismatch(
            f"{cut_file} was cut to {_in_words(kept)}, not to {_in_words(bench.budgets)}: give "
            f"another checkpoint folder, or delete this one"
        )
    _check_asked(cut_file, asked)
    if not bench.graph.allows(plan.widths):
        raise ModelMismatch(
            f"{cut_file} was cut with other branches than now can go: ask for branches= and keep= "
            f"as it was, give another checkpoint folder, or delete this one"
        )
    return _Cut(plan, load(cut_file, bench.model), load_notes(cut_file)["reranked"])


def _asked(
    bench: Bench,
    scoring: Scoring,
    solvers: Sequence[Solver],
    traced: Mapping[str, Any],
) -> dict[str, Any]:
    """Say, as JSON values, by what and of what a cut is made, beside its plan."""
    return {
        WEIGHTS: hash_of_weights(bench.model),
        "criteria": [_qualified(criterion) for criterion in scoring.criteria],
        "solvers": [_qualified(solver) for solver in solvers],
        **traced,
        "reconstruct": scoring.reconstruct,
        "score_batches": scoring.score_batches,
        "seed": scoring.seed,
        "loss": _qualified(scoring.loss),
        "distil": None if scoring.distil is None else _qualified(scoring.distil),
    }


def _qualified(choice: str | Callable[..., Any]) -> str:
    """Name a criterion, a solver or a loss; a function by where it is defined."""
    if isinstance(choice, str):
        return choice
    function = getattr(choice, "func", choice)  # of one with arguments filled in
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _check_asked(cut_file: Path, asked: Mapping[str, Any]) -> None:
    """Make sure that a checkpoint's network was cut as this run would."""
    notes = load_notes(cut_file)
    differences = [
        f"{name}: {notes.get(name)} there and {value} here"
        for name, value in asked.items()
        if notes.get(name) != value and (name in notes or name in ALWAYS_NOTED)
    ]
    if differences:
        raise ModelMismatch(
            f"{cut_file} was cut in another run ({'; '.join(differences)}): give another "
            f"checkpoint folder, or delete this one"
        )


def _in_words(budgets: Mapping[Target, Budget]) -> str:
    return " and ".join(f"{budget} on {target.describe()}" for target, budget in budgets.items())
