"""Score channels by one criterion, or by several of which held-out batches decide."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from latprune.batches import ButLast
from latprune.errors import DataError
from latprune.reranking import rerank
from latprune.saliency import check_name, scored
from latprune.trial import Trials
from latprune.tuning.replay import replayed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from latprune.distances import Distil
    from latprune.graph.groups import PruningGraph
    from latprune.planning import Plan
    from latprune.progress import Progress
    from latprune.reranking import Candidate
    from latprune.saliency import CriterionName, Saliency
    from latprune.trial import Trial
    from latprune.tuning.losses import Loss
    from latprune.tuning.replay import Batches, Replay

    Score = Callable[[nn.Module, PruningGraph], Saliency]
    Criteria = CriterionName | Score | Sequence[CriterionName | Score]


@dataclass(frozen=True, eq=False)
class Scoring:
    """By what channels are scored, and on which batches.

    Attributes:
        criteria: Names or functions of model and graph; at least one.
        loader: Batches of (inputs, labels); without them channels are scored by `magnitude`.
        loss: Of (outputs, labels).
        score_batches: How many of the loader's first batches score, at the most.
        held_out_batches: How many of its last ones decide between several networks, and then do
            nothing else: at most half of all.
        seed: Of the loader's order.
        distil: Of (outputs, the dense network's outputs, temperature=), by which branches are
            priced; None: by the loss.
        trial: How the networks are tuned before they decide; None: not at all.
        reconstruct: Whether layers of cut networks are fitted to the dense one's.
        ways: How many networks are decided between.

    Raises:
        ValueError: If there is no criterion, none of its name, or no loader to decide by.
        DataError: If there are not batches enough for some to score and others to decide.
    """

    criteria: tuple[str | Score, ...]
    loader: Batches | None
    loss: Loss
    _: KW_ONLY
    score_batches: int
    held_out_batches: int
    seed: int
    distil: Distil | None = None
    trial: Trial | None = None
    reconstruct: bool = True
    ways: int = 1

    def __post_init__(self) -> None:
        for criterion in self.criteria:
            if isinstance(criterion, str):
                check_name(criterion)
        if not self.criteria or (len(self.criteria) > 1 and self.loader is None):
            raise ValueError(
                f"give one criterion, or several and a loader with images that decide, not "
                f"{len(self.criteria)} and {'no' if self.loader is None else 'a'} loader"
            )
        if self.loader is not None and self.ways > 1 and not self.held_out:
            raise DataError(
                f"to decide between {self.ways} networks takes a batch that did not score, and "
                f"with {self.replay.steps} in the loader and held_out_batches="
                f"{self.held_out_batches} there is none: give more batches, or smaller ones, or "
                f"one criterion and solver"
            )

    @cached_property
    def held_out(self) -> int:
        """How many of the loader's last batches decide, and do nothing else."""
        if self.loader is None or self.ways == 1:
            return 0
        return min(self.held_out_batches, self.replay.steps // 2)

    @cached_property
    def replay(self) -> Replay:
        """The loader's batches; one for all, so that workers that stay are started once."""
        assert self.loader is not None
        return replayed(self.loader, seed=self.seed)

    @property
    def _scoring_batches(self) -> int:
        if not self.held_out:  # one that has no length need not be counted
            return self.score_batches
        return min(self.score_batches, self.replay.steps - self.held_out)

    def score(self, model: nn.Module, graph: PruningGraph, *, progress: Progress) -> list[Saliency]:
        """Score all channels by every criterion."""
        return [self._by(criterion, model, graph, progress) for criterion in self.criteria]

    def ranked(
        self, model: nn.Module, graph: PruningGraph, plans: Sequence[Plan], *, progress: Progress
    ) -> list[Candidate]:
        """Sort plans by what their networks lose on the held-out batches, the best first."""
        assert self.loader is not None  # there are several criteria
        tuner, held_out = None, self.held_out
        if self.trial is not None:
            progress = Trials(progress, plans=len(plans), steps=self.trial.steps)
            tuner = self.trial.tuner(
                model, self.loader, held_out=held_out, seed=self.seed, progress=progress.tuned
            )
        return rerank(
            model,
            graph,
            plans,
            calibration=ButLast(self.loader, held_out, seed=self.seed),
            held_out=self.replay.epoch(0, start=self.replay.steps - held_out),
            loss=self.loss,
            tuner=tuner,
            reconstruct=self.reconstruct,
            seed=self.seed,
            progress=progress,
        )

    def _by(
        self, criterion: str | Score, model: nn.Module, graph: PruningGraph, progress: Progress
    ) -> Saliency:
        if callable(criterion):
            return criterion(model, graph)
        batches = None
        if self.loader is not None:
            batches = islice(self.replay.epoch(0), self._scoring_batches)
        return scored(
            criterion, model, graph, batches, self.loss, distil=self.distil, progress=progress
        )


def as_criteria(criterion: Criteria) -> tuple[str | Score, ...]:
    """Give the criteria where one may stand for itself."""
    return (criterion,) if isinstance(criterion, str) or callable(criterion) else tuple(criterion)
