"""How slow are weights so near to zero that they are no usual floating-point numbers?

    python -m benchmarks.subnormals [--targets onnxruntime,openvino,eager] [--limit-s 30]
                                    [--json FILE]

A ResNet-18 (224 x 224, one picture, one thread, random weights) with a tenth of every convolution's
filters scaled by 1e-40, and one with a tenth of every norm's channels so, are timed in turns with
the same network as it was, and the first of them once more with what is subnormal set to zero.
Tells the median ratio of times over the rounds, and its quartiles.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

import latprune as lp
from benchmarks._result import origin, write
from benchmarks.budget import build
from latprune.latency.measuring import prepare
from latprune.latency.target import processor
from latprune.latency.timing import clock_for, time_interleaved
from latprune.states import count_subnormals, drop_subnormals

if TYPE_CHECKING:
    from latprune.latency.timing import Run

SEED = 0
SHARE, SCALE = 0.1, 1e-40
NAMES = ("in convolutions", "in norms", "in convolutions, set to zero")


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    usual = build("resnet18").eval()
    example = torch.randn(1, 3, 224, 224)
    kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.BatchNorm2d, nn.Conv2d)
    networks = [_scaled(usual, kind) for kind in kinds]
    drop_subnormals(networks[2])
    document = origin("subnormals", "torch", "torchvision", "onnxruntime", "openvino")
    document |= {"device": processor(), "seed": SEED, "share": SHARE, "scale": SCALE, "cases": []}
    for name in arguments.targets.split(","):
        target = lp.Target.here(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lp.SubnormalWeights)
            runs = [prepare(network, example, target) for network in (usual, *networks)]
        case = {"target": name} | _ratios(cast("list[Run]", runs), arguments.limit_s)
        case["subnormal"] = dict(zip(NAMES, map(count_subnormals, networks), strict=True))
        document["cases"].append(case)
        shown = (f"{n} {r['median']:.2f}" for n, r in case["ratios"].items())
        print(f"{name}: {case['usual_ms']:.1f} ms; times as long: {', '.join(shown)}", flush=True)
        write(arguments.json, document)


def _scaled(network: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Copy a network, a part of the channels of every module of a kind scaled down."""
    scaled = copy.deepcopy(network)
    with torch.no_grad():
        for module in scaled.modules():
            if isinstance(module, kind):
                for parameter in module.parameters():
                    parameter[: max(1, round(SHARE * len(parameter)))] *= SCALE
    return scaled


def _ratios(runs: list[Run], limit_s: float) -> dict[str, Any]:
    times = np.array(time_interleaved(runs, clock=clock_for(1), limit_s=limit_s))
    found = np.percentile(times[1:] / times[0], (25, 50, 75), axis=1).round(3).T.tolist()
    ratios = {
        name: {"median": median, "quartiles": [low, high]}
        for name, (low, median, high) in zip(NAMES, found, strict=True)
    }
    usual_ms = round(float(np.median(times[0])), 3)
    return {"usual_ms": usual_ms, "rounds": len(times[0]), "ratios": ratios}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", default="onnxruntime,openvino,eager", help="runtimes")
    parser.add_argument("--limit-s", type=float, default=30.0, help="for each target")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
