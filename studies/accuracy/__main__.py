"""How accurate is a network at equal measured latency, by who chose its widths?

    python -m studies.accuracy score|cut|tune|check|run STUDY
                               [--seed N]... [--budget 50%]... [--only METHOD]...
    python -m studies.accuracy page STUDY

A study is a folder here: `cifar` (ResNet-56), `cifar-wide` (a ResNet-18, whose dense weights
`python -m studies.cifar_resnet18` trains first), `imagenette-lite0` (EfficientNet-Lite0),
`imagenette-resnet50` (ResNet-50).

`score` draws pictures and scores channels; `cut` gives every method's network, each fitted to its
budget on the clock; `tune` trains all of them on the same pictures and judges them; `check` times
them anew beside the dense network. `cut` and `check` want a quiet machine. `run` is all four. What
was made is kept in the study's `runs/`: an interrupted stage goes on, and `result.json` holds what
there is, rows of the same config that were made elsewhere too.
`page` writes `docs/results/STUDY.md` from it. Data and weights come from the folder that
LATPRUNE_DATA names.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import latprune as lp
from latprune.errors import BudgetTooSmall
from studies.accuracy import gradual, methods
from studies.accuracy.bench import Bench
from studies.accuracy.lessons import tune
from studies.accuracy.networks import load_network, save_network
from studies.accuracy.page import write_page
from studies.frame import Row, Rows, require_data, rows_of, write_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HERE = Path(__file__).resolve().parent
STUDIES = sorted(config.parent.name for config in HERE.glob("*/config.json"))
STAGES = ("score", "cut", "tune", "check")
WHOLE = "100%"
DENSE = "dense"


class Case(NamedTuple):
    """One row: a method's network for a budget and a seed."""

    method: str
    budget: str
    seed: int
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.method}, {self.budget}, seed {self.seed}"


def cases(config: Mapping[str, Any]) -> Iterator[Case]:
    """Give all rows, a seed of everything before the next."""
    ablated = config.get("ablations", {"seeds": []})
    for seed in config["seeds"]:
        for budget in config["budgets"]:
            for method, settings in config["methods"].items():
                yield Case(method, budget, seed, settings)
        yield Case(DENSE, WHOLE, seed, {"by": DENSE})
        if seed in ablated["seeds"]:
            for method, settings in ablated["methods"].items():
                yield Case(method, ablated["budget"], seed, settings)


