"""Write the problems that the knapsack benchmark solves: real networks, timed on this machine.

    python -m benchmarks.knapsack.write [--steps 16,8] [--networks resnet50,resnet101,…]

Every network is traced, measured and framed as `latprune.fit` does it: ONNX Runtime, batch 1, one
thread, 224 x 224. The step `16` offers the widths that latprune itself finds by the stairs of the
layers, 64 per group at the most; they are 16 channels wide on many processors, and finer on some.
Any other step offers all its multiples, stairs or no. The layers of the plans at 80, 55 and 30 %
are measured, as `refine` does it; between them costs are interpolated.

ResNet-50 has trained weights, in the folder that LATPRUNE_DATA names, and Taylor scores from real
images. The others have random weights, on which such scores mean little: theirs are drawn from
what the scores of trained networks look like.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import torch
import torchvision
from studies.resnet50_v1 import resnet50_v1
from studies.shared_data import data_folder
from torch import nn
from torch.utils.data import DataLoader

import latprune as lp
from benchmarks.knapsack.stored import FOLDER, dense, save_problem
from latprune.framing import Framing, frame
from latprune.latency.interpolation import layer_cost
from latprune.latency.runtimes import get_runtime
from latprune.latency.staircase import options
from latprune.tasks import Preprocessing, load_weights, open_images

if TYPE_CHECKING:
    from latprune.graph.layers import LayerShape

SEED = 0
BY_STAIRS = 16
NETWORKS = "resnet50,resnet101,mobilenet_v2,efficientnet_b0,densenet121,googlenet"
SHARES = (0.80, 0.55, 0.30)
REFINEMENTS = 8
BATCHES, BATCH_SIZE = 8, 32

# Taylor scores of trained networks, between ResNet-50 and EfficientNet-Lite0: lognormal inside a
# group, around a typical score that falls with the group's channels and is lognormal itself.
POWER, BETWEEN_GROUPS, INSIDE_GROUPS = -0.57, 0.45, 0.81

Options = Mapping[str, np.ndarray]
OptionsOf = Callable[[lp.PruningGraph, lp.LatencyTable], Options]


def main() -> None:
    arguments = _arguments()
    FOLDER.mkdir(exist_ok=True)
    for name in arguments.networks.split(","):
        write_network(name, [int(step) for step in arguments.steps.split(",")])


def write_network(name: str, steps: list[int]) -> None:
    """Measure a network once, and write one problem per kind of options."""
    torch.manual_seed(SEED)
    model, example = build(name).eval(), torch.randn(1, 3, 224, 224)
    target = lp.Target.here("onnxruntime", batch=1, threads=1)
    graph = lp.trace(model, example)
    saliency, source = score(name, model, graph)
    values = {group: _value(scores) for group, scores in saliency.scores.items()}
    with tempfile.TemporaryDirectory() as folder:
        measure = functools.partial(lp.measure, model, graph, example, target, folder=Path(folder))
        for step in steps:
            begin = time.perf_counter()
            framing, table = refined(measure, graph, values, options_of(step))
            problem = framing.problem(values, budget_ms=math.inf)
            about = {
                "network": name,
                "options": "by stairs" if step == BY_STAIRS else f"every {step} channels",
                "saliency": source,
                "dense_layers_ms": dense(problem).cost_ms,
                "dense_network_ms": table.network(graph).to_json(),
                "layers_measured": len(table),
                "target": target.to_json(),
                "versions": versions(),
                "seed": SEED,
                "command": "python -m benchmarks.knapsack.write " + " ".join(sys.argv[1:]),
            }
            path = FOLDER / f"{name}-{step}.npz"
            save_problem(path, problem, about)
            print(
                f"{path.name}: {len(problem.values)} variables, {sum(problem.sizes)} options, "
                f"{len(problem.tables)} tables, {len(table)} layers measured, "
                f"{path.stat().st_size / 1e3:.0f} kB, {time.perf_counter() - begin:.0f} s",
                flush=True,
            )


def build(name: str) -> nn.Module:
    if name == "resnet50":
        return resnet50_v1()
    aside = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **aside)
    return model


def score(name: str, model: nn.Module, graph: lp.PruningGraph) -> tuple[lp.Saliency, str]:
    """Score with trained weights and real images where there are both; else draw."""
    weights = data_folder() / "weights" / f"imagenet_{name}_v1.safetensors"
    if not weights.is_file():
        source = (
            f"drawn, seed {SEED}: lognormal, sigma {INSIDE_GROUPS}, around channels^{POWER} with "
            f"sigma {BETWEEN_GROUPS}, as trained networks' Taylor scores are"
        )
        return _drawn(graph), source
    load_weights(model, weights)
    images = open_images(data_folder() / "imagenette224" / "imagenette224-s.zip")
    transform = Preprocessing(crop_pct=1.0).evaluation()
    train = images.split("train", transform=transform, labels=images.labels_for(1000))
    loader = DataLoader(train, batch_size=BATCH_SIZE, shuffle=True)
    batches = list(itertools.islice(loader, BATCHES))
    source = f"Taylor, {weights.name}, {BATCHES} batches of {BATCH_SIZE} images of Imagenette"
    return lp.taylor(model, graph, batches, lp.cross_entropy), source


def _drawn(graph: lp.PruningGraph) -> lp.Saliency:
    draw = np.random.default_rng(SEED)
    scores = {}
    for group in graph.groups:
        typical = draw.normal(POWER * math.log(group.channels), BETWEEN_GROUPS)
        scores[group.name] = draw.lognormal(typical, INSIDE_GROUPS, group.channels)
    return lp.Saliency(scores, criterion="drawn")


def refined(
    measure: Callable[..., lp.LatencyTable],
    graph: lp.PruningGraph,
    values: Mapping[str, np.ndarray],
    offer: OptionsOf,
) -> tuple[Framing, lp.LatencyTable]:
    """Plan, measure the plan's own layers, and plan again until none of them is new."""
    table = measure()
    _measure_corners(graph, offer(graph, table), table)
    for share in SHARES:
        for _ in range(REFINEMENTS):
            framing, known = _framed(graph, table, offer), len(table)
            everything = framing.problem(values, budget_ms=math.inf)
            budget_ms = share * dense(everything).cost_ms
            choice = lp.joint(framing.problem(values, budget_ms=budget_ms))
            table = measure(widths=framing.widths(choice.picks))
            if len(table) == known:
                break
    return _framed(graph, table, offer), table


