"""Train a detector, prune it to shares of its latency, tune it, and judge and time both.

    python -m studies.detection CONFIG [train] [cut] [tune] [check] [page]

Without a stage all of them run, in this order; a stage whose result lies in `runs/` beside CONFIG
is not run again, and an interrupted one goes on. `accelerate launch -m studies.detection CONFIG`
trains on several GPUs. `tune` trains the dense detector on for as long and in the same way as the
pruned ones, so that these are compared with what the time would have given that, too. `check`
wants a quiet machine; it writes `result.json` beside CONFIG, and `page` writes what that says to
`docs/results/`. Data and weights come from the folder that LATPRUNE_DATA names.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate
import onnxruntime
import torch
import torchmetrics
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import latprune as lp
from latprune.saliency import scored
from latprune.saliency.named import values_branches
from latprune.tasks import detection, load_weights
from latprune.tuning.replay import replayed
from studies import detection_page
from studies.shared_data import data_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from latprune.tasks.detection.voc import VocSplit

    Sample = tuple[Any, dict[str, Tensor]]

STAGES = ("train", "cut", "tune", "check", "page")


PAGES = Path(__file__).parents[1] / "docs" / "results"


class Shrunk(Dataset["Sample"]):
    """Pictures decoded once and made smaller, so that epochs do not decode them again."""

    def __init__(self, split: VocSplit, size: list[int], then: Callable[..., Any]):
        self._samples = [v2.Resize(size)(*sample) for sample in split]
        self._then = then

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self._then(*self._samples[index])
        return sample


@dataclass(frozen=True)
class Study:
    """A config, and what it leads to."""

    path: Path
    config: Mapping[str, Any]
    pages: Path = PAGES

    @property
    def runs(self) -> Path:
        return self.path.parent / "runs"

    @property
    def dense_file(self) -> Path:
        return self.runs / "dense.safetensors"

    @property
    def continued_file(self) -> Path:
        return self.runs / "continued.safetensors"

    def run_folder(self, budget: str) -> Path:
        return self.runs / budget.rstrip("%")

    @cached_property
    def detector(self) -> detection.Detector:
        """The dense detector, with its backbone's weights or, once there are any, its own."""
        torch.manual_seed(0)
        config, is_trained = self.config, self.dense_file.is_file()
        detector = detection.load_detector(
            config["model"],
            pretrained=config["pretrained"] and not is_trained,
            num_classes=config["num_classes"],
        )
        if is_trained:
            load_weights(detector.network, self.dense_file)
        elif config["backbone"]:
            detection.load_backbone(detector, data_folder() / config["backbone"])
        detector.network.eval()
        return detector

    @property
    def example(self) -> Tensor:
        random = torch.Generator().manual_seed(0)
        return torch.randn(1, 3, *self.detector.size, generator=random)

    @cached_property
    def graph(self) -> lp.PruningGraph:
        """The dense detector's; branches may go where they would in `latprune prune`."""
        may_go = values_branches(self.config["criterion"])
        return lp.trace(self.detector.network, self.example, branches=may_go)

    @cached_property
    def data(self) -> detection.VocData:
        config = self.config
        path = data_folder() / config["data"]  # an absolute path stays what it is
        data = detection.open_voc(path, train=config["train"], judged=config["judged"])
        print(f"{len(data.train)} pictures to train on, {len(data.judged)} to judge with")
        print(detection.told_dropped(data.dropped), flush=True)
        return data

    @cached_property
    def train(self) -> DataLoader[Any]:
        detector = self.detector
        augment = detection.training_transform(
            detector.size,
            mean=detector.mean,
            std=detector.std,
            augmentation=self.config["augmentation"],
        )
        shrink = self.config["shrink"]
        pictures: Dataset[Any] = (
            Shrunk(self.data.split(self.data.train), shrink, augment)
            if shrink
            else self.data.split(self.data.train, augment)
        )
        return DataLoader(pictures, shuffle=True, drop_last=True, **self._options)

    @cached_property
    def judge(self) -> Callable[[nn.Module], Mapping[str, float]]:
        detector = self.detector
        plain = detection.evaluation_transform(detector.size, mean=detector.mean, std=detector.std)
        pictures = self.data.split(self.data.judged, plain)
        loader: DataLoader[Any] = DataLoader(pictures, **self._options)
        return partial(detection.evaluate, loader=loader, detector=detector)

    @property
    def _options(self) -> dict[str, Any]:
        config = self.config
        return {
            "batch_size": config["batch"],
            "num_workers": config["workers"],
            "collate_fn": detection.collate,
        }


def train(study: Study) -> None:
    """Train the dense detector from its backbone's weights."""
    if study.dense_file.is_file():
        return
    begin = time.perf_counter()
    network = study.detector.network
    tuned = lp.tune(
        network,
        study.train,
        recipe=lp.Recipe(**study.config["dense"]),
        loss=study.detector.loss,
        checkpoint=study.runs / "dense-checkpoint",
        progress=_Told("dense"),
    )
    print(f"dense: {study.judge(network)}, {time.perf_counter() - begin:.0f} s", flush=True)
    if accelerate.PartialState().is_main_process:
        history = [{"epoch": e.epoch, "loss": e.loss} for e in tuned.history]
        (study.runs / "dense.json").write_text(json.dumps(history, indent=1) + "\n")
        save_file(network.state_dict(), study.dense_file)


