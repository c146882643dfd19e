"""How far apart must a layer be timed to take what it takes in its network?

    python -m benchmarks.apart [--network resnet18] [--input 3x64x64] [--shares 100,80,60,40]
                               [--target onnxruntime] [--json FILE]

Cuts a network in one width factor, times it alone, run behind run, and its layers one by one: with
nothing, half and all of its own weights' bytes read between two runs of a layer. Prints what the
layers add up to as a share of the whole network. Where a network about fits into the last cache it
matters; fp32, batch 1, one thread, random weights.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

import latprune as lp
from benchmarks._result import origin, write
from benchmarks.budget import build
from latprune.latency.layer_sizes import weights
from latprune.latency.runtimes import get_runtime

if TYPE_CHECKING:
    from torch import nn

    from latprune.graph.layers import LayerShape
    from latprune.planning import Plan

MULTIPLE = 16
APART = (0.0, 0.5, 1.0)
WARMUP_RUNS, RUNS = 100, 200


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build(arguments.network).eval()
    example = torch.randn(1, *map(int, arguments.input.split("x")))
    graph, target = lp.trace(model, example), lp.Target.here(arguments.target)
    document: dict[str, Any] = origin("apart", "torch", "torchvision", arguments.target)
    document |= {"target": target.to_json(), "seed": 0, "networks": []}
    for share in map(int, arguments.shares.split(",")):
        narrow = {name: _narrowed(width, share) for name, width in graph.widths.items()}
        small = lp.cut(model, graph, _keeping(narrow))
        found = _compared(Narrow(small, list(graph.shapes_at(narrow).values())), example, target)
        document["networks"].append({"width_percent": share, **found})
        sums = ", ".join(f"{ms / found['whole_ms']:.2f}" for ms in found["layers_ms"].values())
        print(f"{share} %: {found['weights_mb']:.1f} MB, {found['whole_ms']:.2f} ms; {sums}")
        write(arguments.json, document)


@dataclass(frozen=True, eq=False)
class Narrow:
    """A network and its layers."""

    model: nn.Module
    shapes: list[LayerShape]

    @property
    def bytes(self) -> int:
        return 4 * sum(map(weights, self.shapes))


def _compared(narrow: Narrow, example: torch.Tensor, target: lp.Target) -> dict[str, Any]:
    runtime = get_runtime(target.runtime)
    clock, run = runtime.clock(target.threads), runtime.prepare(narrow.model, example, target)
    times_ms = []
    for _ in range(WARMUP_RUNS + RUNS):
        begin = clock()
        run()
        times_ms.append((clock() - begin) * 1e3)
    layers_ms = {}
    for share in APART:
        # One byte is not nothing: 0 would leave it to the other layers what is read.
        apart = max(1, int(share * narrow.bytes))
        timed = dict(runtime.time_layers(sorted(set(narrow.shapes), key=repr), target, apart=apart))
        layers_ms[str(share)] = sum(timed[shape].median_ms for shape in narrow.shapes)
    low, whole_ms, high = np.percentile(times_ms[WARMUP_RUNS:], (25, 50, 75)).tolist()
    return {
        "weights_mb": narrow.bytes / 2**20,
        "whole_ms": whole_ms,
        "whole_iqr_ms": high - low,
        "layers_ms": layers_ms,
    }


def _narrowed(width: int, percent: int) -> int:
    return max(MULTIPLE, round(width * percent / 100 / MULTIPLE) * MULTIPLE)


def _keeping(widths: dict[str, int]) -> Plan:
    kept = {name: tuple(range(width)) for name, width in widths.items()}
    return cast("Plan", SimpleNamespace(kept=kept))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--input", default="3x64x64")
    parser.add_argument("--shares", default="100,80,60,40")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
