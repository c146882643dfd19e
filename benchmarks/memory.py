"""What does it cost PyTorch on a CPU that memory is given back and had anew in every run?

    python -m benchmarks.memory [--networks mobilenet_v2,efficientnet_b0,resnet50] [--processes 5]
                                [--json FILE]

Times networks in eager mode (fp32, batch 1, one thread, 224 x 224, random weights), in processes
that run in turns: one with the allocator as it comes, one that keeps its memory as `latprune` does
when it times. Per network and kind the median over processes of the median and of the interquartile
range of 60 runs, how far the processes' medians lie apart, and how many pages a run faults.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._result import origin, write
from benchmarks.budget import build
from latprune.latency.memory import keep_memory
from latprune.latency.target import processor

KINDS = {"as it comes": "", "kept": "--keep"}
WARMUP_RUNS, RUNS = 10, 60


def main() -> None:
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(one(arguments.one, keeps=arguments.keep)))
        return
    document: dict[str, Any] = origin("memory", "torch", "torchvision")
    document |= {"device": processor(), "runs": RUNS, "networks": {}}
    for network in arguments.networks.split(","):
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(arguments.processes):
            for kind, option in KINDS.items():
                found[kind].append(_in_a_process(network, option))
        document["networks"][network] = {kind: _summary(of) for kind, of in found.items()}
        print(_line(network, document["networks"][network]), flush=True)
        write(arguments.json, document)


def one(network: str, *, keeps: bool) -> dict[str, float]:
    """Time a network in this process."""
    torch.set_num_threads(1)
    if keeps and not keep_memory():
        raise SystemExit("this allocator cannot be told to keep its memory")
    torch.manual_seed(0)
    model, example = build(network).eval(), torch.randn(1, 3, 224, 224)
    times_ms: list[float] = []
    with torch.inference_mode():
        for _ in range(WARMUP_RUNS):
            model(example)
        faults = _faults()
        for _ in range(RUNS):
            begin = time.thread_time()
            model(example)
            times_ms.append((time.thread_time() - begin) * 1e3)
    low, median, high = np.percentile(times_ms, (25, 50, 75)).tolist()
    return {"median_ms": median, "iqr_ms": high - low, "faults": (_faults() - faults) / RUNS}


def _in_a_process(network: str, option: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", "--one", network, *option.split()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _summary(found: list[dict[str, float]]) -> dict[str, float]:
    medians_ms = [one["median_ms"] for one in found]
    return {
        "median_ms": statistics.median(medians_ms),
        "iqr_ms": statistics.median(one["iqr_ms"] for one in found),
        "least_ms": min(medians_ms),
        "greatest_ms": max(medians_ms),
        "faults": statistics.median(one["faults"] for one in found),
    }


def _line(network: str, kinds: dict[str, dict[str, float]]) -> str:
    parts = [
        f"{kind} {of['median_ms']:.1f} ms ({of['least_ms']:.1f} to {of['greatest_ms']:.1f}), "
        f"interquartile range {of['iqr_ms'] / of['median_ms']:.0%}, {of['faults']:.0f} faults"
        for kind, of in kinds.items()
    ]
    return f"{network}: " + "; ".join(parts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default="mobilenet_v2,efficientnet_b0,resnet50")
    parser.add_argument("--processes", type=int, default=5, help="of each kind")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--one", metavar="NETWORK", help="time this one, in this process")
    parser.add_argument("--keep", action="store_true", help="with --one: keep memory")
    return parser.parse_args()


if __name__ == "__main__":
    main()
