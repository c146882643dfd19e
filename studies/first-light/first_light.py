"""Pretrained networks, pruned to a share of their latency in ONNX Runtime and tuned shortly.

    python studies/first-light/first_light.py cut  [--case NAME] [--budget 70%]
    python studies/first-light/first_light.py tune [--case NAME] [--budget 70%]
    python studies/first-light/first_light.py check [--case NAME] [--budget 70%]
    python studies/first-light/first_light.py table

`cut` measures, scores, plans and cuts; `tune` trains, and goes on where it was interrupted; `check`
times dense and pruned networks anew, judges them and writes `result.json`; `table` prints
`result.json` as the table of README.md. The first and the third want a quiet machine, the second
an hour or two. Data and weights come from the folder that LATPRUNE_DATA names.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studies.cifar_resnet import resnet56
from studies.resnet50_v1 import resnet50_v1
from studies.shared_data import Cifar10, data_folder

import latprune as lp
from latprune.tasks import Preprocessing, evaluate, load_weights, open_images, preprocessing_for
from latprune.tuning.replay import replayed

HERE = Path(__file__).resolve().parent
RUNS = HERE / "runs"
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """One network and budget, with all that the stages need."""

    name: str
    budget: str
    model: nn.Module
    example: torch.Tensor
    train: DataLoader[Any]
    judge: Callable[[nn.Module], Metrics]
    recipe: lp.Recipe
    target: lp.Target
    score_batches: int
    tuning_images: int

    @property
    def folder(self) -> Path:
        return RUNS / f"{self.name}-{self.budget.rstrip('%')}"


def cut(case: Case) -> None:
    """Measure, score, plan, cut, re-estimate batch norms; judge before tuning."""
    begin = time.perf_counter()
    graph = lp.trace(case.model, case.example)
    table = lp.measure(case.model, graph, case.example, case.target)
    first = list(_first(case.train, case.score_batches, seed=case.recipe.seed))
    saliency = lp.taylor(case.model, graph, first, lp.cross_entropy)
    budget = lp.Budget.parse(case.budget)
    fitted = lp.fit(case.model, graph, case.example, table, saliency, budget)
    print(f"{case.folder.name}: {fitted.used:.3f} of the budget, gap {fitted.plan.gap:.3%}")
    lp.recalibrate(fitted.model, replayed(case.train, seed=case.recipe.seed).epoch(0))
    notes = {
        "before_tuning": dict(case.judge(fitted.model)),
        "rounds": fitted.rounds,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    print(f"{case.folder.name}: {notes}", flush=True)
    plan = fitted.plan
    lp.save(fitted.model, case.folder / "cut.safetensors", graph=graph, plan=plan, notes=notes)


def tune(case: Case) -> None:
    """Teach the small network what the dense one answers."""
    begin = time.perf_counter()
    source = case.folder / "cut.safetensors"
    small = lp.load(source, case.model)
    told = [0.0]

    def progress(at: Any) -> None:
        if time.perf_counter() - told[0] > 30:
            told[0] = time.perf_counter()
            print(f"{case.folder.name}: {at}", flush=True)

    tuned = lp.tune(
        small,
        _part(case.train, case.tuning_images),
        recipe=case.recipe,
        teacher=case.model,
        checkpoint=case.folder / "checkpoint",
        progress=progress,
    )
    notes = {
        **lp.load_notes(source),
        "history": [{"epoch": e.epoch, "loss": e.loss} for e in tuned.history],
        "tuning_seconds": round(time.perf_counter() - begin, 1),
    }
    graph = lp.trace(case.model, case.example)
    plan = lp.load_plan(source)
    lp.save(small, case.folder / "tuned.safetensors", graph=graph, plan=plan, notes=notes)


def check(case: Case) -> None:
    """Time and judge the tuned network beside the dense one, and keep what came out."""
    source = case.folder / "tuned.safetensors"
    small = lp.load(source, case.model)
    graph = lp.trace(case.model, case.example)
    report = lp.check(
        case.model, small, lp.load_plan(source), case.example, graph=graph, evaluate=case.judge
    )
    print(report)
    path = HERE / "result.json"
    document = json.loads(path.read_text()) if path.is_file() else {"cases": {}}
    document["command"] = "python studies/first-light/first_light.py cut|tune|check"
    document["target"] = case.target.to_json()
    document["versions"] = {
        "latprune": lp.__version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    document["config"] = _config()
    document["cases"][case.folder.name] = {**lp.load_notes(source), "report": report.to_json()}
    path.write_text(json.dumps(document, indent=1) + "\n")


def table() -> None:
    """Print the results as the table of README.md."""
    cases = json.loads((HERE / "result.json").read_text())["cases"]
    head = ["network", "budget", "dense ms", "pruned ms", "÷ budget", "speed-up", "gap"]
    rows = [[*head, "MACs", "top-1 dense", "cut", "tuned", "10-way dense", "cut", "tuned"]]
    for name, case in cases.items():
        report = case["report"]
        dense, small = report["dense"], report["small"]
        stages = (dense["accuracy"], case["before_tuning"], small["accuracy"])
        rows.append(
            [
                name.rpartition("-")[0],
                f"{100 * report['budget']['fraction']:.0f} %",
                f"{dense['median_ms']:.2f} ± {dense['iqr_ms'] / 2:.2f}",
                f"{small['median_ms']:.2f} ± {small['iqr_ms'] / 2:.2f}",
                f"{report['used']:.3f}",
                f"{report['speedup']:.2f}x",
                f"{report['gap']:.3%}",
                f"{small['macs'] / dense['macs']:.0%}",
                *(f"{100 * stage['top1']:.2f}" for stage in stages),
                *(
                    f"{100 * stage['top1_restricted']:.2f}" if "top1_restricted" in stage else "–"
                    for stage in stages
                ),
            ]
        )
    rows.insert(1, ["---"] * len(rows[0]))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


def cases(name: str | None, budget: str | None) -> Iterator[Case]:
    config = _config()
    for case, settings in config["cases"].items():
        if name not in (None, case):
            continue
        model, example, train, judge = DATA[settings["network"]](settings["batch_size"])
        for wanted in settings["budgets"]:
            if budget in (None, wanted):
                yield Case(
                    name=case,
                    budget=wanted,
                    model=model,
                    example=example,
                    train=train,
                    judge=judge,
                    recipe=lp.Recipe(**settings["recipe"], seed=config["seed"]),
                    target=lp.Target.here(**config["target"]),
                    score_batches=config["score_batches"],
                    tuning_images=settings["tuning_images"],
                )


Parts = tuple[nn.Module, torch.Tensor, DataLoader[Any], Callable[[nn.Module], Metrics]]


def _imagenette(model: nn.Module, weights: str, prepared: Preprocessing, batch: int) -> Parts:
    load_weights(model, data_folder() / "weights" / weights)
    images = open_images(data_folder() / "imagenette224" / "imagenette224-s.zip")
    labels = images.labels_for(1000)
    train = images.split("train", transform=prepared.training(scale=(0.35, 1.0)), labels=labels)
    test = images.split("test", transform=prepared.evaluation(), labels=labels)
    loader = DataLoader(test, batch_size=50)
    return (
        model.eval(),
        torch.randn(1, 3, 224, 224),
        DataLoader(train, batch_size=batch, shuffle=True, drop_last=True),
        lambda network: evaluate(network, loader, classes=labels),
    )


def _lite0(batch: int) -> Parts:
    model = timm.create_model("tf_efficientnet_lite0")
    own = preprocessing_for("timm:tf_efficientnet_lite0", model)
    # the pictures already have the network's size
    prepared = Preprocessing(mean=own.mean, std=own.std, crop_pct=1.0, interpolation="bicubic")
    return _imagenette(model, "imagenet_tf_efficientnet_lite0.safetensors", prepared, batch)


def _resnet50(batch: int) -> Parts:
    prepared = Preprocessing(crop_pct=1.0)
    return _imagenette(resnet50_v1(), "imagenet_resnet50_v1.safetensors", prepared, batch)


def _resnet56(batch: int) -> Parts:
    model = resnet56()
    load_weights(model, data_folder() / "weights" / "cifar10_resnet56.safetensors")
    test = DataLoader(Cifar10("test"), batch_size=500)
    return (
        model.eval(),
        torch.randn(1, 3, 32, 32),
        DataLoader(Cifar10("train", augment=True), batch_size=batch, shuffle=True, drop_last=True),
        lambda network: evaluate(network, test),
    )


DATA: Mapping[str, Callable[[int], Parts]] = {
    "tf_efficientnet_lite0": _lite0,
    "resnet50_v1": _resnet50,
    "cifar_resnet56": _resnet56,
}


def _part(loader: DataLoader[Any], images: int) -> DataLoader[Any]:
    """Keep a random part of a loader's pictures, always the same."""
    order = torch.randperm(len(loader.dataset), generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    part = Subset(loader.dataset, order[:images].tolist())
    return DataLoader(part, batch_size=loader.batch_size, shuffle=True, drop_last=True)


def _first(loader: DataLoader[Any], count: int, *, seed: int) -> Iterator[Any]:
    for index, batch in enumerate(replayed(loader, seed=seed).epoch(0)):
        if index == count:
            break
        yield batch


def _config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((HERE / "config.json").read_text())
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=("cut", "tune", "check", "table"))
    parser.add_argument("--case", help="a name in config.json; without it, all")
    parser.add_argument("--budget", help="one of the case's; without it, all")
    arguments = parser.parse_args()
    if arguments.stage == "table":
        table()
        return
    stage = {"cut": cut, "tune": tune, "check": check}[arguments.stage]
    for case in cases(arguments.case, arguments.budget):
        stage(case)


if __name__ == "__main__":
    main()
