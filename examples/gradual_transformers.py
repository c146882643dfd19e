"""Pruning while Hugging Face's Trainer trains: handwritten digits, to half of the latency.

    python examples/gradual_transformers.py [epochs]

The network is one of transformers' own. Needs the extras `demo` and `transformers`.
"""

import copy
import sys

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader

import latprune as lp
from latprune.callbacks.transformers import PruneInSteps
from latprune.tasks import evaluate
from latprune.tasks.digits import digits

CUTS, BATCH = 10, 32


def network() -> nn.Module:
    config = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=64,
        hidden_sizes=[64, 128, 256],
        depths=[1, 1, 1],
        layer_type="basic",
    )
    config.num_labels = 10
    model: nn.Module = transformers.ResNetForImageClassification(config)
    return model


def collate(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*items, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def main(epochs: int = 6) -> None:
    transformers.set_seed(0)
    train, test = digits()
    model, example = network(), torch.zeros(1, 1, 16, 16)
    dense = copy.deepcopy(model)

    graph = lp.trace(model, example)
    table = lp.measure(model, graph, example, lp.Target.here(runtime="onnxruntime"))
    every = epochs * (len(train) // BATCH) // (2 * CUTS)  # the second half is for mending
    callback = PruneInSteps(graph, table, "50%", every=every, steps=CUTS)
    arguments = transformers.TrainingArguments(
        output_dir="trainer",
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        save_strategy="no",  # it could not resume them: the network has changed by then
        report_to=[],
        use_cpu=True,
    )
    trainer = transformers.Trainer(
        model, arguments, data_collator=collate, train_dataset=train, callbacks=[callback]
    )
    trainer.train()

    assert callback.pruning is not None
    plan = callback.pruning.plan
    assert plan is not None
    print(f"{evaluate(model, DataLoader(test, batch_size=256))['top1']:.2%} right")
    print(lp.check(dense, model, plan, example, graph=graph))
    lp.save(model, "small.safetensors", graph=graph, plan=plan)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
