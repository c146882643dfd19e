"""Prune while Hugging Face's Trainer trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latprune.errors import import_extra
from latprune.gradual import GradualPruning, prune_in_steps

if TYPE_CHECKING:
    from latprune.graph.groups import PruningGraph
    from latprune.latency.table import LatencyTable
    from latprune.planning import Budget

TrainerCallback: Any = import_extra("transformers", "transformers").TrainerCallback


class PruneInSteps(TrainerCallback):  # type: ignore[misc]  # transformers may be missing
    """Calls `prune_in_steps` as training begins, and `step()` after every step of the optimizer.

    ::

        graph = lp.trace(model, example)
        callback = PruneInSteps(graph, table, "50%", every=40, steps=30)
        transformers.Trainer(model, callbacks=[callback], …).train()

    For one process: the trainer does not hand its data-parallel wrapper to callbacks. Its own
    checkpoints hold the network in the shape of its step and cannot be resumed.

    Attributes:
        pruning: Of the last training; None before.
    """

    def __init__(
        self,
        graph: PruningGraph,
        table: LatencyTable,
        budget: Budget | str | float,
        **options: Any,
    ) -> None:
        """Prepare to prune.

        Args:
            graph: Traced from the trainer's model.
            table: What `measure` gave for it.
            budget: As for `prune_in_steps`.
            options: Those of `prune_in_steps`, without the optimizer.
        """
        super().__init__()
        self._asked = (graph, table, budget)
        self._options = options
        self.pruning: GradualPruning | None = None

    def on_train_begin(self, *_: Any, model: Any, optimizer: Any, **__: Any) -> None:
        """Begin."""
        self.pruning = prune_in_steps(model, *self._asked, optimizer=optimizer, **self._options)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Take the step that is due, if one is."""
        if self.pruning is not None:
            self.pruning.step()
