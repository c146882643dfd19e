"""What all methods of a seed share: network, graph, table, scores, pictures and a stopwatch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

import latprune as lp
from studies.accuracy.lessons import Lessons, lessons
from studies.accuracy.networks import judge
from studies.accuracy.other_pruner import Candidate, candidates
from studies.frame import Rows
from studies.scoring import score
from studies.subjects import Subject, subject

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from latprune.latency.timing import Comparison
    from studies.frame import Row


@dataclass(frozen=True)
class Bench:
    """One seed of the study.

    Attributes:
        config: The study's.
        seed: Of the pictures that score and tune, of their order and of new weights.
        runs: The folder that keeps everything.
    """

    config: Mapping[str, Any]
    seed: int
    runs: Path

    @cached_property
    def subject(self) -> Subject:
        return subject(self.config["network"], self.config, seed=self.seed)

    @property
    def dense(self) -> nn.Module:
        return self.subject.model

    @property
    def example(self) -> Tensor:
        return self.subject.example

    @cached_property
    def graph(self) -> lp.PruningGraph:
        return lp.trace(self.dense, self.example)

    @cached_property
    def graph_with_branches(self) -> lp.PruningGraph:
        """The graph in which whole residual branches may go."""
        return lp.trace(self.dense, self.example, branches=True)

    @cached_property
    def target(self) -> lp.Target:
        return lp.Target.here(**self.config["target"])

    @cached_property
    def table(self) -> lp.LatencyTable:
        return self.table_for(self.graph)

    def table_for(self, graph: lp.PruningGraph) -> lp.LatencyTable:
        return lp.measure(self.dense, graph, self.example, self.target, folder=self.runs)

    @cached_property
    def lessons(self) -> Lessons:
        path = self.runs / f"seed{self.seed}" / "lessons.safetensors"
        drawn = partial(lessons, self.subject, path, batch_size=self.config["batch_size"])
        return drawn(count=self.config["tuning_images"], seed=self.seed)

    @cached_property
    def others(self) -> list[Candidate]:
        """What Torch-Pruning makes of the network, the same for all budgets."""
        round_to = self.config["methods"]["Torch-Pruning"]["round_to"]
        return candidates(self.dense, self.example, self.subject.scoring, round_to=round_to)

    def graph_for(self, settings: Mapping[str, Any]) -> lp.PruningGraph:
        """Give the graph that a method chooses in."""
        return self.graph_with_branches if settings.get("branches") else self.graph

    def saliency(self, settings: Mapping[str, Any]) -> lp.Saliency:
        """Give a method's scores, computed once for all that ask for the same."""
        criterion = settings["criterion"]
        name = f"{criterion}-branches.npz" if settings.get("branches") else f"{criterion}.npz"
        path = self.runs / f"seed{self.seed}" / name
        return score(criterion, self.subject, self.graph_for(settings), self.config, path).saliency

    def path(self, stage: str, method: str, budget: str) -> Path:
        """Name the file of a network that a stage made."""
        name = f"{method} {budget.rstrip('%')}.pt".replace(", ", "-").replace(" ", "-")
        return self.runs / f"seed{self.seed}" / stage / name

    def cut_row(self, method: str, budget: str) -> Row:
        """Give what is known of a network that was cut before."""
        return Rows(self.runs / "cut.json").all()[f"{method}, {budget}, seed {self.seed}"]

    def compare(self, small: nn.Module, *, limit_s: float = 2.0, openings: int = 1) -> Comparison:
        """Time a network and the dense one in turns."""
        return lp.compare(
            self.dense, small, self.example, self.target, limit_s=limit_s, openings=openings
        )

    def recalibrated(self, model: nn.Module) -> nn.Module:
        """Re-estimate batch norms, on pictures that neither scored nor tune."""
        lp.recalibrate(model, self.subject.calibration, images=self.config["calibration_images"])
        return model

    @cached_property
    def _test(self) -> tuple[Tensor, Tensor]:
        images, labels = zip(*self.subject.test, strict=True)
        return torch.cat(images), torch.cat(labels)

    def judge(self, model: nn.Module, count: int) -> dict[str, float]:
        """Judge a network on the first test pictures."""
        images, labels = self._test
        return judge(model, images[:count], labels[:count], among=self.subject.classes)
