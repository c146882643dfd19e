"""Teach a small network what the dense one knew, on any `DataLoader`; stop it at any time."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latprune.claims import claimed
from latprune.distances import distillation
from latprune.errors import DataError, FolderInUse, import_extra
from latprune.modes import copied, evaluating, placed
from latprune.samples import at_most, samples_of
from latprune.states import drop_subnormals
from latprune.tuning.checkpoint import (
    WEIGHTS,
    hash_of_weights,
    read_checkpoint,
    write_checkpoint,
)
from latprune.tuning.interrupts import Interrupts
from latprune.tuning.losses import cross_entropy
from latprune.tuning.precision import Precision, choose_precision, has_bf16
from latprune.tuning.replay import Batches, Replay, own_chance, replayed
from latprune.tuning.schedule import check_trained
from latprune.tuning.together import together
from latprune.tuning.training import Epoch, Lesson, Training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from latprune.distances import Distil
    from latprune.tuning.companion import Along
    from latprune.tuning.losses import Loss
    from latprune.tuning.recipe import Recipe

TRIAL_IMAGES = 32


@dataclass(frozen=True)
class TuneProgress:
    """How far tuning has come.

    Attributes:
        epoch: The epoch under way, from 1.
        epochs: In all.
        step: Steps taken in this epoch.
        steps: Of an epoch.
        loss: Of the last step.
        lr: Of the last step.
        images_per_s: In this epoch so far, of all processes together.
        eta_s: Seconds of training left, at this pace.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float
    images_per_s: float
    eta_s: float


@dataclass(frozen=True)
class Tuned:
    """A finished tuning.

    Attributes:
        model: The network that was given, tuned in place, in eval mode.
        history: Every epoch, also those before an interruption.
        precision: What forward and backward passes ran in, and why.
    """

    model: nn.Module
    history: tuple[Epoch, ...]
    precision: Precision


