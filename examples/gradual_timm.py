"""Pruning while training with timm's parts: optimizer, schedule, moving average.

    python examples/gradual_timm.py [steps]

The lines marked with <- are what timm's own train.py needs, too. Pictures are random: what counts
is the loop. Needs the extras `train` and `onnxruntime`.
"""

import sys

import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]  # timm's own omission
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]

import latprune as lp

CUTS = 4


def main(steps: int = 16) -> None:
    torch.manual_seed(0)
    model, example = timm.create_model("resnet10t", num_classes=10), torch.randn(1, 3, 64, 64)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.02, momentum=0.9)
    scheduler, _ = create_scheduler_v2(
        optimizer, num_epochs=steps, updates_per_epoch=1, step_on_epochs=False
    )
    average = ModelEmaV3(model, decay=0.9)

    graph = lp.trace(model, example)  # <-
    table = lp.measure(model, graph, example, lp.Target.here(runtime="onnxruntime"))  # <-
    pruning = lp.prune_in_steps(  # <-
        model,
        graph,
        table,
        "50%",
        optimizer=optimizer,
        every=steps // (2 * CUTS),
        steps=CUTS,
        copies=[average],
    )
    model.train()
    for update in range(steps):
        images, labels = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own omission
        optimizer.step()
        if pruning.step():  # <-
            print(f"cut {pruning.taken} of {CUTS}")
        average.update(model, step=update)
        scheduler.step_update(num_updates=update)

    assert pruning.plan is not None
    print(f"{pruning.plan.predicted_ms:.3f} of {pruning.plan.baseline_ms:.3f} ms predicted")
    lp.save(average.module, "average.safetensors", graph=graph, plan=pruning.plan)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
