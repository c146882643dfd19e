"""A Lightning trainer prunes as a plain loop does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import latprune as lp
from tests.gradual.training import Network, batch, measured, network, train

if TYPE_CHECKING:
    from pathlib import Path

lightning: Any = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, of loaders and loggers


class Module(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self, optimizers: int = 1) -> None:
        super().__init__()
        self.optimizers_wanted = optimizers
        for name, child in network().named_children():
            setattr(self, name, child)

    forward = Network.forward

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(self(images[0]), labels[0])

    def configure_optimizers(self) -> Any:
        sgd = [
            torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
            for _ in range(self.optimizers_wanted)
        ]
        return sgd[0] if len(sgd) == 1 else sgd


def fit(module: Any, callback: Any, folder: Path) -> None:
    batches: Any = [batch(number) for number in range(8)]
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callback if isinstance(callback, list) else [callback],
        default_root_dir=folder,
    ).fit(module, DataLoader(batches))


def test_the_callback_prunes_as_a_plain_loop_does(tmp_path: Path) -> None:
    from latprune.callbacks.lightning import PruneInSteps

    module = Module()
    graph, table = measured(module, tmp_path)
    callback = PruneInSteps(graph, table, "50%", every=2, steps=3)
    fit(module, callback, tmp_path)

    model = network()
    graph, table = measured(model, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruning = lp.prune_in_steps(model, graph, table, "50%", optimizer=optimizer, every=2, steps=3)
    train(model, optimizer, pruning, range(8))

    assert callback.pruning is not None
    assert callback.pruning.plan == pruning.plan
    ours = module.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


AVERAGES = [
    name
    for name in ("StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging")
    if hasattr(lightning.callbacks, name)
]


@pytest.mark.parametrize("name", AVERAGES)
def test_lightnings_own_averages_are_refused(tmp_path: Path, name: str) -> None:
    from latprune.callbacks.lightning import PruneInSteps

    averaging = getattr(lightning.callbacks, name)
    average = averaging(swa_lrs=0.1) if name.startswith("Stochastic") else averaging()
    module = Module()
    graph, table = measured(module, tmp_path)

    with pytest.raises(ValueError, match=f"{name} averages weights"):
        fit(module, [PruneInSteps(graph, table, "50%"), average], tmp_path)


def test_several_optimizers_are_refused(tmp_path: Path) -> None:
    from latprune.callbacks.lightning import PruneInSteps

    module = Module(optimizers=2)
    module.automatic_optimization = False
    graph, table = measured(module, tmp_path)

    with pytest.raises(ValueError, match="Module has 2 optimizers"):
        fit(module, PruneInSteps(graph, table, "50%"), tmp_path)
