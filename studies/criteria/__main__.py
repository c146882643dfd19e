"""Which criterion predicts what a cut costs?

    python -m studies.criteria run  [--network NAME] [--only CRITERION]... [--budget 50%]...
    python -m studies.criteria collect
    python -m studies.criteria page

`run` measures a latency table per network, scores by every criterion on the same pictures, plans
for every budget, cuts, re-estimates batch norms, judges, and writes `result.json`. It is one
process on one thread; interrupted, it goes on where it was, and `collect` writes `result.json` from
what is there. `page` writes `docs/results/criteria.md` from `result.json`. Data and weights come
from the folder that LATPRUNE_DATA names.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import latprune as lp
from latprune.errors import BudgetTooSmall
from latprune.fitting import refine
from latprune.knapsack import uniform
from latprune.reranking import rerank
from studies.criteria.page import budgets_of, write_page
from studies.frame import Row, Rows, require_data, write_result
from studies.scoring import is_scored, score
from studies.subjects import Subject, subject

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
RUNS = HERE / "runs"
RESULT = HERE / "result.json"
UNIFORM, RANDOM = "uniform", "random"
SPREAD = 1.0  # of the logarithm of the factors that make random plans


def run(network: str, config: dict[str, Any], wanted: list[str], budgets: list[str]) -> None:
    settings = config["networks"][network]
    chosen = subject(network, settings, seed=config["seed"])
    folder = RUNS / network
    graph = lp.trace(chosen.model, chosen.example)
    target = lp.Target.here(**config["target"])
    table = lp.measure(chosen.model, graph, chosen.example, target, folder=RUNS)
    rows = Rows(folder / "judged.json")
    rows.keep("dense", lambda: {**chosen.judge(chosen.model)})
    tried = partial(_try, chosen, graph, table, rows=rows)

    def scored(criterion: str) -> lp.Saliency:
        return score(criterion, chosen, graph, settings, folder / f"{criterion}.npz").saliency

    for name in [*settings["criteria"], UNIFORM, RANDOM]:
        if wanted and name not in wanted:
            continue
        for budget in budgets or budgets_of(config, network):
            if name == UNIFORM:
                tried(scored("fisher"), budget, uniformly=True)
            elif name == RANDOM:
                for number in range(settings["random_plans"]):
                    tried(_shaken(scored("fisher"), number), budget)
            else:
                tried(scored(name), budget)


def _try(
    chosen: Subject,
    graph: lp.PruningGraph,
    table: lp.LatencyTable,
    saliency: lp.Saliency,
    budget: str,
    *,
    rows: Rows,
    uniformly: bool = False,
) -> None:
    """Plan, cut, re-estimate batch norms and judge, unless that was done."""
    name = f"{UNIFORM if uniformly else saliency.criterion} {budget}"

    def judged() -> Row:
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
            reconstruct=False,
        )
        return {
            **chosen.judge(candidate.model),
            "held_out_loss": candidate.loss,
            "predicted_ms": plan.predicted_ms,
            "baseline_ms": plan.baseline_ms,
            "widths": plan.widths,
        }

    rows.keep(name, judged)


def _shaken(saliency: lp.Saliency, number: int) -> lp.Saliency:
    """Multiply every group's worth by a random factor: plans that nobody predicts."""
    generator = np.random.default_rng(number)
    factors = np.exp(SPREAD * generator.standard_normal(len(saliency.scores)))
    scores = {
        group: factor * scores
        for factor, (group, scores) in zip(factors, saliency.scores.items(), strict=True)
    }
    return lp.Saliency(scores, criterion=f"random{number}")


def collect(config: dict[str, Any]) -> None:
    """Gather what was judged, and what every criterion predicted of every plan.

    What `result.json` says of networks that were never run in this checkout stays.
    """
    networks = json.loads(RESULT.read_text())["networks"] if RESULT.is_file() else {}
    for network, settings in config["networks"].items():
        folder = RUNS / network
        if not (folder / "judged.json").is_file():
            continue
        judged = Rows(folder / "judged.json").all()
        chosen = subject(network, settings, seed=config["seed"])
        graph = lp.trace(chosen.model, chosen.example)
        seconds = {}
        for criterion in settings["criteria"]:
            path = folder / f"{criterion}.npz"
            if not is_scored(criterion, path):
                continue
            found = score(criterion, chosen, graph, settings, path)
            seconds[criterion] = round(found.seconds, 1)
            for result in judged.values():
                if "widths" in result:
                    lost = found.saliency.lost(result["widths"])
                    result.setdefault("predicted_loss", {})[criterion] = lost
        networks[network] = {"scoring_cpu_s": seconds, "plans": judged}
    command = "python -m studies.criteria run"
    write_result(RESULT, config, {"networks": networks}, command=command)


def _chosen(wanted: str | None, config: dict[str, Any]) -> Iterator[str]:
    return (name for name in config["networks"] if wanted in (None, name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=("run", "collect", "page"))
    parser.add_argument("--network", help="a name in config.json; without it, all")
    parser.add_argument(
        "--only", action="append", help="a criterion, uniform or random", default=[]
    )
    parser.add_argument("--budget", action="append", help="one in config.json", default=[])
    arguments = parser.parse_args()
    config = json.loads((HERE / "config.json").read_text())
    if arguments.stage == "page":
        write_page(json.loads(RESULT.read_text()))
        return
    require_data()
    if arguments.stage == "collect":
        collect(config)
        return
    torch.set_num_threads(1)
    for network in _chosen(arguments.network, config):
        run(network, config, arguments.only, arguments.budget)
        collect(config)


if __name__ == "__main__":
    main()
