"""Options that say how a network is trained, and in how many cuts it is pruned meanwhile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from latprune.cli.options.usage import finite, usage

if TYPE_CHECKING:
    from latprune.tuning import Recipe

EVERY = 40

Epochs = Annotated[int, typer.Option("--epochs", min=0, help="Of tuning.")]
Lr = Annotated[
    float, typer.Option("--lr", callback=finite, help="Highest learning rate of tuning.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of tuning.")]
Optimizer = Annotated[str, typer.Option("--optimizer", help="Of tuning: sgd or adamw.")]
Momentum = Annotated[float, typer.Option("--momentum", callback=finite, help="Of sgd.")]
WeightDecay = Annotated[
    float,
    typer.Option("--weight-decay", callback=finite, help="On weights; never on norms and biases."),
]
WarmupEpochs = Annotated[
    float,
    typer.Option(
        "--warmup-epochs", callback=finite, help="Over which the learning rate climbs from 0."
    ),
]
LabelSmoothing = Annotated[
    float,
    typer.Option(
        "--label-smoothing", callback=finite, help="Share of a label spread over all classes."
    ),
]
Distillation = Annotated[
    float,
    typer.Option(
        "--distillation", callback=finite, help="Weight of the dense network's word, 0 to 1."
    ),
]
Ema = Annotated[
    float | None,
    typer.Option(
        "--ema",
        callback=finite,
        help="Keep a moving average of the weights, with this decay: 0.9999.",
    ),
]
ClipNorm = Annotated[
    float | None,
    typer.Option("--clip-norm", callback=finite, help="Longest gradient, over all weights."),
]
TrainPrecision = Annotated[
    str,
    typer.Option(
        "--train-precision",
        metavar="auto|no|bf16|fp16",
        help="Number format of tuning: no is fp32, auto is bf16 where that is faster.",
    ),
]
AutoAugment = Annotated[
    str | None,
    typer.Option(
        "--auto-augment",
        metavar="POLICY",
        help="timm's augmentation of pictures for tuning, such as rand-m9-mstd0.5.",
    ),
]
TrialSteps = Annotated[
    int,
    typer.Option(
        "--trial-steps",
        min=0,
        help="Of several criteria or solvers: tune every network by so many steps before held-out "
        "pictures decide between them.",
    ),
]
Reconstruct = Annotated[
    bool,
    typer.Option(
        "--reconstruct/--no-reconstruct",
        help="Fit the layers of the cut network to what they gave in the dense one, before tuning; "
        "with --steps they are not.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=1,
        help="Prune in so many cuts while the network is trained for --epochs, as HALP does, "
        "instead of once before.",
    ),
]
Every = Annotated[
    int | None,
    typer.Option(
        "--every",
        min=1,
        show_default=str(EVERY),
        help="Of --steps: steps of the optimizer from one cut to the next.",
    ),
]
Soft = Annotated[
    bool,
    typer.Option(
        "--soft", help="Of --steps: mask channels, which may come back, until the last cut."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained."""

    heading: ClassVar[str] = "Training"

    epochs: Epochs = 5
    lr: Lr = 0.01
    optimizer: Optimizer = "sgd"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 1e-4
    warmup_epochs: WarmupEpochs = 0.5
    label_smoothing: LabelSmoothing = 0.0
    distillation: Distillation = 0.5
    ema: Ema = None
    clip_norm: ClipNorm = None
    seed: Seed = 0
    train_precision: TrainPrecision = "auto"
    auto_augment: AutoAugment = None
    trial_steps: TrialSteps = 0
    reconstruct: Reconstruct = True

    def recipe(self, task: str) -> Recipe:
        """Read how to train.

        Raises:
            BadParameter: If a number is out of its range, or not for the task.
        """
        from latprune.tuning import Recipe

        others = ("auto_augment", "trial_steps", "reconstruct")
        numbers = {name: value for name, value in vars(self).items() if name not in others}
        # --precision is the target's.
        numbers["precision"] = numbers.pop("train_precision")
        for name, value in numbers.items():
            option = "train_precision" if name == "precision" else name
            with usage(f"--{option.replace('_', '-')}"):
                Recipe(**{"epochs": 1, name: value})
        if task == "detection" and self.label_smoothing:
            sentence = "a detector's loss smooths no labels"
            raise typer.BadParameter(sentence, param_hint="--label-smoothing")
        return Recipe(**numbers)

    def check_trial(self, *, trains: bool, networks: int) -> None:
        """See that there are networks to try, and pictures to tune them with.

        Raises:
            BadParameter: If not.
        """
        if self.trial_steps and networks < 2:
            sentence = "there is one network: give several criteria or solvers to choose from"
            raise typer.BadParameter(sentence, param_hint="--trial-steps")
        if self.trial_steps and not trains:
            sentence = "it tunes: give --data, and --epochs above 0"
            raise typer.BadParameter(sentence, param_hint="--trial-steps")

    def check_augmentation(self, task: str) -> None:
        """See that the policy is timm's, and for pictures without boxes.

        Raises:
            BadParameter: If not.
        """
        if self.auto_augment is None:
            return
        if task == "detection":
            sentence = "boxes would not follow it: detectors have an augmentation of their own"
            raise typer.BadParameter(sentence, param_hint="--auto-augment")
        from latprune.tasks.preprocessing import check_policy

        with usage("--auto-augment"):
            check_policy(self.auto_augment)


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """In how many cuts a network is pruned while it is trained."""

    heading: ClassVar[str] = "Pruning while training"

    steps: Steps = None
    every: Every = None
    soft: Soft = False

    @property
    def interval(self) -> int:
        """Steps of the optimizer from one cut to the next."""
        return self.every or EVERY

    def _check_unused(self) -> None:
        """Refuse what says something of cuts that there will not be."""
        for name, given in (("--every", self.every is not None), ("--soft", self.soft)):
            if given:
                sentence = "it is about the cuts of --steps: say how many, or leave it out"
                raise typer.BadParameter(sentence, param_hint=name)

    def check(
        self,
        *,
        trains: bool,
        criterion: str | None,
        solvers: int,
        branches: bool,
        is_by_hand: bool,
    ) -> None:
        """Refuse to prune in steps where that cannot be, and several processes where it need not.

        Raises:
            BadParameter: If so.
        """
        if self.steps is None:
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                sentence = (
                    "several processes prune together only while they train: say in how many cuts"
                )
                raise typer.BadParameter(sentence, param_hint="--steps")
            self._check_unused()
            return
        if not trains:
            sentence = "it prunes while it trains: give --data, and --epochs above 0"
            raise typer.BadParameter(sentence, param_hint="--steps")
        if criterion is not None:
            from latprune.gradual.course import check_criterion

            with usage("--criterion"):
                check_criterion(criterion)
        if solvers > 1:
            sentence = "with --steps, one solver chooses every cut"
            raise typer.BadParameter(sentence, param_hint="--solver")
        if branches:
            sentence = "while a network trains its branches are narrowed, but none of them goes"
            raise typer.BadParameter(sentence, param_hint="--branches")
        if is_by_hand:
            sentence = "the last cut is timed while training waits: reach the device by --on"
            raise typer.BadParameter(sentence, param_hint="--steps")
