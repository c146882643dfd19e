"""How well is a network's latency predicted, and is its budget met, in every runtime?

    python -m benchmarks.latency [--networks resnet50,mobilenet_v2,efficientnet_b0,densenet121]
                                 [--targets onnxruntime,openvino,eager,compile]
                                 [--budgets 70%,45%] [--json FILE] [--markdown]

Per network and target: the dense network and, per budget, a network pruned to it. *Predicted* is
what the plan says before any pruned network was run (open loop): the layers' measured times and
what the dense network takes beside its own. *Measured* is the pruned network timed in turns with
the dense one. Then the closed loop, its result timed anew, as a share of the budget. Batch 1, one
thread, 224 x 224; weights are random and seeded, since they do not change the time. A target is a
runtime, or `runtime:precision`; one that this machine does not offer is listed as such. With --json
every case is written when it is done, and a second call leaves out what the file holds.

Exits 1 if a bar is missed: a median error of at most 5 % (onnxruntime, openvino) or 10 % (eager,
compile), and 0.97 to 1.00 of the budget after the closed loop.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

import latprune as lp
from benchmarks.budget import build
from latprune.fitting import AIM, refine

SEED = 0
NETWORKS = "resnet50,mobilenet_v2,efficientnet_b0,densenet121"
TARGETS = "onnxruntime,openvino,openvino:bf16,eager,compile"
MOST_ERROR = {"onnxruntime": 0.05, "openvino": 0.05, "eager": 0.10, "compile": 0.10}
LOWEST, HIGHEST = 0.97, 1.00


def main() -> int:
    arguments = _arguments()
    if arguments.markdown:
        print(markdown(_begun(arguments.json)["cases"]))
        return 0
    torch.set_num_threads(1)
    document = _begun(arguments.json)
    known = {(case["network"], case["target"]) for case in document["cases"]}
    for text in arguments.targets.split(","):
        for network in arguments.networks.split(","):
            if (network, text) not in known:
                case = run(
                    network, text, [lp.Budget.parse(b) for b in arguments.budgets.split(",")]
                )
                document["cases"].append(case)
                print(_line(case), flush=True)
                _write(arguments.json, document)
    document["summary"] = summary = _summary(document["cases"])
    _write(arguments.json, document)
    missed = [sentence for one in summary.values() for sentence in one["missed"]]
    for name, one in summary.items():
        print(f"{name}: {one['text']}")
    print("\n".join(missed) or "all bars hold")
    return 1 if missed else 0


def run(network: str, text: str, budgets: list[lp.Budget]) -> dict[str, Any]:
    name, _, precision = text.partition(":")
    case: dict[str, Any] = {"network": network, "target": text, "pruned": []}
    try:
        target = lp.Target.here(name, precision=precision or "fp32")
    except (ValueError, lp.MissingExtra) as error:
        return {**case, "not_here": str(error)}
    torch.manual_seed(SEED)
    model = build(network).eval()
    example = torch.randn(1, 3, 224, 224)
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
    graph = lp.trace(model, example)
    saliency = lp.magnitude(model, graph)
    table = lp.measure(model, graph, example, target, folder=folder)
    dense_ms = table.network(graph).median_ms
    case |= {
        "fingerprint": target.fingerprint,
        "layers": len(graph.layers),
        "measured": len(table),
        "table_s": round(time.perf_counter() - begin, 1),
        "dense_ms": table.network(graph).to_json(),
        "layers_ms": table.layers_ms(graph, graph.widths),
        "unpriced": list(graph.unpriced),
    }
    for budget in budgets:
        plan, table = refine(model, graph, example, table, saliency, budget, aim=AIM, folder=folder)
        small = lp.cut(model, graph, plan)
        compared = lp.compare(model, small, example, target, limit_s=16, openings=4)
        fitted = lp.fit(model, graph, example, table, saliency, budget, folder=folder)
        again = lp.compare(
            model, fitted.model, example, target, enough=_well_known, limit_s=32, openings=8
        )
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
                "rounds": fitted.rounds,
            }
        )
    case["seconds"] = round(time.perf_counter() - begin, 1)


def _well_known(compared: Any) -> bool:
    return bool(compared.ratio_error <= 0.002 * compared.ratio)


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


def markdown(cases: list[dict[str, Any]]) -> str:
    """The cases as the table in docs/measuring.md."""
    lines = [
        "| runtime | network | dense ms | layers ÷ dense | budget | predicted ms | measured ms "
        "| error | closed loop ÷ budget |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        dense_ms = case["dense_ms"]["median_ms"] if "dense_ms" in case else 0.0
        lines += [
            f"| {case['target']} | {case['network']} | {dense_ms:.1f} "
            f"| {case['layers_ms'] / dense_ms:.2f} | {one['budget'].replace('%', ' %')} "
            f"| {one['predicted_ms']:.2f} | {one['measured_ms']:.2f} "
            f"± {one['measured_error_ms']:.2f} | {100 * one['error']:+.1f} % "
            f"| {one['used']:.3f} |"
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
            most = MOST_ERROR[target.partition(":")[0]]
            if error > most:
                missed.append(f"{target}: median error {error:.1%}, not {most:.0%}")
            met = sum(LOWEST <= one["used"] <= HIGHEST for _, one in pruned)
            text = f"median error {error:.1%} (bar {most:.0%}), {met} of {len(pruned)} in the range"
        found[target] = {"text": text, "missed": missed}
    return found


def _begun(path: Path | None) -> dict[str, Any]:
    if path is not None and path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    return {
        "command": "python -m benchmarks.latency " + " ".join(sys.argv[1:]),
        "device": lp.Target.here("eager").device,
        "versions": {
            name: lp.Target.here(name).runtime_version
            for name in ("onnxruntime", "openvino", "eager")
        }
        | {"latprune": lp.__version__, "python": platform.python_version()},
        "seed": SEED,
        "cases": [],
    }


def _write(path: Path | None, document: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(document, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default=NETWORKS, help="names, separated by commas")
    parser.add_argument("--targets", default=TARGETS, help="separated by commas")
    parser.add_argument("--budgets", default="70%,45%", help="separated by commas")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--markdown", action="store_true", help="only show what is in --json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
