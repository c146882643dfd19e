"""Does a plan made on a busy machine hold on a quiet one, and does its report say that it was busy?

    python -m benchmarks.loaded [--networks mobilenet_v2] [--budget 50%] [--busy 2] [--json FILE]

Every network is measured, planned and fitted twice, from nothing: on the machine as it is, and
beside busy processes that multiply matrices on one thread each. Then the machine is left alone, and
what was planned (open loop) and what was fitted (closed loop) is timed in turns, in sessions opened
anew four times. ONNX Runtime, batch 1, one thread, 224 x 224; weights are random and seeded, since
they do not change the time; channels are scored by magnitude.

Exits 1 if the true cost of a plan made under load is more than 5 % off that of the quiet one, if
one of the reports made under load does not say that the machine was busy, or if a quiet one does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import latprune as lp
from benchmarks._result import origin, verdict, write
from benchmarks.budget import build
from latprune.fitting import AIM, refine
from latprune.latency.comparing import Ratios, diff
from latprune.latency.foreign import BUSY_CORES, ForeignLoad
from latprune.latency.runtimes import get_runtime
from latprune.latency.timing import Comparison, clock_for, pooled, time_interleaved

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 0
FARTHEST = 0.05
OPENINGS, OPENING_S = 4, 8.0
BUSY = """
import numpy
one = numpy.random.default_rng(0).standard_normal((512, 512), dtype=numpy.float32)
print("busy", flush=True)
while True:
    one @ one
"""


def main() -> int:
    arguments = _arguments()
    torch.set_num_threads(1)
    budget = lp.Budget.parse(arguments.budget)
    target = lp.Target.here("onnxruntime").to_json()
    cases: list[dict[str, Any]] = []
    for name in arguments.networks.split(","):
        cases.append(run(name, budget, arguments.busy))
        found = {**origin("loaded", "torch"), "target": target, "seed": SEED, "cases": cases}
        write(arguments.json, found)
    return verdict([bar for case in cases for bar in case["missed"]])


@dataclass(frozen=True, eq=False)
class Made:
    """What came of a network under one load.

    Attributes:
        table: Of the closed loop.
        planned: The network as planned before any pruned one was run.
        fitted: The network after the closed loop.
        report: Of the latter, made under the same load.
        foreign_cores: That others kept busy meanwhile.
        seconds: That it took.
    """

    table: lp.LatencyTable
    planned: nn.Module
    fitted: lp.Fitted
    report: lp.Report
    foreign_cores: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            "foreign_cores": self.foreign_cores,
            "used_in_the_loop": self.fitted.used,
            "rounds": self.fitted.rounds,
            "says_busy": self.says_busy,
            "verdict": self.report.verdict,
            "foreign_cores_in_the_report": self.report.foreign_cores,
        }

    @property
    def says_busy(self) -> bool:
        return "The machine was busy" in str(self.report)


def run(name: str, budget: lp.Budget, busy: int) -> dict[str, Any]:
    torch.manual_seed(SEED)
    model, example = build(name).eval(), torch.randn(1, 3, 224, 224)
    quiet = _make(model, example, budget)
    with _busy(busy):
        loaded = _make(model, example, budget)
    compared = _in_turns([model, quiet.planned, loaded.planned], example)
    closed = _in_turns([model, quiet.fitted.model, loaded.fitted.model], example)
    layers = diff(quiet.table, loaded.table).layers
    case: dict[str, Any] = {
        "network": name,
        "budget": str(budget),
        "busy_processes": busy,
        "quiet": quiet.to_json(),
        "loaded": loaded.to_json(),
        "layers_loaded_to_quiet": Ratios.of(layers).to_json(),
        "planned": compared,
        "fitted": closed,
    }
    case["missed"] = _missed(case)
    print("\n".join(_lines(case)), flush=True)
    return case


def _make(model: nn.Module, example: torch.Tensor, budget: lp.Budget) -> Made:
    """Everything between a network and a verified small one, with nothing measured before."""
    load, begin = ForeignLoad(), time.perf_counter()
    target = lp.Target.here("onnxruntime", batch=1, threads=1)
    graph = lp.trace(model, example)
    saliency = lp.magnitude(model, graph)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = lp.measure(model, graph, example, target, folder=folder)
        plan, table = refine(model, graph, example, table, saliency, budget, aim=AIM, folder=folder)
        planned = lp.cut(model, graph, plan)
        fitted = lp.fit(model, graph, example, table, saliency, budget, folder=folder)
    report = lp.check(model, fitted.model, fitted.plan, example, graph=graph)
    seconds = time.perf_counter() - begin
    return Made(fitted.table, planned, fitted, report, load.cores(), seconds)


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Let so many other processes use what they can of the machine."""
    processes = [
        subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) for _ in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _in_turns(models: list[nn.Module], example: torch.Tensor) -> dict[str, Any]:
    """Time the dense network, one planned in quiet and one under load, opened anew every time."""
    target, runtime = lp.Target.here("onnxruntime"), get_runtime("onnxruntime")
    found: dict[str, list[Comparison]] = {"quiet": [], "loaded": [], "loaded_to_quiet": []}
    for _ in range(OPENINGS):
        runs = [runtime.prepare(model, example, target) for model in models]
        dense, quiet, loaded = time_interleaved(runs, clock=clock_for(1), limit_s=OPENING_S)
        found["quiet"].append(Comparison.of(dense, quiet))
        found["loaded"].append(Comparison.of(dense, loaded))
        found["loaded_to_quiet"].append(Comparison.of(quiet, loaded))
    return {name: pooled(timings).to_json() for name, timings in found.items()}


def _missed(case: dict[str, Any]) -> list[str]:
    missed = []
    for what in ("planned", "fitted"):
        ratio = case[what]["loaded_to_quiet"]["ratio"]
        if abs(ratio - 1) > FARTHEST:
            missed.append(
                f"{case['network']}: {what} under load it takes {ratio:.3f} of what it "
                "takes planned in quiet"
            )
    if not case["loaded"]["says_busy"]:
        missed.append(f"{case['network']}: the report does not say that it was busy")
    if case["quiet"]["says_busy"]:
        missed.append(f"{case['network']}: it was not quiet, others used the machine")
    return missed


def _lines(case: dict[str, Any]) -> list[str]:
    layers = case["layers_loaded_to_quiet"]
    return [
        f"{case['network']} to {case['budget']}, beside {case['busy_processes']} busy processes "
        f"({case['loaded']['foreign_cores']:.1f} cores; quiet {case['quiet']['foreign_cores']:.2f},"
        f" busy from {BUSY_CORES} on)",
        f"  layers take {layers['median']:.3f} of their quiet times (quartiles {layers['low']:.3f} "
        f"to {layers['high']:.3f}), all together {layers['total']:.3f}",
        *(f"  {what}: {_shares(case[what])}" for what in ("planned", "fitted")),
        f"  {case['quiet']['seconds']} s in quiet, {case['loaded']['seconds']} s under load",
        f"  the report under load: {case['loaded']['verdict']}",
    ]


def _shares(timed: dict[str, Any]) -> str:
    quiet, loaded, both = (timed[name] for name in ("quiet", "loaded", "loaded_to_quiet"))
    return (
        f"{quiet['ratio']:.2%} of dense in quiet, {loaded['ratio']:.2%} under load: "
        f"{both['ratio']:.3f} (± {both['ratio_error']:.3f}) of the quiet plan's true cost"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default="mobilenet_v2", help="names, separated by commas")
    parser.add_argument("--budget", default="50%", help="a share of the dense network's time")
    parser.add_argument("--busy", type=int, default=2, help="how many busy processes")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
