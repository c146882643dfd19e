"""Which criterion predicts what a cut costs?

    python -m studies.criteria run  [--network NAME]
    python -m studies.criteria page

`run` measures a latency table per network, scores by every criterion on the same pictures, plans
for every budget, cuts, re-estimates batch norms, judges, and writes `result.json`. It is one
process on one thread; interrupted, it goes on where it was. `page` writes
`docs/results/criteria.md` from `result.json`. Data and weights come from the folder that
LATPRUNE_DATA names.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import timm
import torch

import latprune as lp
from latprune.errors import BudgetTooSmall
from latprune.fitting import refine
from latprune.knapsack import uniform
from latprune.reranking import rerank
from studies.criteria.page import write_page
from studies.criteria.scoring import score
from studies.criteria.subjects import Subject, subject

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
RUNS = HERE / "runs"
SPREAD = 1.0  # of the logarithm of the factors that make random plans


def run(network: str, config: dict[str, Any]) -> None:
    settings = config["networks"][network]
    chosen = subject(network, settings, seed=config["seed"])
    folder = RUNS / network
    graph = lp.trace(chosen.model, chosen.example)
    target = lp.Target.here(**config["target"])
    table = lp.measure(chosen.model, graph, chosen.example, target, folder=RUNS)
    _keep(folder / "judged.json", "dense", lambda: chosen.judge(chosen.model))
    saliencies = {}
    for criterion in settings["criteria"]:
        found = score(criterion, chosen, graph, settings, folder / f"{criterion}.npz")
        saliencies[criterion] = found.saliency
        _say(f"{network}: {criterion} took {found.seconds:.0f} s of CPU")
        for budget in config["budgets"]:
            _try(chosen, graph, table, found.saliency, budget, folder)
    for budget in config["budgets"]:
        _try(chosen, graph, table, saliencies["fisher"], budget, folder, uniformly=True)
        for number in range(settings["random_plans"]):
            _try(chosen, graph, table, _shaken(saliencies["fisher"], number), budget, folder)


def _try(
    chosen: Subject,
    graph: lp.PruningGraph,
    table: lp.LatencyTable,
    saliency: lp.Saliency,
    budget: str,
    folder: Path,
    *,
    uniformly: bool = False,
) -> None:
    """Plan, cut, re-estimate batch norms and judge, unless that was done."""
    name = f"{'uniform' if uniformly else saliency.criterion} {budget}"

    def judged() -> dict[str, Any]:
        solver = uniform if uniformly else lp.joint
        asked = lp.Budget.parse(budget)
        try:
            plan, _ = refine(
                chosen.model, graph, chosen.example, table, saliency, asked, solver=solver,
                folder=RUNS,
            )  # fmt: skip
        except BudgetTooSmall as error:
            return {"impossible": str(error)}
        (candidate,) = rerank(
            chosen.model,
            graph,
            [plan],
            calibration=chosen.calibration,
            held_out=chosen.held_out,
            images=len(chosen.calibration.dataset),  # type: ignore[arg-type]
        )
        return {
            **chosen.judge(candidate.model),
            "held_out_loss": candidate.loss,
            "predicted_ms": plan.predicted_ms,
            "baseline_ms": plan.baseline_ms,
            "widths": plan.widths,
        }

    _keep(folder / "judged.json", name, judged)


def _shaken(saliency: lp.Saliency, number: int) -> lp.Saliency:
    """Multiply every group's worth by a random factor: plans that nobody predicts."""
    generator = np.random.default_rng(number)
    factors = np.exp(SPREAD * generator.standard_normal(len(saliency.scores)))
    scores = {
        group: factor * scores
        for factor, (group, scores) in zip(factors, saliency.scores.items(), strict=True)
    }
    return lp.Saliency(scores, criterion=f"random{number}")


def _keep(path: Path, name: str, make: Any) -> None:
    """Add a result to a file, unless it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.is_file() else {}
    if name in known:
        return
    begin = time.process_time()
    known[name] = make()
    _say(
        f"{path.parent.name}: {name}: {_short(known[name])} in {time.process_time() - begin:.0f} s"
    )
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(known) + "\n")
    unfinished.replace(path)


def _short(result: dict[str, Any]) -> dict[str, Any]:
    return {name: round(v, 4) for name, v in result.items() if isinstance(v, float)}


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def collect(config: dict[str, Any]) -> None:
    """Gather what was judged, and what every criterion predicted of every plan."""
    networks = {}
    for network, settings in config["networks"].items():
        folder = RUNS / network
        if not (folder / "judged.json").is_file():
            continue
        judged = json.loads((folder / "judged.json").read_text())
        chosen = subject(network, settings, seed=config["seed"])
        graph = lp.trace(chosen.model, chosen.example)
        seconds = {}
        for criterion in settings["criteria"]:
            if not (folder / f"{criterion}.npz").is_file():
                continue
            found = score(criterion, chosen, graph, settings, folder / f"{criterion}.npz")
            seconds[criterion] = round(found.seconds, 1)
            for result in judged.values():
                if "widths" in result:
                    lost = found.saliency.lost(result["widths"])
                    result.setdefault("predicted_loss", {})[criterion] = lost
        networks[network] = {"scoring_cpu_s": seconds, "plans": judged}
    document = {
        "command": "python -m studies.criteria run",
        "target": lp.Target.here(**config["target"]).to_json(),
        "versions": {
            "latprune": lp.__version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
        "config": config,
        "networks": networks,
    }
    (HERE / "result.json").write_text(json.dumps(document, indent=1) + "\n")


def _chosen(wanted: str | None, config: dict[str, Any]) -> Iterator[str]:
    return (name for name in config["networks"] if wanted in (None, name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=("run", "page"))
    parser.add_argument("--network", help="a name in config.json; without it, all")
    arguments = parser.parse_args()
    config = json.loads((HERE / "config.json").read_text())
    if arguments.stage == "page":
        write_page(json.loads((HERE / "result.json").read_text()))
        return
    torch.set_num_threads(1)
    for network in _chosen(arguments.network, config):
        run(network, config)
        collect(config)


if __name__ == "__main__":
    main()
