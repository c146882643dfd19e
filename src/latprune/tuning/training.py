"""The moving parts of a run: what one step changes, and how it is put away and taken up again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from latprune.errors import NotFinite, import_extra
from latprune.modes import copied, moved, on_device
from latprune.outputs import as_numbers, one_number
from latprune.samples import outputs_of, several_at_once
from latprune.states import hand_on, state_of, tensors_alone, tensors_of
from latprune.tuning.checkpoint import (
    REACHED,
    Checkpoint,
    hash_of_weights,
    optimizer_tensors,
    restore_optimizer,
)
from latprune.tuning.replay import STEP, seed_everything
from latprune.tuning.schedule import build_optimizer, learning_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from latprune.distances import Distil
    from latprune.tuning.companion import Along, Companion
    from latprune.tuning.losses import Loss
    from latprune.tuning.precision import Precision
    from latprune.tuning.recipe import Recipe


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        epoch: From 1.
        loss: The mean over its steps.
        lr: Of its last step.
        metrics: What `evaluate` said after it; empty without.
    """

    epoch: int
    loss: float
    lr: float
    metrics: Mapping[str, float]


@dataclass
class State:
    """Where a run stands, beside its tensors.

    Attributes:
        epoch: The epoch under way, from 0.
        step: Steps taken in it.
        loss_sum: Over these steps.
        history: The epochs before it.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> State:
        """Read what `to_json` gave; other entries are left alone."""
        history = [Epoch(**epoch) for epoch in stored["history"]]
        return cls(stored["epoch"], stored["step"], stored["loss_sum"], history)


@dataclass(frozen=True, eq=False)
class Lesson:
    """How a batch becomes a loss.

    Attributes:
        recipe: Its smoothing, distillation and temperature.
        precision: Of the forward passes.
        teacher: In eval mode; None for labels alone.
        device: Where networks and batches are.
        labelled: The loss against the labels.
        distilled: The loss against the teacher's outputs.
    """

    recipe: Recipe
    precision: Precision
    teacher: nn.Module | None
    device: torch.device
    labelled: Loss
    distilled: Distil

    def loss(self, network: nn.Module, images: Any, labels: Any) -> Tensor:
        """Give the loss of a batch, a scalar.

        Raises:
            DataError: If a batch norm cannot take statistics of a single sample, or there are no
                labels where the default loss needs them.
            ValueError: If a loss of one's own gives no tensor of one number.
        """
        share = 0.0 if self.teacher is None else self.recipe.distillation
        inputs = self._placed(images)
        with several_at_once():
            outputs = self._outputs(network, inputs)
        if share == 0:
            return one_number(self.labelled(outputs, moved(labels, self.device)))
        assert self.teacher is not None
        with torch.no_grad():
            taught = self._outputs(self.teacher, inputs)
        distilled = one_number(self.distilled(outputs, taught, temperature=self.recipe.temperature))
        if share == 1:
            return distilled  # there may be no labels
        labelled = one_number(self.labelled(outputs, moved(labels, self.device)))
        return torch.lerp(labelled, distilled.to(labelled.dtype), share)

    def _outputs(self, network: nn.Module, inputs: Any) -> Any:
        """Run a network; what it gives is in fp32 at least, for losses are no place for less."""
        with self.precision.autocast(self.device):
            outputs = outputs_of(network, inputs, self.device)
        if self.precision.name == "no":
            return outputs
        return import_extra("accelerate", "train").utils.convert_to_fp32(outputs)

    def _placed(self, images: Any) -> Any:
        if isinstance(images, tuple):
            return tuple(map(self._placed, images))
        images = on_device(images, self.device)
        if images.dim() == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images


class Training:
    """A run under way.

    Attributes:
        model: The network that was given.
        network: What a step calls: the model, or its data-parallel wrapper.
        has_changed: Whether what goes along did something after the last step.
        judged: What is judged and kept in the end: the model, or its moving average.
        state: Where the run stands.
        steps: Of an epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        lesson: Lesson,
        *,
        steps: int,
        process: int,
        along: Along | None = None,
    ) -> None:
        self.model, self.network, self.lesson = model, network, lesson
        self.steps, self._process = steps, process
        self.state = State()
        self._optimizer = build_optimizer(model, lesson.recipe)
        self._average = _average(model, lesson.recipe.ema)
        self.judged: nn.Module = model if self._average is None else self._average.module
        copies = [] if self._average is None else [self.judged]
        self.has_changed = False
        self._along: Companion | None = None
        if along is not None:
            self._along = along(network, self._optimizer, copies)
        scaled = lesson.precision.name == "fp16"
        self._scaler = torch.amp.GradScaler(lesson.device.type, enabled=scaled)

    @property
    def is_accompanied(self) -> bool:
        """Whether something goes along, for which every step counts."""
        return self._along is not None

    def lr(self, step: int) -> float:
        """Give the learning rate of a step of the epoch under way."""
        so_far = self.state.epoch * self.steps
        return learning_rate(self.lesson.recipe, so_far + step, steps_per_epoch=self.steps)

    def take_step(self, images: Any, labels: Any) -> float:
        """Learn from one batch; gives its loss.

        Raises:
            DataError: If nothing can be learnt from it, as `Lesson.loss` says.
            NotFinite: If the loss is NaN or infinite; weights and optimizer are as they were.
        """
        state, recipe, device = self.state, self.lesson.recipe, self.lesson.device
        position = (state.epoch, state.step, self._process)
        seed_everything(recipe.seed, STEP, *position, device=device)
        loss = self.lesson.loss(self.network, images, labels)
        value = loss.item()
        if not math.isfinite(value):
            raise NotFinite(self._about(value))
        has_stepped = self._descend(loss)
        self.has_changed = False
        if self._along is not None and has_stepped:
            self.has_changed = self._along.step() is not None
        elif self._along is not None:
            self._along.pass_over()
        state.step += 1
        if self._average is not None:
            with tensors_alone(self.model, self.judged):
                self._average.update(self.model, step=state.epoch * self.steps + state.step)
            hand_on(self.model, self.judged)
        state.loss_sum += value
        return value

    def check(self) -> None:
        """Make sure that the weights are finite: a finite loss can have slopes that are not.

        Raises:
            NotFinite: If they are not.
        """
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if not trained or torch.stack([p.isfinite().all() for p in trained.values()]).all():
            return
        spoilt = next(name for name, p in trained.items() if not p.isfinite().all())
        raise NotFinite(
            f"{spoilt} is nan or infinite after epoch {self.state.epoch + 1}, step "
            f"{self.state.step} of {self.steps}, though the loss was finite: its gradients were "
            f"not, as those of a square root at 0. Look for that in the loss. The last checkpoint, "
            f"if one is kept, is from before."
        )

    def finish_epoch(self, *, loss: float, metrics: Mapping[str, float]) -> None:
        """Write the epoch down and turn to the next."""
        state, last_lr = self.state, self.lr(self.state.step - 1)
        state.history.append(Epoch(state.epoch + 1, loss, last_lr, as_numbers(metrics)))
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0

    def checkpoint(self, run: Mapping[str, Any]) -> Checkpoint:
        """Give all that is needed to go on from here."""
        precision, scaler = self.lesson.precision.to_json(), self._scaler.state_dict()
        state = self.state.to_json() | {"precision": precision, "scaler": scaler}
        state[REACHED] = [hash_of_weights(network) for network in (self.model, self.judged)]
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": tensors_of(self.model),
            "optimizer": optimizer_tensors(self._optimizer),
        }
        if self._average is not None:
            parts["average"] = tensors_of(self.judged)
        if self._along is not None:
            state["along"] = self._along.state_dict()
            parts["along"] = state["along"].pop("tensors")
        named = {f"{part}.{k}": v for part, tensors in parts.items() for k, v in tensors.items()}
        return Checkpoint(run, state, named)

    def restore(self, stored: Checkpoint) -> None:
        """Go back to where a checkpoint was made."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in stored.tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        if self._along is not None:
            # The tensors below have the shapes that this gives the network.
            tensors = parts.get("along", {})
            self._along.load_state_dict({**stored.state["along"], "tensors": tensors})
        self.model.load_state_dict(state_of(parts["model"]))
        if self._average is not None:
            self.judged.load_state_dict(state_of(parts["average"]))
        restore_optimizer(self._optimizer, parts.get("optimizer", {}))
        self._scaler.load_state_dict(dict(stored.state["scaler"]))
        self.state = State.from_json(stored.state)

    def _descend(self, loss: Tensor) -> bool:
        """Take a step of the optimizer; False if it was left out, as `GradScaler` does in fp16."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr(self.state.step)
        self._optimizer.zero_grad(set_to_none=True)
        scaled = self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]  # torch's own omission
        clip_norm = self.lesson.recipe.clip_norm
        if clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip_norm)
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return bool(self._scaler.get_scale() >= scale)

    def _about(self, loss: float) -> str:
        step, lr, peak = self.state.step, self.lr(self.state.step), self.lesson.recipe.lr
        return (
            f"the loss is {loss} in epoch {self.state.epoch + 1}, step {step + 1} of "
            f"{self.steps}, at a learning rate of {lr:.3g}. Lower lr (now {peak:g} "
            f"at its peak), lengthen warmup_epochs or set clip_norm=1; if it is the first step, "
            f"look for NaN in the images and the weights. The last checkpoint, if one is kept, is "
            f"from before."
        )


def _average(model: nn.Module, decay: float | None) -> Any:
    """Give timm's moving average of a model, if there is to be one."""
    if decay is None:
        return None
    make = import_extra("timm.utils", "train").ModelEmaV3
    return make(_ToBeCopied(model), decay=decay, use_warmup=True)


class _ToBeCopied:
    """A model for those who copy it by themselves, and could not copy locks."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __deepcopy__(self, memo: object) -> nn.Module:
        return copied(self._model)