def _framed(graph: lp.PruningGraph, table: lp.LatencyTable, offer: OptionsOf) -> Framing:
    return frame(graph, offer(graph, table), functools.partial(layer_cost, table))


def _measure_corners(graph: lp.PruningGraph, offered: Options, table: lp.LatencyTable) -> None:
    """Measure the corners of every layer's range, where these options are the narrower ones."""
    corners = dict.fromkeys(_corners(graph, {name: int(w[0]) for name, w in offered.items()}))
    missing = [shape for shape in corners if shape not in table]
    for shape, measurement in get_runtime(table.target.runtime).time_layers(missing, table.target):
        table.add(shape, measurement)


def _corners(graph: lp.PruningGraph, narrow: Mapping[str, int]) -> Iterator[LayerShape]:
    for layer in graph.layers:
        yield layer.shape_at(narrow)
        if not layer.groups_follow:
            ends = [
                (axis.at(narrow), axis.at(graph.widths)) for axis in (layer.reads, layer.writes)
            ]
            yield from (layer.shape_of(*corner) for corner in itertools.product(*ends))


def options_of(step: int) -> OptionsOf:
    return options if step == BY_STAIRS else functools.partial(_every, step)


def _every(step: int, graph: lp.PruningGraph, table: lp.LatencyTable) -> Options:  # noqa: ARG001
    """Offer every so many channels, whatever they cost."""
    offered = {}
    for group in graph.groups:
        pitch = math.lcm(step, group.multiple)
        offered[group.name] = np.append(np.arange(pitch, group.channels, pitch), group.channels)
    return offered


def _value(scores: np.ndarray) -> np.ndarray:
    """Give what the best 0, 1, 2, … channels are worth."""
    return np.concatenate([[0.0], np.cumsum(np.sort(scores)[::-1])])


def versions() -> dict[str, str]:
    return {
        "latprune": lp.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", default="16,8", help="of the options, separated by commas")
    parser.add_argument("--networks", default=NETWORKS, help="names, separated by commas")
    return parser.parse_args()


if __name__ == "__main__":
    main()
