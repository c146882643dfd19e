"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latprune.cli.job import Source
    from latprune.knapsack import Solver
    from latprune.latency.devices import Device
    from latprune.latency.target import Target
    from latprune.planning import Budget
    from latprune.saliency import CriterionName

TASKS = ("classification", "detection")
SOLVERS = ("joint", "halp", "greedy", "uniform", "milp")

_MODEL = typer.Option(
    "--model",
    metavar="SPEC",
    help="timm:NAME, torchvision:NAME or PATH.py:FACTORY (a function that returns a module; "
    "the file is executed); detectors also latprune:ssd512_resnet50.",
)
Model = Annotated[str, _MODEL]
OptionalModel = Annotated[str | None, _MODEL]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="The dense network's weights (.safetensors, .pt).")
]
Pretrained = Annotated[
    bool,
    typer.Option("--pretrained/--no-pretrained", help="Fetch the library's published weights."),
]
Classes = Annotated[
    int | None, typer.Option("--classes", min=1, help="The model's outputs, if not its default.")
]
Input = Annotated[
    str | None, typer.Option("--input", metavar="CxHxW", help="The input's size: 3x224x224.")
]
CropPct = Annotated[
    float | None,
    typer.Option("--crop-pct", help="Share of a resized picture that evaluation keeps."),
]
Task = Annotated[
    str,
    typer.Option(
        "--task",
        help="classification or detection: what the network does, and how --data is laid out.",
    ),
]
TrainSplit = Annotated[
    str | None,
    typer.Option(
        "--train-split",
        metavar="[YEARS:]SPLIT",
        help="For detection, what to learn from: 2007+2012:trainval.",
    ),
]
TestSplit = Annotated[
    str | None,
    typer.Option(
        "--test-split",
        metavar="[YEARS:]SPLIT",
        help="For detection, what to judge with: 2007:test.",
    ),
]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Pictures as train/CLASS/*, test/CLASS/* (or val/), in a folder or a zip. Folders "
        "named by WordNet id are ImageNet's classes. For detection, VOC's layout. Or hf:NAME, of "
        "Hugging Face's data sets, with the name on the hub or a folder.",
    ),
]
Runtime = Annotated[str, typer.Option("--runtime", help="What will run the network.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Samples per run.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="That the runtime may use.")]
Precision = Annotated[
    str,
    typer.Option("--precision", help="The network will run in: fp32, or int8 in onnxruntime, …"),
]
Calibration = Annotated[
    int,
    typer.Option("--calibration", min=1, help="Batches of --data that set the scales of int8."),
]
BudgetText = Annotated[
    str,
    typer.Option("--budget", metavar="60%|12ms", help="A share of the dense latency, or a time."),
]
Criterion = Annotated[
    str | None,
    typer.Option(
        "--criterion",
        help="What makes a channel worth keeping: taylor, taylor_squared, fisher or probe, which "
        "need --data, or magnitude. prune takes several, as taylor,fisher: whichever network does "
        "best on held-out pictures.",
    ),
]
SolverName = Annotated[
    str,
    typer.Option(
        "--solver",
        help="What chooses the widths: joint (the best choice, with a proof), or to compare with: "
        "halp, greedy, uniform, milp (needs the extra milp).",
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="NAME", help="Layers to leave as they are; may be repeated."),
]
Branches = Annotated[
    bool,
    typer.Option("--branches/--no-branches", help="Whether residual branches may go as a whole."),
]
TrainBatch = Annotated[
    int, typer.Option("--train-batch", min=2, help="Pictures in a batch of scoring and tuning.")
]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that load pictures.")]
PrunedFile = Annotated[
    Path, typer.Option("--pruned", help="What `latprune prune` wrote: pruned.safetensors.")
]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="ssh://[USER@]HOST[:PORT][/PYTHON]",
        help="Time on another device, with its python3 or the one named; it needs numpy and "
        "onnxruntime, and ssh must not ask for a password.",
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option("--table", metavar="FILE", help="The table of a device that is not this one."),
]
Pack = Annotated[
    Path | None,
    typer.Option(
        "--pack",
        metavar="JOBS.zip",
        help="Write what that table lacks to a file, to be timed on the device by hand.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, and nothing else, to stdout.")]


def source_of(
    model: str,
    weights: Path | None = None,
    pretrained: bool = False,
    classes: int | None = None,
    input: str | None = None,
    crop_pct: float | None = None,
    task: str = "classification",
) -> Source:
    """Read where the dense network comes from."""
    from latprune.cli.job import Source, input_size

    if task not in TASKS:
        raise typer.BadParameter(f"{task} is none of {', '.join(TASKS)}", param_hint="--task")
    if task == "detection" and (input is not None or crop_pct is not None):
        option = "--input" if input is not None else "--crop-pct"
        raise typer.BadParameter("a detector has a size of its own", param_hint=option)
    with usage("--input"):
        size = None if input is None else input_size(input)
    return Source(model, weights, pretrained, classes, size, crop_pct, task)


def target_of(device: Device, runtime: str, *, precision: str, batch: int, threads: int) -> Target:
    """Read what the network will run on."""
    with usage("--runtime" if precision == "fp32" else "--precision"):
        return device.target(runtime, precision=precision, batch=batch, threads=threads)


def budget_of(text: str) -> Budget:
    """Read a budget."""
    from latprune.planning import Budget

    with usage("--budget"):
        return Budget.parse(text)


def criterion_of(name: str | None, data: Path | None) -> CriterionName:
    """Read the criterion; by default the better one that the data allow."""
    from latprune.saliency import check_name

    if name is None:
        return "magnitude" if data is None else "taylor"
    with usage("--criterion"):
        check_name(name)
    if data is None and name != "magnitude":
        raise typer.BadParameter(f"{name} needs --data", param_hint="--criterion")
    return cast("CriterionName", name)


def criteria_of(names: str | None, data: Path | None) -> list[CriterionName]:
    """Read one criterion, or several between commas."""
    if names is None:
        return [criterion_of(None, data)]
    chosen = [criterion_of(name.strip(), data) for name in names.split(",")]
    if len(chosen) > 1 and data is None:
        sentence = "several criteria need --data to decide"
        raise typer.BadParameter(sentence, param_hint="--criterion")
    return chosen


def solver_of(name: str) -> Solver:
    """Read the solver."""
    from latprune import knapsack

    if name not in SOLVERS:
        sentence = f"{name} is none of {', '.join(SOLVERS)}"
        raise typer.BadParameter(sentence, param_hint="--solver")
    solver: Solver = getattr(knapsack, name)
    return solver


@contextmanager
def usage(option: str) -> Iterator[None]:
    """Make a value that latprune does not understand an error of usage."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