def cut(study: Study) -> None:
    """Measure, score, plan, cut, re-estimate batch norms; the main process for all."""
    if accelerate.PartialState().is_main_process:
        network, example = study.detector.network, study.example
        target = lp.Target.here(**study.config["target"])
        graph = study.graph
        table = lp.measure(network, graph, example, target)
        place = "cuda" if torch.cuda.is_available() else "cpu"
        first = islice(replayed(study.train, seed=0).epoch(0), study.config["score_batches"])
        criterion = study.config["criterion"]
        saliency = scored(
            criterion,
            network.to(place),
            graph,
            first,
            study.detector.loss,
            distil=detection.distillation,
        )
        network.cpu()
        for budget in study.config["budgets"]:
            file = study.run_folder(budget) / "cut.safetensors"
            if not file.is_file():
                _cut_to(budget, study, graph, table, saliency, file)
    accelerate.PartialState().wait_for_everyone()


def _cut_to(
    budget: str,
    study: Study,
    graph: lp.PruningGraph,
    table: lp.LatencyTable,
    saliency: lp.Saliency,
    file: Path,
) -> None:
    network, example = study.detector.network, study.example
    fitted = lp.fit(network, graph, example, table, saliency, lp.Budget.parse(budget))
    lp.recalibrate(fitted.model, replayed(study.train, seed=0).epoch(0))
    notes = {"before_tuning": dict(study.judge(fitted.model)), "rounds": fitted.rounds}
    print(f"{budget}: {fitted.used:.3f} of the budget, gap {fitted.plan.gap:.3%}, {notes}")
    file.parent.mkdir(parents=True, exist_ok=True)
    lp.save(fitted.model, file, graph=graph, plan=fitted.plan, notes=notes)


def tune(study: Study) -> None:
    """Teach the small detectors what the dense one sees, and the dense one itself as long."""
    network = study.detector.network
    graph = study.graph
    for budget in study.config["budgets"]:
        source = study.run_folder(budget) / "cut.safetensors"
        done = source.with_name("tuned.safetensors")
        if done.is_file():
            continue
        small = lp.load(source, network)
        history = _tuned(study, small, source.with_name("checkpoint"), what=budget)
        notes = {**lp.load_notes(source), "history": history}
        if accelerate.PartialState().is_main_process:
            lp.save(small, done, graph=graph, plan=lp.load_plan(source), notes=notes)
    if not study.continued_file.is_file():
        longer = copy.deepcopy(network)
        _tuned(study, longer, study.runs / "continued-checkpoint", what="dense, continued")
        if accelerate.PartialState().is_main_process:
            save_file(longer.state_dict(), study.continued_file)


def _tuned(study: Study, pupil: nn.Module, kept: Path, *, what: str) -> list[dict[str, float]]:
    """Tune a detector with the dense one as teacher; give every epoch's loss."""
    tuned = lp.tune(
        pupil,
        study.train,
        recipe=lp.Recipe(**study.config["tuned"]),
        teacher=study.detector.network,
        loss=study.detector.loss,
        distil=detection.distillation,
        checkpoint=kept,
        progress=_Told(what),
    )
    return [{"epoch": e.epoch, "loss": e.loss} for e in tuned.history]


def check(study: Study) -> None:
    """Time and judge the tuned detectors beside the dense one, and keep what came out."""
    if not accelerate.PartialState().is_main_process:
        return
    network = study.detector.network
    graph = study.graph
    cases = {}
    for budget in study.config["budgets"]:
        source = study.run_folder(budget) / "tuned.safetensors"
        small, plan = lp.load(source, network), lp.load_plan(source)
        report = lp.check(network, small, plan, study.example, graph=graph, evaluate=study.judge)
        print(report, flush=True)
        cases[budget] = {**lp.load_notes(source), "report": report.to_json()}
    longer = copy.deepcopy(network)
    load_weights(longer, study.continued_file)
    document = {
        "command": f"python -m studies.detection {'/'.join(study.path.parts[-3:])}",
        "config": study.config,
        "dropped": detection.told_dropped(study.data.dropped),
        "pictures": {"train": len(study.data.train), "judged": len(study.data.judged)},
        "versions": {
            "latprune": lp.__version__,
            "python": platform.python_version(),
            **{m.__name__: m.__version__ for m in (torch, torchvision, torchmetrics, onnxruntime)},
        },
        "dense": json.loads((study.runs / "dense.json").read_text()),
        "continued": study.judge(longer),
        "cases": cases,
    }
    (study.path.parent / "result.json").write_text(json.dumps(document, indent=1) + "\n")


def page(study: Study) -> None:
    """Write what came out, if it did, to `docs/results/`."""
    result = study.path.parent / "result.json"
    if accelerate.PartialState().is_main_process and result.is_file():
        name = study.path.parent.name
        written = study.pages / f"{name}.md"
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(detection_page.page(name, json.loads(result.read_text())))
        print(f"{written} is written")


class _Told:
    """Prints where tuning stands, twice a minute."""

    def __init__(self, what: str) -> None:
        self._what, self._last = what, 0.0

    def __call__(self, at: Any) -> None:
        if time.perf_counter() - self._last > 30:
            self._last = time.perf_counter()
            print(f"{self._what}: {at}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path)
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], help="by default all")
    parser.add_argument("--pages", type=Path, default=PAGES, help="where the page goes")
    asked = parser.parse_args(arguments)
    path = asked.config.resolve()
    study = Study(path, json.loads(path.read_text()), asked.pages)
    study.runs.mkdir(exist_ok=True)
    for stage in asked.stages or STAGES:
        {"train": train, "cut": cut, "tune": tune, "check": check, "page": page}[stage](study)


if __name__ == "__main__":
    main()
