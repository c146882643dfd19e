"""A ResNet-18 for CIFAR-10, 64 to 512 channels wide, and the training of its dense weights.

    python -m studies.cifar_resnet18

trains it from scratch on all of CIFAR-10 and writes `studies/runs/cifar_resnet18.safetensors`;
interrupted, it goes on. torchvision's network, but for its beginning: one 3x3 convolution that
halves the picture, and no pooling, so that the stages see 16, 8, 4 and 2 pixels a side. That is a
quarter of the work of the usual 32 to 4.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models.resnet import BasicBlock, ResNet

import latprune as lp
from studies.frame import require_data
from studies.shared_data import Cifar10

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.tuning import TuneProgress

STAGES = (64, 128, 256, 512)
RUNS = Path(__file__).resolve().parent / "runs"
WEIGHTS = RUNS / "cifar_resnet18.safetensors"
BATCH_SIZE = 128
RECIPE = lp.Recipe(
    epochs=15,
    lr=0.1,
    weight_decay=5e-4,
    warmup_epochs=1.0,
    label_smoothing=0.1,
    precision="bf16",
    seed=0,
)


def resnet18(stages: Sequence[int] = STAGES) -> ResNet:
    """Images [n, 3, 32, 32] to logits [n, 10]; `stages` are the channels of the four stages."""
    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10)
    model.inplanes = stages[0]
    model.conv1 = nn.Conv2d(3, stages[0], 3, stride=2, padding=1, bias=False)
    model.bn1 = nn.BatchNorm2d(stages[0])
    model.maxpool = nn.Identity()
    for number, channels in enumerate(stages):
        stride = 1 if number == 0 else 2
        stage = model._make_layer(BasicBlock, channels, blocks=2, stride=stride)
        setattr(model, f"layer{number + 1}", stage)
    model.fc = nn.Linear(stages[-1], 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


@torch.no_grad()
def accuracy(model: nn.Module) -> dict[str, float]:
    """Judge a network on all test pictures."""
    right = [
        (model(images).argmax(dim=1) == labels).double()
        for images, labels in DataLoader(Cifar10("test"), 500)
    ]
    return {"top1": float(torch.cat(right).mean())}


def _told(progress: TuneProgress) -> None:
    if progress.step % 50 == 0 or progress.step == progress.steps:
        print(
            f"epoch {progress.epoch}, step {progress.step} of {progress.steps}: "
            f"loss {progress.loss:.3f}, {progress.images_per_s:.0f} pictures/s, "
            f"{progress.eta_s / 60:.0f} min left",
            flush=True,
        )


def main() -> None:
    require_data()
    torch.manual_seed(RECIPE.seed)
    begun = time.time()
    tuned = lp.tune(
        resnet18().to(memory_format=torch.channels_last),
        DataLoader(Cifar10("train", augment=True), BATCH_SIZE, shuffle=True, drop_last=True),
        recipe=RECIPE,
        evaluate=accuracy,
        checkpoint=RUNS / "cifar_resnet18",
        progress=_told,
    )
    for epoch in tuned.history:
        print(epoch)
    facts = {
        "top1": f"{tuned.history[-1].metrics['top1']:.4f}",
        "precision": json.dumps(tuned.precision.to_json()),
        "hours_of_the_last_run": f"{(time.time() - begun) / 3600:.2f}",
    }
    print(facts)
    weights = {name: t.contiguous() for name, t in tuned.model.state_dict().items()}
    save_file(weights, WEIGHTS, metadata=facts)


if __name__ == "__main__":
    main()
