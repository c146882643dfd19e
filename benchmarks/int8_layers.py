"""Do layers in int8 run their network's kernels, and what do they add up to beside it?

    python -m benchmarks.int8_layers [--networks resnet50,mobilenet_v2] [--rounds 3] [--json FILE]

In OpenVINO, where kernels depend on what a layer reads and who reads it. Counts the network's
convolutions whose kernel its layers, one by one, run as well. Times the network, run behind run,
and the layers, as their neighbours make them and, beside that, as if nothing were known of
neighbours: what is read lies on both sides of zero, and no depthwise convolution follows. Prints
the sums as shares of the whole network, round by round; operators without weights are no part of
them. int8, batch 1, one thread, random weights.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import latprune as lp
from benchmarks._result import origin, write
from benchmarks.budget import build
from latprune.latency.layer_sizes import BYTES_PER_WEIGHT, weights
from latprune.latency.openvino_int8 import in_int8, runs_of
from latprune.latency.profiled import kernels_inside
from latprune.latency.runtimes import get_runtime
from latprune.latency.runtimes.openvino import RUNTIME, ProfiledRequest

if TYPE_CHECKING:
    from latprune.graph.layers import LayerShape

WARMUP_RUNS, RUNS = 50, 200


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    target = lp.Target.here("openvino", precision="int8")
    document: dict[str, Any] = origin("int8_layers", "torch", "torchvision", "openvino", "nncf")
    document |= {"target": target.to_json(), "seed": 0, "networks": []}
    for name in arguments.networks.split(","):
        torch.manual_seed(0)
        model, example = build(name).eval(), torch.randn(1, 3, 224, 224)
        shapes = [layer.shape for layer in lp.trace(model, example).layers]
        shapes = [shape for shape in shapes if shape.has_weights]
        found = {"network": name, **_kernels(model, example, shapes, target)}
        print("{network}: {alike} of {convolutions} kernels are the network's".format(**found))
        found["rounds"] = []
        document["networks"].append(found)
        runtime = get_runtime(target.runtime)
        clock, run = runtime.clock(target.threads), runtime.prepare(model, example, target)
        for _ in range(arguments.rounds):
            times_ms = []
            for _ in range(WARMUP_RUNS + RUNS):
                begin = clock()
                run()
                times_ms.append((clock() - begin) * 1e3)
            low, whole_ms, high = np.percentile(times_ms[WARMUP_RUNS:], (25, 50, 75)).tolist()
            known_ms, unknown_ms = _sums(shapes, target)
            found["rounds"].append(
                {
                    "whole_ms": whole_ms,
                    "whole_iqr_ms": high - low,
                    "layers_ms": known_ms,
                    "layers_by_themselves_ms": unknown_ms,
                }
            )
            print(
                f"{name}: {whole_ms:.2f} ms; layers {known_ms / whole_ms:.2f} of it, "
                f"{unknown_ms / whole_ms:.2f} if neighbours were not known",
                flush=True,
            )
            write(arguments.json, document)


def _kernels(
    model: torch.nn.Module, example: torch.Tensor, shapes: list[LayerShape], target: lp.Target
) -> dict[str, Any]:
    """Compare the kernels of convolutions alone with those of the network, by their names."""
    read = RUNTIME.read_network(model, example)
    quantised = in_int8(read, runs_of(read, [example]), correct=False)
    whole = Counter(_convolutions(RUNTIME.open_request(quantised, target)).values())
    alone: Counter[str] = Counter()
    for shape, count in Counter(shape for shape in shapes if shape.kind == "conv").items():
        layer = ProfiledRequest(shape, target=target)
        layer.run()
        profile, names = layer.profile(), _convolutions(layer._request)
        (own,) = {profile.names[place] for place in kernels_inside(profile)} & names.keys()
        alone[names[own]] += count
    alike = (whole & alone).total()
    return {"convolutions": whole.total(), "alike": alike, "whole": whole, "alone": alone}


def _convolutions(request: Any) -> dict[str, str]:
    """Name the kernel of every convolution."""
    operators = request.get_compiled_model().get_runtime_model().get_ops()
    notes = {operator.friendly_name: operator.get_rt_info() for operator in operators}
    return {
        name: str(note["primitiveType"].value)
        for name, note in notes.items()
        if note["layerType"].value == "Convolution"
    }


def _sums(shapes: list[LayerShape], target: lp.Target) -> tuple[float, float]:
    """Add up layers as their neighbours make them, and as if nothing were known of these."""
    apart = int(0.5 * BYTES_PER_WEIGHT[target.precision] * sum(map(weights, shapes)))
    both = dict.fromkeys([*shapes, *(shape.by_itself for shape in shapes)])
    timed = dict(get_runtime(target.runtime).time_layers(list(both), target, apart=apart))
    known_ms = sum(timed[shape].median_ms for shape in shapes)
    return known_ms, sum(timed[shape.by_itself].median_ms for shape in shapes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--networks", default="resnet50,mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
