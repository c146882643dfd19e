"""Prune a network while it trains, in the user's own loop."""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latprune.claims import Claim
from latprune.errors import ModelMismatch, ZeroGradients
from latprune.gradual.course import GRADUAL_DEFAULT, Course
from latprune.gradual.gradients import GradientScores
from latprune.gradual.keeping import keep, take_up
from latprune.gradual.live import LiveNetwork
from latprune.gradual.masks import SoftMasks
from latprune.gradual.processes import agreed, rebuild, shared, world, wrapper_of
from latprune.knapsack import joint
from latprune.planning import Budget, Demand, Plan, as_budget
from latprune.saliency.scores import parameters_of
from latprune.saliency.terms import gates

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from latprune.gradual.course import Closing, GradualCriterion
    from latprune.graph.groups import ChannelGroup, Member, PruningGraph
    from latprune.knapsack import Solver
    from latprune.latency.table import LatencyTable


def prune_in_steps(
    model: nn.Module,
    graph: PruningGraph,
    table: LatencyTable,
    budget: Budget | str | float,
    *,
    optimizer: torch.optim.Optimizer,
    every: int = 40,
    steps: int = 30,
    start: int = 0,
    solver: Solver = joint,
    soft: bool = False,
    criterion: GradualCriterion = GRADUAL_DEFAULT,
    copies: Sequence[nn.Module] = (),
    also: Sequence[Demand] = (),
    aim: float = 1.0,
    closing: Closing | None = None,
    max_skips: int = 3,
) -> GradualPruning:
    """Prune a network to a latency budget while it is trained, a little at a time.

    ::

        pruning = lp.prune_in_steps(model, graph, table, "50%", optimizer=optimizer)
        for images, labels in batches:
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pruning.step()

    Every `every` optimizer steps the channels to keep are chosen anew, for a budget that falls
    from what the dense network takes to the one asked for, geometrically, and the others are cut
    out of the network as it trains. Channels are scored by first-order Taylor from the gradients
    that the optimizer is about to use (unscaled and accumulated, clipped if you clip), averaged
    over the steps since the last cut.

    The model stays the same object, and so do its modules, parameters and buffers. Gradients, the
    optimizer's state (momenta, Adam's moments) and `copies` are cut along.

    Args:
        model: As the loop calls it, plain or in DistributedDataParallel. Changed in place.
        graph: Traced from it.
        table: What `measure` gave.
        budget: `"60%"` or `0.6` of the dense network's latency, `"12ms"`, or a `Budget`. Spent as
            predicted; `check` says what the network takes in the end.
        optimizer: Holds the model's parameters; may be wrapped by accelerate.
        every: Optimizer steps between cuts.
        steps: How many cuts there are.
        start: Optimizer steps before the first gradients count.
        solver: Chooses the widths of each cut.
        soft: Mask instead of cutting, so that channels can come back until the last step. The
            network then gets faster only there. Its weights that read masked channels are 0 and
            learn behind the mask.
        criterion: What widths are worth: `taylor`, the paper's; `taylor_squared`, of the mean
            square over steps; `relative_taylor` or `relative_taylor_squared`, as `relative` values
            them, in every step by what the step would leave of a group.
        copies: Networks of the same shapes to cut along, such as a moving average.
        also: Further targets, each with its own budget.
        aim: The share of the budget to spend in the end.
        closing: Plans the last cut, of (saliency, channels left), in the first process: such as
            `fit(..., within=left).plan`, which closes the loop on the clock. None: by prediction.
        max_skips: How many steps from one cut to the next may have gradients that are not finite.

    Returns:
        What to call `step()` on after every step of the optimizer.

    Raises:
        BudgetTooSmall: If no network fits.
        ModelMismatch: If the model is not the graph's, or was cut before.
        ValueError: If another pruning is under way with the optimizer, parameters that will be cut
            are trained by another optimizer, a group's scores would depend on parameters that are
            not trained, several processes train without DistributedDataParallel, or there is no
            such criterion.

    Source:
        Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022; for
        `soft`, Humble et al., "Soft Masking for Cost-Constrained Channel Pruning", ECCV 2022.
    """
    demands = (Demand(table, as_budget(budget)), *also)
    course = Course(graph, demands, solver, steps, every, start, soft, criterion, aim, closing)
    course.check()
    return GradualPruning(model, course, optimizer, copies=copies, max_skips=max_skips)


