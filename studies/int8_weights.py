"""What does a network in int8 answer with weights of 7 and of 8 bits, on this processor?

    python -m studies.int8_weights --model torchvision:resnet50 --weights FILE --data PICTURES
                                      [--pictures 128] [--calibration 2]

x86 processors without VNNI add up products of uint8 and int8 in 16 bits and cut off what does not
fit; the tool then gives weights 7 bits. Here both are judged on the same pictures, drawn at random
from the split that the command line judges on, beside the network in fp32; and the outputs of the
first batch are compared with torch's.

Exits 1 if the tool's choice is further from fp32's outputs than the other.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import latprune as lp
from latprune.cli.job import Source, open_data
from latprune.latency import quantising
from latprune.latency.shipping import as_shipped
from latprune.tasks.classification import evaluate

SEED = 0
BATCH = 32


def main() -> int:
    arguments = _arguments()
    network = Source(arguments.model, arguments.weights).open()
    data = open_data(arguments.data, network, batch=BATCH, workers=0)
    judge: dict[str, Any] = dict(data.judge.keywords)  # type: ignore[attr-defined]
    pictures = _drawn(judge.pop("loader").dataset, arguments.pictures)
    print(f"fp32: {evaluate(network.model, pictures, **judge)}", flush=True)
    target, chosen = lp.Target.here("onnxruntime", precision="int8"), quantising.saturates()
    distances = {}
    for has_seven in (True, False):
        with patch.object(quantising, "saturates", return_value=has_seven):
            batches = data.calibration(arguments.calibration)
            shipped = as_shipped(network.model, network.example(1), target, batches)
        assert shipped is not None
        distances[has_seven] = _distance(network.model, shipped, pictures[0][0])
        said, bits = evaluate(shipped, pictures, **judge), 7 if has_seven else 8
        print(f"int8, {bits} bits: {said}, {distances[has_seven]:.3f} from fp32", flush=True)
    return 0 if distances[chosen] <= distances[not chosen] else 1


def _drawn(dataset: Any, count: int) -> list[tuple[Tensor, Tensor]]:
    order = torch.Generator().manual_seed(SEED)
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, generator=order)
    return list(islice(loader, count // BATCH))


@torch.no_grad()
def _distance(model: nn.Module, shipped: nn.Module, pictures: Tensor) -> float:
    expected = model(pictures)
    return float((shipped(pictures) - expected).norm() / expected.norm())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="as on the command line of latprune")
    parser.add_argument("--weights", type=Path, required=True, help="the trained network's")
    parser.add_argument("--data", type=Path, required=True, help="as on the command line")
    parser.add_argument("--pictures", type=int, default=128, help="to judge on")
    parser.add_argument("--calibration", type=int, default=2, help="batches of 32")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