class Study:
    """The stages; `folder` keeps what they make."""

    def __init__(self, config: Mapping[str, Any], folder: Path) -> None:
        self.config, self.folder = config, folder
        self.cut_rows, self.tuned_rows, self.checked_rows = (
            Rows(folder / f"{stage}.json") for stage in STAGES[1:]
        )
        self._benches: dict[int, Bench] = {}

    def bench(self, case: Case) -> Bench:
        if case.seed not in self._benches:
            self._benches[case.seed] = Bench(self.config, case.seed, self.folder)
        return self._benches[case.seed]

    def score(self, case: Case) -> None:
        bench = self.bench(case)
        if "criterion" in case.settings:
            bench.saliency(case.settings)
        len(bench.lessons)

    def cut(self, case: Case) -> None:
        self.cut_rows.keep(str(case), lambda: self._cut(case))

    def tune(self, case: Case) -> None:
        if "impossible" not in self.cut_rows.all().get(str(case), {"impossible": "not cut yet"}):
            self.tuned_rows.keep(str(case), lambda: self._tune(case))

    def check(self, case: Case) -> None:
        if str(case) in self.tuned_rows.all():
            self.checked_rows.keep(str(case), lambda: self._check(case))

    def found(self, known: Mapping[str, Row]) -> dict[str, Row]:
        """Join what the stages made of every row; those not begun here are as they are `known`."""
        parts = [rows.all() for rows in (self.cut_rows, self.tuned_rows, self.checked_rows)]
        found: dict[str, Row] = {}
        for case in cases(self.config):
            facts = {key: v for part in parts for key, v in part.get(str(case), {}).items()}
            if facts:
                about = {"method": case.method, "budget": case.budget, "seed": case.seed}
                found[str(case)] = {**about, **facts}
            elif str(case) in known:
                found[str(case)] = known[str(case)]
        return found

    def _path(self, case: Case, stage: str) -> Path:
        return self.bench(case).path(stage, case.method, case.budget)

    def _cut(self, case: Case) -> Row:
        bench = self.bench(case)
        if case.method == DENSE:
            save_network(bench.dense, self._path(case, "cut"))
            return bench.judge(bench.dense, self.config["test_images"])
        if case.settings["by"] == "reconstructed":
            of_other = bench.cut_row(case.settings["method"], case.budget)
            if "impossible" in of_other:
                return of_other
        try:
            made = methods.make(bench, case.settings, lp.Budget.parse(case.budget))
        except BudgetTooSmall as error:
            return {"impossible": str(error), "floor_share": error.floor_ms / error.budget_ms}
        save_network(made.model, self._path(case, "cut"))
        return made.facts

    def _tune(self, case: Case) -> Row:
        if case.settings["by"] == "trial":
            return self._tuned_as_chosen(case)
        bench = self.bench(case)
        model = load_network(self._path(case, "cut"))
        recipe = lp.Recipe(
            **{**self.config["recipe"], **case.settings.get("recipe", {}), "seed": case.seed}
        )
        untuned = bench.judge(model, self.config["untuned_test_images"])
        if case.settings["by"] == "gradual":
            loss, steps = gradual.train(
                model, bench, case.settings, budget=case.budget, recipe=recipe
            )
            facts = {"steps": steps}
        else:
            batch_size = self.config["batch_size"]
            loss = tune(model, bench.lessons, batch_size=batch_size, recipe=recipe)
            facts = {}
        save_network(model, self._path(case, "tuned"))
        tuned = bench.judge(model, self.config["test_images"])
        return {
            **facts,
            **{f"untuned_{metric}": value for metric, value in untuned.items()},
            "loss": loss,
            **{f"tuned_{metric}": value for metric, value in tuned.items()},
        }

    def _tuned_as_chosen(self, case: Case) -> Row:
        """Take over what tuning made of the network that was chosen: it would be the same again."""
        chosen = self.cut_rows.all()[str(case)]["network_of"]
        other = case._replace(method=chosen, settings=self.config["methods"][chosen])
        self.tune(other)
        save_network(load_network(self._path(other, "tuned")), self._path(case, "tuned"))
        return self.tuned_rows.all()[str(other)]

    def _check(self, case: Case) -> Row:
        model = load_network(self._path(case, "tuned"))
        bench = self.bench(case)
        compared = bench.compare(model, **self.config["check"])
        return {
            "comparison": compared.to_json(),
            "ratio": compared.ratio,
            "device": bench.target.device,
            "parameters": sum(p.numel() for p in model.parameters()),
        }


def run(stages: Sequence[str], wanted: argparse.Namespace) -> None:
    home = HERE / wanted.study
    config = json.loads((home / "config.json").read_text())
    study, known = Study(config, home / "runs"), rows_of(home / "result.json", config)
    for stage in stages:
        for case in cases(config):
            if (
                (not wanted.seed or case.seed in wanted.seed)
                and (not wanted.budget or case.budget in wanted.budget)
                and (not wanted.only or case.method in wanted.only)
            ):
                getattr(study, stage)(case)
                write_result(
                    home / "result.json",
                    config,
                    {"rows": study.found(known)},
                    command=f"python -m studies.accuracy run {wanted.study}",
                    libraries=["torch-pruning"],
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=(*STAGES, "run", "page"))
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seed", action="append", type=int, default=[])
    parser.add_argument("--budget", action="append", default=[], help="one in config.json")
    parser.add_argument("--only", action="append", default=[], help="a method in config.json")
    arguments = parser.parse_args()
    if arguments.stage == "page":
        if not (HERE / arguments.study / "result.json").is_file():
            raise SystemExit(f"There is no row of {arguments.study} yet: run it first.")
        write_page(HERE / arguments.study)
        return
    require_data()
    torch.set_num_threads(1)
    run(STAGES if arguments.stage == "run" else [arguments.stage], arguments)


if __name__ == "__main__":
    main()