class GradualPruning:
    """A network on its way to a budget; `prune_in_steps` makes it.

    Attributes:
        model: The network, without wrappers.
        plan: Of the last step; None before the first.
        taken: Steps taken.
        steps: In all.
    """

    def __init__(
        self,
        model: nn.Module,
        course: Course,
        optimizer: torch.optim.Optimizer,
        *,
        copies: Sequence[nn.Module],
        max_skips: int,
    ) -> None:
        """Watch the optimizer's steps from now on."""
        optimizer = _bare(optimizer)
        _check_first(optimizer)
        self._course, self._max_skips = course, max_skips
        self._wrapper = wrapper_of(model)
        self._live = LiveNetwork(model, course.graph, optimizer, copies)
        _check_alone(self._live)
        self.model = self._live.model
        self.plan: Plan | None = None
        self.taken, self.steps = 0, course.steps
        self._optimizer_steps, self._state_is_checked = 0, False
        self._masks = SoftMasks(self.model) if course.soft else None
        self._scores = self._fresh_scores()
        self._claim = Claim()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_optimizer),
            optimizer.register_step_post_hook(self._after_optimizer),
        ]

    @property
    def done(self) -> bool:
        """Whether the last step has been taken; from then on nothing is done or scored."""
        return self.taken == self.steps

    @property
    def kept(self) -> Mapping[str, tuple[int, ...]]:
        """Per group the dense network's channels that are there, ascending."""
        return self._live.kept

    def step(self) -> Plan | None:
        """Take the step that is due, if one is. Call it after every step of the optimizer.

        Returns:
            The plan, if one was made: the network has other shapes then.

        Raises:
            NotFinite: If too many steps had gradients that are nan or infinite.
            ZeroGradients: If all were 0.
            ModelMismatch: If the optimizer keeps what cannot be cut along; that shows in its first
                steps, long before a cut may be due.
        """
        self._check_state_once()
        if self.done or self._optimizer_steps < self._course.due(self.taken + 1):
            return None
        scores = self._scores.mean(max_skips=self._max_skips)
        kept, number = self._live.kept, self.taken + 1
        if scores and not any(of_group.any() for of_group in scores.values()):
            raise ZeroGradients(number)
        plan = Plan.from_json(agreed(lambda: self._course.plan(number, scores, kept).to_json()))
        self._apply(plan, number)
        return plan

    def pass_over(self) -> None:
        """Count a step that the optimizer left out, so that cuts fall due no later for it."""
        self._optimizer_steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Give where the pruning stands: JSON values, and tensors by name.

        The network's and the optimizer's own states are not in it; `save` keeps all of them.
        """
        tensors = {f"scores.{name}": t for name, t in self._scores.state_dict().items()}
        if self._masks is not None:
            tensors |= {f"masked.{name}": t for name, t in self._masks.state_dict().items()}
        return {
            "run": self._course.identity(),
            "plan": None if self.plan is None else self.plan.to_json(),
            "taken": self.taken,
            "optimizer_steps": self._optimizer_steps,
            "tensors": {name: tensor.detach().clone() for name, tensor in tensors.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Call it before the weights and the optimizer's state are loaded: it brings network,
        optimizer and copies to the shapes that these have.

        Args:
            state: As `state_dict` gave it, after a trip through a file or not.

        Raises:
            ModelMismatch: If it is another run's, or the network has been cut further.
        """
        _check_same(state["run"], self._course.identity())
        if int(state["taken"]) < self.taken:
            raise ModelMismatch(
                f"the state is from behind {state['taken']} steps, and the network has taken "
                f"{self.taken}: build the dense network again, and load it then"
            )
        plan = None if state["plan"] is None else Plan.from_json(state["plan"])
        self._optimizer_steps = int(state["optimizer_steps"])
        if plan is not None:
            self._apply(plan, int(state["taken"]))
        parts: dict[str, dict[str, torch.Tensor]] = {"scores": {}, "masked": {}}
        for name, tensor in state["tensors"].items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self._scores.load_state_dict(parts["scores"])
        if self._masks is not None:
            self._masks.load_state_dict(parts["masked"])

    def save(self, folder: str | os.PathLike[str], **facts: Any) -> None:
        """Keep the whole run in a folder, in the place of what it kept before.

        The network, its copies, the optimizer, this pruning and every random state. Call it in
        every process; the first one writes, all or nothing.

        Args:
            folder: Where to.
            facts: What else to keep, such as `epoch=3, batch=40` or
                `scheduler=scheduler.state_dict()`: numbers and strings, and lists, tuples and dicts
                of them, which come back as they are.

        Raises:
            TypeError: If a fact, or a setting of the optimizer, is something else; what was kept
                before stays.
            FolderInUse: If another process is at work in the folder.
            OSError: If the file cannot be written; what was kept before stays.
        """
        place = Path(folder)
        shared(lambda: self._claim.take(place))
        keep(place, self, self._live, facts)

    def resume(self, folder: str | os.PathLike[str]) -> dict[str, Any] | None:
        """Go on from what `save` kept, in a process that was built like the first.

        Returns:
            The facts; None if the folder keeps nothing.

        Raises:
            ModelMismatch: If it keeps another run.
            DamagedFile: If it cannot be read.
            FolderInUse: If another process is at work in the folder.
        """
        place = Path(folder)
        shared(lambda: self._claim_to_read(place))
        return take_up(place, self, self._live)

    def identity(self) -> dict[str, Any]:
        """Say, as JSON values, what a run must have in common with one that it continues."""
        optimizer, copies = self._live.optimizer, self._live.copies
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        trained = [
            [names.get(id(p), "of no name") for p in group["params"]]
            for group in optimizer.param_groups
        ]
        digest = sha256(json.dumps(trained).encode()).hexdigest()
        return {
            **self._course.identity(),
            "processes": world(),
            "the optimizer": type(optimizer).__name__,
            "its parameters by group": [len(group) for group in trained],
            "the hash of their names in order": digest[:12],
            "the number of copies": len(copies),
        }

    def _claim_to_read(self, folder: Path) -> None:
        with suppress(OSError):  # such as of a disk that can only be read
            self._claim.take(folder)

    def _apply(self, plan: Plan, number: int) -> None:
        """Cut or mask what a plan does not keep."""
        last = number == self.steps
        if self._masks is not None:
            groups = self._live.groups  # dense ones, until the last step has been taken
            whole = {group.name: tuple(range(group.channels)) for group in groups}
            self._masks.put(groups, whole if last else plan.kept)
        if (self._masks is None or last) and plan.kept != self._live.kept:
            self._live.cut(plan.kept)
            if self._wrapper is not None:
                rebuild(self._wrapper)
        self.plan, self.taken = plan, number
        if last:
            while self._hooks:
                self._hooks.pop().remove()
        self._scores = self._fresh_scores()

    def _check_state_once(self) -> None:
        if self._live.optimizer.state and not (self.done or self._state_is_checked):
            self._live.check_state()
            self._state_is_checked = True

    def _fresh_scores(self) -> GradientScores:
        groups, parameters = self._live.groups, parameters_of(self.model)
        trained = {id(p) for group in self._live.optimizer.param_groups for p in group["params"]}

        def trains(parameter: nn.Parameter) -> bool:
            return parameter.requires_grad and id(parameter) in trained

        if self._masks is not None:
            members = {group.name: _readers(group, parameters) for group in groups}
        else:
            members = gates(self.model, groups, usable=trains)
        if not self.taken:
            _check_trained(members, parameters, trains)
        squared = self._course.is_squared
        return GradientScores(self.model, groups, members, squared=squared)

    def _before_optimizer(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Use the gradients before the optimizer does, also if it has them made by a closure."""
        given = dict(zip(("self", "closure"), args, strict=False)) | kwargs
        closure = given.pop("closure", None)
        if closure is None:
            self._use_gradients(optimizer)
            return None

        def used() -> Any:
            loss = closure()
            self._use_gradients(optimizer)
            return loss

        return (given.pop("self"), used), given

    def _use_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        if self._masks is not None:
            self._masks.lift()
        if self._optimizer_steps >= self._course.start:
            # Optimizers that unscale by themselves are told how (torch.amp.GradScaler, fused).
            self._scores.add(
                scale=getattr(optimizer, "grad_scale", None),
                overflown=getattr(optimizer, "found_inf", None),
            )

    def _after_optimizer(self, *_: object) -> None:
        if self._masks is not None:
            self._masks.lower()
        self._optimizer_steps += 1


def _bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Give the optimizer inside accelerate's wrapper."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def _check_first(optimizer: torch.optim.Optimizer) -> None:
    """Make sure that nothing else prunes what the optimizer trains: it would not know of cuts."""
    hooks = optimizer._optimizer_step_pre_hooks.values()
    if any(isinstance(getattr(hook, "__self__", None), GradualPruning) for hook in hooks):
        raise ValueError(
            f"another pruning is under way with this {type(optimizer).__name__}: go on with that "
            f"one, or build network and optimizer again"
        )


def _check_alone(live: LiveNetwork) -> None:
    """Make sure that no other optimizer keeps state of the shapes that will be cut."""
    groups = live.optimizer.param_groups
    own = {id(parameter) for group in groups for parameter in group["params"]}
    parameters = parameters_of(live.model)
    for group in live.groups:
        for member in group.members:
            parameter = parameters.get(member.parameter)
            if parameter is not None and parameter.requires_grad and id(parameter) not in own:
                raise ValueError(
                    f"{member.parameter} will be cut with {group.name} and requires gradients, but "
                    f"the {type(live.optimizer).__name__} given does not train it: hand the whole "
                    f"network to one optimizer, freeze it, or protect the group with keep="
                )


def _readers(group: ChannelGroup, parameters: Mapping[str, nn.Parameter]) -> tuple[Member, ...]:
    """Give the weights that a mask zeroes: behind it they alone have gradients."""
    found = tuple(m for m in group.with_role("reads") if m.parameter in parameters)
    if not found:
        raise ValueError(
            f"no weight reads the channels of {group.name}, so they cannot be masked: protect "
            f"them with keep=, or leave soft out"
        )
    return found


def _check_trained(
    members: Mapping[str, Sequence[Member]],
    parameters: Mapping[str, nn.Parameter],
    trains: Callable[[nn.Parameter], bool],
) -> None:
    for group, of_group in members.items():
        for member in of_group:
            if not trains(parameters[member.parameter]):
                raise ValueError(
                    f"{group} is scored by the gradients of {member.parameter}, which the "
                    f"optimizer does not train: hand it over and let it require gradients, or "
                    f"protect the group with keep="
                )


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differences = [
        f"{name}: {found.get(name)!r} there and {wanted.get(name)!r} here"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differences:
        raise ModelMismatch(
            f"the state belongs to another pruning ({'; '.join(differences)}): go on with what "
            f"it was begun with"
        )