@own_chance(on_gpus=True)
def tune(
    model: nn.Module,
    loader: Batches,
    *,
    recipe: Recipe,
    teacher: nn.Module | None = None,
    loss: Loss | None = None,
    distil: Distil | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    along: Along | None = None,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 60.0,
    progress: Callable[[TuneProgress], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuned:
    """Train a network on labels and on a teacher's outputs.

    Runs where accelerate says: on the GPU if there is one, and in every process of
    `accelerate launch` or `torchrun`, each of which takes its share of the batches.

    Args:
        model: Images to what `loss` takes. Changed in place; back on its own device afterwards, in
            eval mode.
        loader: Batches of (images, labels), the labels as `loss` takes them: a tensor, or tensors
            in lists and dicts; several inputs in a tuple. With a `DataLoader` over an indexed
            dataset its order, the augmentation and dropout depend on `recipe.seed` and the position
            alone: a run that was interrupted equals an unbroken one, on CPUs bit for bit. One
            without a length, such as over an `IterableDataset`, is run through once more, to be
            counted.
        recipe: The numbers.
        teacher: A network with the same outputs, usually the dense one; not changed.
        loss: Of (outputs, labels), a scalar; None for `cross_entropy`, smoothed as the recipe
            says, of logits [n, classes], or in training mode of a tuple with the main head first.
        distil: Of (outputs, the teacher's outputs, temperature=), a scalar; None for
            `distillation`, which compares logits.
        evaluate: Called after every epoch, in every process, with the model, or its average if the
            recipe keeps one, in eval mode.
        along: Makes what goes along with the training, such as gradual pruning
            (`prune_gradually`).
        checkpoint: A folder. If it holds a checkpoint of this run, the run goes on from there, of
            the network as it was given at first, or as Ctrl-C left it; the last one is kept there,
            also when Ctrl-C interrupts. None keeps none.
        checkpoint_every_s: Seconds between checkpoints; the end of an epoch makes one in any case.
        progress: Called after every step, in the main process.
        clock: Gives seconds.

    Raises:
        ValueError: If no parameter of the model takes gradients, the model is its own teacher, or
            it is not said how outputs are compared with a teacher's.
        NotFinite: If the loss, or what its gradients make of the weights, is NaN or infinite; the
            last checkpoint stays.
        ModelMismatch: If the checkpoint belongs to another model, teacher or recipe, or to other
            weights.
        DamagedFile: If the checkpoint cannot be read.
        FolderInUse: If another run is at work in the folder.
        DataError: If the loader has no batch, or gives no pairs, or labels that the default loss
            does not take, or single samples where a batch norm needs several (a lone last one is
            left out, unless its step is awaited: by other processes, or by what goes along).
        ProcessLost: If another process of the run is gone; the last checkpoint stays.
        KeyboardInterrupt: On Ctrl-C, after the step under way was finished and saved.
        MissingExtra: If accelerate is not installed.
    """
    if teacher is model:
        raise ValueError("a network cannot teach itself: pass a copy of it as teacher")
    check_trained(model)
    labelled, distilled = _losses(recipe, loss, distil, has_teacher=teacher is not None)
    accelerator = _accelerator()
    batches = replayed(
        loader,
        seed=recipe.seed,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    folder = None if checkpoint is None else Path(checkpoint)
    run: Mapping[str, Any] = {}
    if folder is not None:
        run = _identity(model, recipe, batches, teacher=teacher, accelerator=accelerator)
        run |= {} if along is None else {"something going along": True}
    with ExitStack() as stack:
        stack.enter_context(together(accelerator.num_processes))
        stack.enter_context(_claimed(folder, accelerator))
        stack.enter_context(placed(model, accelerator.device))
        if teacher is not None:
            stack.enter_context(placed(teacher, accelerator.device))
            stack.enter_context(evaluating(teacher))
        stored = None if folder is None else read_checkpoint(folder, run)
        run = run if stored is None else stored.run
        lesson = partial(
            Lesson,
            recipe,
            teacher=teacher,
            device=accelerator.device,
            labelled=labelled,
            distilled=distilled,
        )
        if stored is None:
            precision = _precision(model, recipe, lesson, batches, accelerator, clock)
        else:
            precision = Precision.from_json(stored.state["precision"])
        training = Training(
            model,
            accelerator.prepare_model(model),
            lesson(precision=precision),
            steps=batches.steps,
            process=accelerator.process_index,
            along=along,
        )
        if stored is not None:
            training.restore(stored)
        # Nobody may replace the file before everybody has read it.
        accelerator.wait_for_everyone()
        _Run(
            training,
            batches,
            accelerator,
            keeper=_Keeper(
                training,
                run,
                folder if accelerator.is_main_process else None,
                every_s=checkpoint_every_s,
                clock=clock,
            ),
            evaluate=evaluate,
            progress=progress if accelerator.is_main_process else None,
            clock=clock,
        ).finish()
        if training.judged is not model:
            model.load_state_dict(training.judged.state_dict())
    drop_subnormals(model)
    model.eval()
    model.zero_grad(set_to_none=True)  # the last step's: nobody asked for them
    return Tuned(model, tuple(training.state.history), precision)


class _Keeper:
    """Writes checkpoints when one is due; without a folder, none."""

    def __init__(
        self,
        training: Training,
        run: Mapping[str, Any],
        folder: Path | None,
        *,
        every_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._training, self._run, self._folder = training, run, folder
        self._every_s, self._clock = every_s, clock
        self._last = clock()

    def keep(self) -> None:
        if self._folder is not None:
            self._training.check()
            write_checkpoint(self._folder, self._training.checkpoint(self._run))
            self._last = self._clock()

    def keep_if_due(self) -> None:
        if self._folder is not None and self._clock() - self._last >= self._every_s:
            self.keep()


@dataclass(frozen=True, eq=False)
class _Run:
    """Takes a training from where it stands to its end."""

    training: Training
    batches: Replay
    accelerator: Any
    keeper: _Keeper
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None
    progress: Callable[[TuneProgress], None] | None
    clock: Callable[[], float]

    def finish(self) -> None:
        training = self.training
        with Interrupts() as interrupts:
            try:
                while training.state.epoch < training.lesson.recipe.epochs:
                    self._take_steps(interrupts)
                    training.check()
                    self._share_buffers()
                    metrics = self._judged()
                    with interrupts.held():
                        training.finish_epoch(loss=self._mean_loss(), metrics=metrics)
                    self.keeper.keep()
            except KeyboardInterrupt:
                if not interrupts.torn:
                    self.keeper.keep()
                raise

    def _judged(self) -> Mapping[str, float]:
        """Judge what is kept; in training mode batch norms would learn from what it is shown."""
        if self.evaluate is None:
            return {}
        with evaluating(self.training.judged):
            return self.evaluate(self.training.judged)

    def _take_steps(self, interrupts: Interrupts) -> None:
        """Take the remaining steps of the epoch."""
        training, state = self.training, self.training.state
        training.network.train()
        begun, first, images_done = self.clock(), state.step, 0
        batches = self.batches.epoch(state.epoch, start=first)
        # Some loaders give more than they say, or no end of them; the rate would climb again.
        for images, labels in islice(batches, training.steps - first):
            with interrupts.held():
                loss = self._taken(images, labels)
            if loss is None:
                continue
            images_done += samples_of(images) * self.accelerator.num_processes
            if self.progress is not None:
                elapsed_s = self.clock() - begun
                self.progress(self._so_far(loss, elapsed_s, images_done, state.step - first))
            if training.has_changed:
                self.keeper.keep()
            self.keeper.keep_if_due()
        if not state.step:
            raise DataError(
                "the loader has a length and gave no batch: can it be run through twice?"
            )

    def _taken(self, images: Any, labels: Any) -> float | None:
        """Take a step, and give its loss; None where a lone last picture cannot teach anything."""
        try:
            return self.training.take_step(images, labels)
        except DataError:
            # Over one position a batch norm has no variance in a batch of one. Others would wait
            # for this step: further processes, cuts that are due after so many, and, but for the
            # last one, a run that goes on from here.
            is_last = 0 < self.training.state.step == self.training.steps - 1
            is_alone = samples_of(images) == 1 and is_last
            is_awaited = self.accelerator.num_processes > 1 or self.training.is_accompanied
            if is_alone and not is_awaited:
                return None
            raise

    def _share_buffers(self) -> None:
        """Give every process the main one's running statistics: all judge the same network."""
        if self.accelerator.num_processes > 1:
            networks = {id(n): n for n in (self.training.model, self.training.judged)}
            for buffer in chain.from_iterable(n.buffers() for n in networks.values()):
                buffer.copy_(import_extra("accelerate", "train").utils.broadcast(buffer))

    def _so_far(self, loss: float, elapsed_s: float, images: int, steps: int) -> TuneProgress:
        training, state = self.training, self.training.state
        epochs = training.lesson.recipe.epochs
        steps_left = (epochs - state.epoch) * training.steps - state.step
        return TuneProgress(
            epoch=state.epoch + 1,
            epochs=epochs,
            step=state.step,
            steps=training.steps,
            loss=loss,
            lr=training.lr(state.step - 1),
            images_per_s=images / elapsed_s if elapsed_s else 0.0,
            eta_s=steps_left * elapsed_s / steps,
        )

    def _mean_loss(self) -> float:
        """Average over the epoch's steps, and over the processes."""
        state = self.training.state
        mean = state.loss_sum / state.step
        if self.accelerator.num_processes == 1:
            return mean
        together = torch.tensor(mean, device=self.accelerator.device)
        return float(self.accelerator.reduce(together, "mean"))


def _accelerator() -> Any:
    accelerator = import_extra("accelerate", "train").Accelerator()
    # The recipe decides on autocast, not a wrapper around the model's forward.
    accelerator.native_amp = False
    return accelerator


def _losses(
    recipe: Recipe, loss: Loss | None, distil: Distil | None, *, has_teacher: bool
) -> tuple[Loss, Distil]:
    """Settle what labels and teacher count; the recipe's smoothing is of cross-entropy alone."""
    if loss is None:
        smoothed = partial(cross_entropy, label_smoothing=recipe.label_smoothing)
        return smoothed, distil or distillation
    if recipe.label_smoothing:
        raise ValueError(
            f"label_smoothing={recipe.label_smoothing} is for the default loss: a loss of your own "
            f"has to smooth labels itself"
        )
    if has_teacher and recipe.distillation and distil is None:
        raise ValueError(
            "with a loss of your own, say how outputs are compared with the teacher's: "
            "distil=latprune.tuning.distillation for logits, or give no teacher"
        )
    return loss, distil or distillation


def _precision(
    model: nn.Module,
    recipe: Recipe,
    lesson: Callable[..., Lesson],
    batches: Replay,
    accelerator: Any,
    clock: Callable[[], float],
) -> Precision:
    """Settle the precision, the same for all processes."""

    def trial() -> Callable[[Precision], None]:
        pupil = copied(model)
        pupil.train()
        images, labels = at_most(next(batches.epoch(0)), TRIAL_IMAGES)

        def step(precision: Precision) -> None:
            tried = lesson(precision=precision)
            loss = tried.loss(pupil, images, labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own omission

        return step

    precision = choose_precision(
        recipe,
        accelerator.device,
        launcher=accelerator.mixed_precision,
        has_bf16=has_bf16(accelerator.device),
        trial=trial,
        clock=clock,
    )
    return Precision.from_json(*_agreed([precision.to_json()], accelerator))


@contextmanager
def _claimed(folder: Path | None, accelerator: Any) -> Iterator[None]:
    """Keep other runs from the folder; the main process does, and all hear if it cannot."""
    with ExitStack() as held:
        is_refused = False
        if accelerator.is_main_process:
            try:
                held.enter_context(claimed(folder))
            except FolderInUse:
                is_refused = True
        if folder is not None and _agreed([is_refused], accelerator)[0]:
            raise FolderInUse(folder)
        yield


def _identity(
    model: nn.Module,
    recipe: Recipe,
    batches: Replay,
    *,
    teacher: nn.Module | None,
    accelerator: Any,
) -> dict[str, Any]:
    """Say what a checkpoint must have been made with to be continued."""
    hashes = [hash_of_weights(model), None if teacher is None else hash_of_weights(teacher)]
    weights, taught_by = _agreed(hashes, accelerator)
    return {
        WEIGHTS: weights,
        "the hash of the teacher's weights": taught_by,
        "the number of steps in an epoch": batches.steps,
        "the number of processes": accelerator.num_processes,
        **{f"recipe.{name}": value for name, value in recipe.to_json().items()},
    }


def _agreed(values: list[Any], accelerator: Any) -> list[Any]:
    """Give the main process's values in every process."""
    agreed = list(values)
    if accelerator.num_processes > 1:
        import_extra("accelerate", "train").utils.broadcast_object_list(agreed)
    return agreed
