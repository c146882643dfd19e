"""Pruning while training, in a plain PyTorch loop: handwritten digits, to half of the latency.

    python examples/gradual.py [folder]

With a folder, the run goes on from there when it has been stopped. Needs the extra `demo`.
"""

import copy
import sys

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import latprune as lp
from latprune.tasks.digits import digits, network

CUTS = 10


def main(folder: str | None = None, *, epochs: int = 6) -> None:
    torch.manual_seed(0)
    train, test = digits()
    batches = DataLoader(train, batch_size=32, shuffle=True)
    model, example = network(), torch.zeros(1, 1, 16, 16)
    dense = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True)

    graph = lp.trace(model, example)
    table = lp.measure(model, graph, example, lp.Target.here(runtime="onnxruntime"))
    every = epochs * len(batches) // (2 * CUTS)  # the second half is for mending
    pruning = lp.prune_in_steps(
        model, graph, table, "50%", optimizer=optimizer, every=every, steps=CUTS
    )
    resumed = pruning.resume(folder) if folder else None
    for epoch in range(resumed["epoch"] if resumed else 0, epochs):
        model.train()
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own omission
            optimizer.step()
            plan = pruning.step()
            if plan is not None:
                print(f"cut {pruning.taken} of {CUTS}: {plan.predicted_ms:.3f} ms predicted")
        print(f"epoch {epoch + 1}: {accuracy(model, test):.2%} right")
        if folder:
            pruning.save(folder, epoch=epoch + 1)

    assert pruning.plan is not None
    print(lp.check(dense, model, pruning.plan, example, graph=graph))
    lp.save(model, "small.safetensors", graph=graph, plan=pruning.plan)


@torch.no_grad()
def accuracy(
    model: torch.nn.Module, test: torch.utils.data.Dataset[tuple[torch.Tensor, int]]
) -> float:
    model.eval()
    hits = [(model(x).argmax(1) == y).float() for x, y in DataLoader(test, batch_size=256)]
    return float(torch.cat(hits).mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
