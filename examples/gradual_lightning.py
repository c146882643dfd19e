"""Pruning while a Lightning trainer trains: handwritten digits, to half of the latency.

    python examples/gradual_lightning.py [epochs]

Needs the extras `demo` and `lightning`.
"""

import copy
import sys

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

import latprune as lp
from latprune.callbacks.lightning import PruneInSteps
from latprune.tasks import evaluate
from latprune.tasks.digits import digits, network

CUTS = 10


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9, nesterov=True)


def main(epochs: int = 6) -> None:
    lightning.seed_everything(0)
    train, test = digits()
    batches = DataLoader(train, batch_size=32, shuffle=True)
    module, example = Classifier(), torch.zeros(1, 1, 16, 16)
    dense = copy.deepcopy(module)

    graph = lp.trace(module, example)  # of the LightningModule: the callback prunes that
    table = lp.measure(module, graph, example, lp.Target.here(runtime="onnxruntime"))
    every = epochs * len(batches) // (2 * CUTS)  # the second half is for mending
    callback = PruneInSteps(graph, table, "50%", every=every, steps=CUTS)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,  # it could not resume them: the network has changed by then
    )
    trainer.fit(module, batches)

    assert callback.pruning is not None
    plan = callback.pruning.plan
    assert plan is not None
    print(f"{evaluate(module, DataLoader(test, batch_size=256))['top1']:.2%} right")
    print(lp.check(dense, module, plan, example, graph=graph))
    lp.save(module, "small.safetensors", graph=graph, plan=plan)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
