"""Prune while a Lightning trainer trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latprune.errors import import_extra
from latprune.gradual import GradualPruning, prune_in_steps

if TYPE_CHECKING:
    from latprune.graph.groups import PruningGraph
    from latprune.latency.table import LatencyTable
    from latprune.planning import Budget

Callback: Any = import_extra("lightning.pytorch", "lightning").Callback
AVERAGES: tuple[Any, ...] = tuple(
    getattr(import_extra("lightning.pytorch.callbacks", "lightning"), name, ())
    for name in ("WeightAveraging", "StochasticWeightAveraging")  # the first is of 2.6
)


class PruneInSteps(Callback):  # type: ignore[misc]  # Lightning may be missing, or untyped
    """Calls `prune_in_steps` as a trainer's `fit` begins, and `step()` after every batch.

    ::

        graph = lp.trace(module, example)
        callback = PruneInSteps(graph, table, "50%", every=40, steps=30)
        lightning.Trainer(callbacks=[callback], …).fit(module, loader)

    For modules with one optimizer, on one process or with the `ddp` strategy. A trainer's own
    checkpoints hold the network in the shape of its step and cannot be resumed with `ckpt_path`.

    Attributes:
        pruning: Of the last `fit`; None before.
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
            graph: Traced from the LightningModule itself.
            table: What `measure` gave for it.
            budget: As for `prune_in_steps`.
            options: Those of `prune_in_steps`, without the optimizer.
        """
        super().__init__()
        self._asked = (graph, table, budget)
        self._options = options
        self.pruning: GradualPruning | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin: the module is wrapped and has its optimizer by now.

        Raises:
            ValueError: If there are several optimizers, or the trainer averages weights.
        """
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"{type(pl_module).__name__} has {len(trainer.optimizers)} optimizers: the "
                f"callback prunes with one; call prune_in_steps in the module for more"
            )
        averaging = [callback for callback in trainer.callbacks if isinstance(callback, AVERAGES)]
        if averaging:
            raise ValueError(
                f"{type(averaging[0]).__name__} averages weights in the dense network's shapes and "
                f"cannot be cut along: leave it out, or give your own average in copies="
            )
        model = trainer.strategy.model
        (optimizer,) = trainer.optimizers
        self.pruning = prune_in_steps(model, *self._asked, optimizer=optimizer, **self._options)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Take the step that is due, if one is."""
        if self.pruning is not None:
            self.pruning.step()
