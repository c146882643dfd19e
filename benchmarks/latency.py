"""How well is a network's latency predicted, and is its budget met, in every runtime?

    python -m benchmarks.latency [--networks resnet50,mobilenet_v2,efficientnet_b0,densenet121]
                                 [--targets onnxruntime,openvino,eager,compile]
                                 [--budgets 70%,45%] [--input 3x224x224] [--batch 1]
                                 [--json FILE] [--markdown]

Per network and target: the dense network and, per budget, a network pruned to it. *Predicted* is
what the plan says before any pruned network was run (open loop): the layers' measured times and
what the dense network takes beside its own. *Measured* is the pruned network timed in turns with
the dense one. Then the closed loop: the share of the budget that its result took in it, and anew,
opened again and timed for up to 40 s more. One thread; weights are random and seeded, since they do
not change the time. A target is a runtime, or
`runtime:precision`; one that this machine does not offer is listed as such. With --json every case
is written when it is done, and a second call leaves out what the file holds, failures excepted. How
far a case is goes to stderr.

Exits 1 if a bar is missed: a median error of at most 5 % (onnxruntime, openvino) or 10 % (others),
and 0.97 to 1.00 of the budget after the closed loop, anew. On a GPU:

    python -m benchmarks.latency --networks resnet50 --targets eager-cuda:fp16,compile-cuda:fp16
                                 --budgets 55% --batch 256
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import latprune as lp
import latprune.progress
from benchmarks._result import origin, write
from benchmarks.budget import build
from latprune.fitting import AIM, refine
from latprune.latency.measuring import prepare

if TYPE_CHECKING:
    from latprune.latency.timing import Comparison

SEED = 0
NETWORKS = "resnet50,mobilenet_v2,efficientnet_b0,densenet121"
TARGETS = "onnxruntime,openvino,openvino:bf16,eager,compile"
INPUT = "3x224x224"
MOST_ERROR, MOST_ERROR_ELSEWHERE = {"onnxruntime": 0.05, "openvino": 0.05}, 0.10
LOWEST, HIGHEST = 0.97, 1.00
OPENINGS = 16  # each is off by a percent or so, and by another one than the last
QUICK_S = 2.0  # what takes longer to open, as compiling does, is opened once
TELL_S = 10.0


def main() -> int:
    arguments = _arguments()
    if arguments.markdown:
        print(markdown(_begun(arguments.json, arguments.input, arguments.batch)))
        return 0
    torch.set_num_threads(1)
    document = _begun(arguments.json, arguments.input, arguments.batch)
    document["cases"] = [case for case in document["cases"] if "error" not in case]
    known = {(case["network"], case["target"]) for case in document["cases"]}
    budgets = [lp.Budget.parse(text) for text in arguments.budgets.split(",")]
    sizes = (arguments.batch, *map(int, arguments.input.split("x")))
    for text in arguments.targets.split(","):
        for network in arguments.networks.split(","):
            if (network, text) not in known:
                case = run(network, text, budgets, sizes)
                document["cases"].append(case)
                print(_line(case), flush=True)
                write(arguments.json, document)
    document["summary"] = summary = _summary(document["cases"])
    write(arguments.json, document)
    missed = [sentence for one in summary.values() for sentence in one["missed"]]
    for name, one in summary.items():
        print(f"{name}: {one['text']}")
    print("\n".join(missed) or "all bars hold")
    return 1 if missed else 0


def run(
    network: str, text: str, budgets: list[lp.Budget], sizes: tuple[int, ...]
) -> dict[str, Any]:
    name, _, precision = text.partition(":")
    case: dict[str, Any] = {"network": network, "target": text, "pruned": []}
    try:
        target = lp.Target.here(name, precision=precision or "fp32", batch=sizes[0])
    except (ValueError, lp.MissingExtra, lp.NoCompiler, lp.NoGpu) as error:
        return {**case, "not_here": str(error)}
    torch.manual_seed(SEED)
    model = build(network).eval()
    example = torch.randn(sizes)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _fill(case, model, example, target, budgets, Path(folder))
    except Exception:  # one case must not take the others with it
        case["error"] = traceback.format_exc().splitlines()[-1]
    return case


def _fill(
    case: dict[str, Any],
    model: torch.nn.Module,
    example: torch.Tensor,
    target: lp.Target,
    budgets: list[lp.Budget],
    folder: Path,
) -> None:
    begin = time.perf_counter()
    told = Told(f"{case['target']} {case['network']}")
    graph = lp.trace(model, example)
    saliency = lp.magnitude(model, graph)
    told.stage("makes the dense network ready")
    bench = Bench(model, example, target)
    table = lp.measure(
        model, graph, example, target, folder=folder, progress=told.step, ready=bench.dense
    )
    dense_ms = table.network(graph).median_ms
    case |= {
        "on": target.to_json(),
        "fingerprint": target.fingerprint,
        "layers": len(graph.layers),
        "measured": len(table),
        "table_s": round(time.perf_counter() - begin, 1),
        "dense_ms": table.network(graph).to_json(),
        "layers_ms": table.layers_ms(graph, graph.widths),
        "unpriced": list(graph.unpriced),
    }
    for budget in budgets:
        told.stage(f"plans {budget}, measures the plan's layers")
        plan, table = refine(model, graph, example, table, saliency, budget, aim=AIM, folder=folder)
        told.stage(f"times the network planned to {budget}")
        compared = bench.compare(lp.cut(model, graph, plan), sure=0.005, limit_s=16)
        told.stage(f"closes the loop at {budget}")
        fitted = lp.fit(
            model,
            graph,
            example,
            table,
            saliency,
            budget,
            folder=folder,
            progress=told,
            ready={target: bench.dense},
        )
        told.stage(f"times the network fitted to {budget}")
        again = bench.compare(fitted.model, sure=0.002, limit_s=40)
        measured_ms = compared.ratio * dense_ms
        case["pruned"].append(
            {
                "budget": str(budget),
                "predicted_ms": plan.predicted_ms,
                "measured_ms": measured_ms,
                "measured_error_ms": compared.ratio_error * dense_ms,
                "error": plan.predicted_ms / measured_ms - 1,
                "used": budget.used(ratio=again.ratio, ms=again.small.median_ms),
                "used_in_the_loop": fitted.used,
                "ratio_error": again.ratio_error / again.ratio,
                "foreign_cores": max(compared.foreign_cores, again.foreign_cores),
                "rounds": fitted.rounds,
            }
        )
    case["seconds"] = round(time.perf_counter() - begin, 1)


class Bench:
    """Times networks beside the dense one, all opened anew where that is quick."""

    def __init__(self, model: torch.nn.Module, example: torch.Tensor, target: lp.Target) -> None:
        self._model, self._example, self._target = model, example, target
        begin = time.perf_counter()
        self.dense = prepare(model, example, target)
        self._is_quick = time.perf_counter() - begin <= QUICK_S

    def compare(self, small: torch.nn.Module, *, sure: float, limit_s: float) -> Comparison:
        """Time a network until its share of the dense time is known to `sure`, relative."""
        return lp.compare(
            self._model if self._is_quick else self.dense,
            small,
            self._example,
            self._target,
            enough=lambda found: found.ratio_error <= sure * found.ratio,
            tolerance=sure,
            limit_s=limit_s,
            openings=OPENINGS if self._is_quick else 1,
        )


class Told(lp.progress.Quiet):
    """Says on stderr how far a case is, now and then."""

    def __init__(self, case: str) -> None:
        self._case, self._begin, self._said = case, time.perf_counter(), 0.0

    def stage(self, name: str) -> None:
        self._say(name)

    def step(self, done: int, total: int | None, what: str) -> None:
        if time.perf_counter() - self._said >= TELL_S:
            self._say(f"{done} of {total}: {what}" if total else f"{done}: {what}")

    def _say(self, what: str) -> None:
        self._said = time.perf_counter()
        print(f"{self._said - self._begin:6.0f} s  {self._case}: {what}", file=sys.stderr)


def _line(case: dict[str, Any]) -> str:
    head = f"{case['target']:14} {case['network']:16}"
    if stopped := case.get("not_here") or case.get("error"):
        return f"{head} {stopped}"
    dense_ms = case["dense_ms"]["median_ms"]
    head += f" dense {dense_ms:7.2f} ms (layers {case['layers_ms'] / dense_ms:.2f} of it)"
    parts = [
        f"{one['budget']}: {one['predicted_ms']:.2f} predicted, {one['measured_ms']:.2f} measured "
        f"({one['error']:+.1%}), loop {one['used']:.3f} of the budget in {one['rounds']}"
        for one in case["pruned"]
    ]
    return "; ".join([head, *parts, f"{case['seconds']:.0f} s"])


def markdown(document: dict[str, Any]) -> str:
    """The cases as the table in docs/measuring.md."""
    lines = [
        "| runtime | network | dense ms | layers ÷ dense | budget | predicted ms | measured ms "
        "| error | closed loop ÷ budget | anew |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in document["cases"]:
        dense_ms = case["dense_ms"]["median_ms"] if "dense_ms" in case else 0.0
        lines += [
            f"| {case['target']} | {case['network']} | {dense_ms:.1f} "
            f"| {case['layers_ms'] / dense_ms:.2f} | {one['budget'].replace('%', ' %')} "
            f"| {one['predicted_ms']:.2f} | {one['measured_ms']:.2f} "
            f"± {one['measured_error_ms']:.2f} | {100 * one['error']:+.1f} % "
            f"| {one['used_in_the_loop']:.3f} | {one['used']:.3f} |"
            for one in case["pruned"]
        ]
    return "\n".join(lines)


def _summary(cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per target the median error and the share of the budgets; what of it misses a bar."""
    found = {}
    for target in dict.fromkeys(case["target"] for case in cases):
        own = [case for case in cases if case["target"] == target and "not_here" not in case]
        missed = [f"{target} {case['network']}: {case['error']}" for case in own if "error" in case]
        pruned = [(case["network"], one) for case in own for one in case["pruned"]]
        missed += [
            f"{target} {network} {one['budget']}: {one['used']:.3f} of the budget"
            for network, one in pruned
            if not LOWEST <= one["used"] <= HIGHEST
        ]
        text = "not on this machine"
        if pruned:
            error = statistics.median(abs(one["error"]) for _, one in pruned)
            most = MOST_ERROR.get(target.partition(":")[0], MOST_ERROR_ELSEWHERE)
            if error > most:
                missed.append(f"{target}: median error {error:.1%}, not {most:.0%}")
            met = sum(LOWEST <= one["used"] <= HIGHEST for _, one in pruned)
            looped = sum(LOWEST <= one["used_in_the_loop"] <= HIGHEST for _, one in pruned)
            text = (
                f"median error {error:.1%} (bar {most:.0%}); "
                f"in the range: {looped} of {len(pruned)} in the loop, {met} anew"
            )
        found[target] = {"text": text, "missed": missed}
    return found


def _begun(path: Path | None, size: str, batch: int) -> dict[str, Any]:
    if path is not None and path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        known = stored.get("input", INPUT), stored.get("batch", 1)
        if known != (size, batch):
            raise SystemExit(
                f"{path} holds cases at {known[0]}, batch {known[1]}, not at {size}, batch "
                f"{batch}: give another"
            )
        return stored
    document = origin("latency", "torch", "torchvision")
    return document | {"seed": SEED, "input": size, "batch": batch, "cases": []}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default=NETWORKS, help="names, separated by commas")
    parser.add_argument("--targets", default=TARGETS, help="separated by commas")
    parser.add_argument("--budgets", default="70%,45%", help="separated by commas")
    parser.add_argument("--input", default=INPUT, help="channels, height and width")
    parser.add_argument("--batch", type=int, default=1, help="samples per run")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--markdown", action="store_true", help="only show what is in --json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
