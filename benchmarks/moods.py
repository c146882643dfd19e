"""How far does the ratio of two networks' times wander on this machine, and with what?

    python -m benchmarks.moods [--networks efficientnet_b0,mobilenet_v2]
                               [--targets onnxruntime,openvino:bf16,eager] [--budget 45%]
                               [--windows 24] [--json FILE]

A budget in percent is a ratio of two times. Here the dense network and one planned to the budget
are opened once, and nothing is ever put elsewhere in memory; then both, a product of two matrices
that stay in the core's own cache, and a sum over 32 MB that do not, are timed in turns, in windows
of ten seconds. Per case the median of each window, how far the ratio lies apart over them, and its
correlation with the sum's time (memory and shared caches, of which other machines on the same host
take their part) and with the product's (the core's own pace). One thread, random weights.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

import latprune as lp
from benchmarks._result import origin, write
from benchmarks.budget import build
from latprune.fitting import refine
from latprune.latency.measuring import prepare
from latprune.latency.target import processor
from latprune.latency.timing import clock_for, time_interleaved

if TYPE_CHECKING:
    from latprune.latency.timing import Run

SEED = 0
WINDOW_S = 10.0
AFAR_BYTES = 32 << 20
NEAR = 256  # three matrices of this size are 0.75 MB
NAMES = ("dense", "small", "memory", "core")


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    document: dict[str, Any] = origin("moods", "torch", "torchvision", "onnxruntime", "openvino")
    document |= {"device": processor(), "seed": SEED, "window_s": WINDOW_S, "cases": []}
    for text in arguments.targets.split(","):
        for network in arguments.networks.split(","):
            calls = _networks(network, text, lp.Budget.parse(arguments.budget))
            case = {"network": network, "target": text, "budget": arguments.budget}
            case |= watched([*calls, *_yardsticks()], windows=arguments.windows)
            document["cases"].append(case)
            print(_line(case), flush=True)
            write(arguments.json, document)


def watched(calls: list[Run], *, windows: int) -> dict[str, Any]:
    """Time calls in turns, window by window, and say how far the first two's ratio lies apart."""
    clock = clock_for(1)
    medians_ms = []
    for _ in range(windows):
        samples = time_interleaved(calls, clock=clock, limit_s=WINDOW_S)
        medians_ms.append([float(np.median(times)) for times in samples])
    by_call = np.array(medians_ms).T
    return summary(by_call) | {
        "medians_ms": dict(zip(NAMES, by_call.round(4).tolist(), strict=True))
    }


def summary(by_call: np.ndarray) -> dict[str, float]:
    """Give the ratio's spread over windows, and what it goes with; an array of 4 x windows.

    The slope is how many ms the small network takes more where the dense one takes one more.
    """
    dense, small, memory, core = by_call
    ratios, saved_ms = small / dense, dense - small
    return {
        "ratio": float(np.median(ratios)),
        "least": float(ratios.min()),
        "greatest": float(ratios.max()),
        "deviation": float(ratios.std(ddof=1) / ratios.mean()),
        "saved_deviation": float(saved_ms.std(ddof=1) / saved_ms.mean()),
        "slope": float(np.polyfit(dense, small, 1)[0]),
        "with_memory": float(np.corrcoef(ratios, memory)[0, 1]),
        "with_core": float(np.corrcoef(ratios, core)[0, 1]),
        "memory_deviation": float(memory.std(ddof=1) / memory.mean()),
        "core_deviation": float(core.std(ddof=1) / core.mean()),
    }


def _networks(network: str, text: str, budget: lp.Budget) -> list[Run]:
    """Open the dense network and one that was planned to the budget."""
    name, _, precision = text.partition(":")
    target = lp.Target.here(name, precision=precision or "fp32")
    torch.manual_seed(SEED)
    model, example = build(network).eval(), torch.randn(1, 3, 224, 224)
    graph = lp.trace(model, example)
    dense = prepare(model, example, target)
    with tempfile.TemporaryDirectory() as folder:
        table = lp.measure(model, graph, example, target, folder=Path(folder), ready=dense)
        saliency = lp.magnitude(model, graph)
        plan, _ = refine(model, graph, example, table, saliency, budget, folder=Path(folder))
    small = prepare(lp.cut(model, graph, plan), example, target)
    return [cast("Run", dense), cast("Run", small)]


def _yardsticks() -> list[Run]:
    afar = np.random.default_rng(SEED).random(AFAR_BYTES // 8)
    near = torch.randn(NEAR, NEAR)

    def read() -> None:
        afar.sum()

    def multiply() -> None:
        near @ near

    return [read, multiply]


def _line(case: dict[str, Any]) -> str:
    return (
        f"{case['target']:14} {case['network']:16} ratio {case['ratio']:.3f} "
        f"({case['least']:.3f} to {case['greatest']:.3f}, deviation {case['deviation']:.1%}; "
        f"of the ms saved {case['saved_deviation']:.1%}, slope {case['slope']:.2f}); "
        f"goes with memory {case['with_memory']:+.2f} (itself {case['memory_deviation']:.1%}), "
        f"with the core {case['with_core']:+.2f} ({case['core_deviation']:.1%})"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default="efficientnet_b0,mobilenet_v2")
    parser.add_argument("--targets", default="onnxruntime,openvino:bf16,eager")
    parser.add_argument("--budget", default="45%")
    parser.add_argument("--windows", type=int, default=24, help="of ten seconds, at least 3")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
