"""What reconstructing the layers of cut networks does to accuracy before any tuning.

    python -m benchmarks.reconstruction [--case NAME] [--budget 50%] ...

Published networks are planned by the default's scores, whole branches allowed to go, and cut; their
batch norms are re-estimated, with and without their layers reconstructed before, and both are
judged on test pictures. Latencies are those predicted. Results go to `benchmarks/results/`, as
`reconstruction.json`; what is there already is kept. Data and weights come from the folder that
LATPRUNE_DATA names.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.subjects import Subject, subject

import latprune as lp
from benchmarks._result import origin
from benchmarks.branches import CASES
from latprune.saliency import scored
from latprune.tuning import distillation

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results" / "reconstruction.json"
CRITERION = "relative_gauss_newton"


def compare(case: str, budgets: Sequence[str]) -> None:
    """Judge the networks of every budget as they were cut, and reconstructed."""
    name, settings = CASES[case]
    found = subject(name, settings, seed=0)
    model, example = found.model, found.example
    graph = lp.trace(model, example, branches=True)
    target = lp.Target.here(runtime="onnxruntime")
    table = lp.measure(model, graph, example, target)
    saliency = scored(CRITERION, model, graph, found.scoring, lp.cross_entropy, distil=distillation)
    made = origin("reconstruction", "torch", "timm", "onnxruntime") | {"target": target.describe()}
    keep(case, "dense", found.judge(model) | made)
    for budget in budgets:
        plan = lp.plan(graph, table, saliency, lp.Budget.parse(budget))
        small = lp.cut(model, graph, plan)
        facts = judged(found, small)
        keep(case, f"{budget}, as cut", facts)
        small, begin = lp.cut(model, graph, plan), time.process_time()
        lp.reconstruct(small, model, graph, plan, found.scoring)
        seconds = time.process_time() - begin
        keep(case, f"{budget}, reconstructed", judged(found, small) | {"cpu_s": seconds})


def judged(found: Subject, small: Any) -> dict[str, float]:
    """Re-estimate a network's batch norms, and judge it."""
    lp.recalibrate(small, found.calibration)
    return found.judge(small)


def keep(case: str, row: str, facts: dict[str, Any]) -> None:
    """Write a row to the results."""
    document = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in facts.items()}
    document.setdefault(case, {})[row] = rounded
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(case, row, rounded, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--budget", action="append")
    asked = parser.parse_args()
    for case in asked.case or CASES:
        compare(case, asked.budget or ["70%", "50%", "30%"])


if __name__ == "__main__":
    main()
