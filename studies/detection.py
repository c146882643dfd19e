"""Train a detector, prune it to shares of its latency, tune it, and judge and time both.

    python -m studies.detection CONFIG [train] [cut] [tune] [check] [page]

Without a stage all of them run, in this order; what lies in `runs/` beside CONFIG is not made
again, and an interrupted stage goes on. `accelerate launch -m studies.detection CONFIG` trains on
several GPUs. There is one small detector per criterion, budget and seed, which draws the pictures
that score and tune, and their order; the dense one is trained once. `tune` trains the dense
detector on for as long and in the same way as the pruned ones, with every seed, so that these are
compared with what the time would have given that, too. `check` wants a quiet machine; it writes
`result.json` beside CONFIG, and `page` writes what that says to `docs/results/`. Data and weights
come from the folder that LATPRUNE_DATA names.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice, product
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
    from collections.abc import Callable, Iterator, Mapping, Sequence

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
class Case:
    """A small detector of a study.

    Attributes:
        criterion: By what it was scored.
        budget: What it may take.
        seed: Of the pictures that score and tune, and their order.
        folder: Of its files.
    """

    criterion: str
    budget: str
    seed: int
    folder: Path

    @property
    def cut(self) -> Path:
        return self.folder / "cut.safetensors"

    @property
    def tuned(self) -> Path:
        return self.folder / "tuned.safetensors"

    def __str__(self) -> str:
        return f"{self.criterion}, {self.budget}, seed {self.seed}"


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

    def seed_folder(self, seed: int) -> Path:
        return self.runs / f"seed{seed}"

    def continued_file(self, seed: int) -> Path:
        return self.seed_folder(seed) / "continued.safetensors"

    @property
    def cases(self) -> Iterator[Case]:
        """Give the small detectors, those of a seed and criterion together."""
        config = self.config
        for seed, criterion, budget in product(
            config["seeds"], config["criteria"], config["budgets"]
        ):
            folder = self.seed_folder(seed) / criterion / budget.rstrip("%")
            yield Case(criterion, budget, seed, folder)

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

    def graph(self, criterion: str) -> lp.PruningGraph:
        """The dense detector's; branches may go where they would in `latprune prune`."""
        return self._graphs[values_branches(criterion)]

    @cached_property
    def _graphs(self) -> Mapping[bool, lp.PruningGraph]:
        network, example = self.detector.network, self.example
        return {may_go: lp.trace(network, example, branches=may_go) for may_go in (False, True)}

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
    """Measure, score, plan, cut, reconstruct layers; the main process for all."""
    if accelerate.PartialState().is_main_process:
        valued: dict[tuple[str, int], lp.Saliency] = {}
        for case in study.cases:
            if case.cut.is_file():
                continue
            scored_by = case.criterion, case.seed
            if scored_by not in valued:
                valued[scored_by] = _scored(study, case)
            _cut(study, case, valued[scored_by])
    accelerate.PartialState().wait_for_everyone()


def _scored(study: Study, case: Case) -> lp.Saliency:
    network = study.detector.network
    place = "cuda" if torch.cuda.is_available() else "cpu"
    first = islice(replayed(study.train, seed=case.seed).epoch(0), study.config["score_batches"])
    saliency = scored(
        case.criterion,
        network.to(place),
        study.graph(case.criterion),
        first,
        study.detector.loss,
        distil=detection.distillation,
    )
    network.cpu()
    return saliency


def _cut(study: Study, case: Case, saliency: lp.Saliency) -> None:
    network, example, graph = study.detector.network, study.example, study.graph(case.criterion)
    table = lp.measure(network, graph, example, lp.Target.here(**study.config["target"]))
    fitted = lp.fit(network, graph, example, table, saliency, lp.Budget.parse(case.budget))
    batches = replayed(study.train, seed=case.seed)
    lp.reconstruct(fitted.model, network, graph, fitted.plan, batches.epoch(0), images=128)
    lp.recalibrate(fitted.model, batches.epoch(0))
    notes = {"before_tuning": dict(study.judge(fitted.model)), "rounds": fitted.rounds}
    print(
        f"{case}: {fitted.used:.3f} of the budget, gap {fitted.plan.gap:.3%}, {notes}", flush=True
    )
    case.folder.mkdir(parents=True, exist_ok=True)
    lp.save(fitted.model, case.cut, graph=graph, plan=fitted.plan, notes=notes)


def tune(study: Study) -> None:
    """Teach the small detectors what the dense one sees, and the dense one itself as long."""
    network = study.detector.network
    for case in study.cases:
        if case.tuned.is_file():
            continue
        small = lp.load(case.cut, network)
        history = _tuned(study, small, case.folder / "checkpoint", case.seed, what=str(case))
        notes = {**lp.load_notes(case.cut), "history": history}
        if accelerate.PartialState().is_main_process:
            graph, plan = study.graph(case.criterion), lp.load_plan(case.cut)
            lp.save(small, case.tuned, graph=graph, plan=plan, notes=notes)
    for seed in study.config["seeds"]:
        done = study.continued_file(seed)
        if done.is_file():
            continue
        longer = copy.deepcopy(network)
        _tuned(study, longer, done.with_name("continued-checkpoint"), seed, what="dense, continued")
        if accelerate.PartialState().is_main_process:
            save_file(longer.state_dict(), done)


def _tuned(
    study: Study, pupil: nn.Module, kept: Path, seed: int, *, what: str
) -> list[dict[str, float]]:
    """Tune a detector with the dense one as teacher; give every epoch's loss."""
    tuned = lp.tune(
        pupil,
        study.train,
        recipe=lp.Recipe(**study.config["tuned"], seed=seed),
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
    document = {
        "command": f"python -m studies.detection {'/'.join(study.path.parts[-3:])}",
        "config": study.config,
        "dropped": detection.told_dropped(study.data.dropped),
        "target": lp.Target.here(**study.config["target"]).describe(),
        "pictures": {"train": len(study.data.train), "judged": len(study.data.judged)},
        "versions": {
            "latprune": lp.__version__,
            "python": platform.python_version(),
            **{m.__name__: m.__version__ for m in (torch, torchvision, torchmetrics, onnxruntime)},
        },
        "dense": json.loads((study.runs / "dense.json").read_text()),
        "continued": {str(seed): _continued(study, seed) for seed in study.config["seeds"]},
        "cases": [_checked(study, case) for case in study.cases],
    }
    (study.path.parent / "result.json").write_text(json.dumps(document, indent=1) + "\n")


def _continued(study: Study, seed: int) -> Mapping[str, float]:
    longer = copy.deepcopy(study.detector.network)
    load_weights(longer, study.continued_file(seed))
    return study.judge(longer)


def _checked(study: Study, case: Case) -> dict[str, Any]:
    network = study.detector.network
    small, plan = lp.load(case.tuned, network), lp.load_plan(case.tuned)
    report = lp.check(
        network,
        small,
        plan,
        study.example,
        graph=study.graph(case.criterion),
        evaluate=study.judge,
    )
    print(report, flush=True)
    what = {"criterion": case.criterion, "budget": case.budget, "seed": case.seed}
    return {**what, **lp.load_notes(case.tuned), "report": report.to_json()}


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
