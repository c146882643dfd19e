"""The commands: options in, one call of the library, a table or JSON out."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from latprune import __version__
from latprune.cli.elsewhere import chosen_device, needs_table, next_command, told
from latprune.cli.options import (
    AsJson,
    Batch,
    BudgetText,
    Calibration,
    Classes,
    Criterion,
    CropPct,
    DataPath,
    Input,
    Keep,
    Model,
    On,
    OptionalModel,
    Pack,
    Precision,
    Pretrained,
    PrunedFile,
    Runtime,
    SolverName,
    TableFile,
    Task,
    TestSplit,
    Threads,
    TrainBatch,
    TrainSplit,
    Weights,
    Workers,
    budget_of,
    criteria_of,
    criterion_of,
    solver_of,
    source_of,
    target_of,
    usage,
)
from latprune.cli.table import tables
from latprune.errors import BudgetTooSmall, LatpruneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType
    from torch import nn

    from latprune.cli.job import Data, Network, Source, Splits
    from latprune.cli.planned import Known
    from latprune.latency.devices import Device
    from latprune.latency.target import Target
    from latprune.progress import Progress
    from latprune.report import Report

FAILED, IMPOSSIBLE, NOT_MET, INTERRUPTED = 1, 3, 4, 130
RESUMABLE = ("measure", "plan", "frontier", "prune", "demo")
KEPT = "What was measured and trained is kept: the same command goes on from there."


class Commands(TyperGroup):
    """Turns errors that latprune raises on purpose into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            with warnings.catch_warnings():
                if not ctx.params["debug"]:
                    # What libraries say to developers would bury what is said to the user.
                    warnings.simplefilter("ignore")
                return super().invoke(ctx)
        except LatpruneError as error:
            if ctx.params["debug"]:
                raise
            _complain(f"error: {error}")
            code = IMPOSSIBLE if isinstance(error, BudgetTooSmall) else FAILED
            raise typer.Exit(code) from None
        except KeyboardInterrupt:
            resumable = ctx.invoked_subcommand in RESUMABLE
            _complain(f"interrupted. {KEPT}" if resumable else "interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Prune a PyTorch network to a latency budget, measured on the machine that will run it.",
    epilog=(
        "Exit codes: 0 the budget is met, 1 something failed, 2 wrong usage, 3 no network fits "
        "the budget, 4 the budget was not met, 5 work was packed for another device, 130 "
        "interrupted."
    ),
)
app.add_typer(tables, name="table")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"latprune {__version__}")
        raise typer.Exit


@app.callback()
def _latprune(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
) -> None:
    del version, debug  # `_version` and `Commands` act on them


@app.command("measure")
def measure_command(
    context: typer.Context,
    model: OptionalModel = None,
    task: Task = "classification",
    classes: Classes = None,
    input: Input = None,
    runtime: Runtime = "onnxruntime",
    precision: Precision = "fp32",
    batch: Batch = 1,
    threads: Threads = 1,
    on: On = None,
    table: TableFile = None,
    pack: Pack = None,
    unpack: Annotated[
        Path | None,
        typer.Option("--unpack", metavar="RESULTS", help="Read what the device answered."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what a network's widths cost, here or on another device.

    The measurements go into a table that all later commands use.
    """
    if unpack is not None:
        _unpack(unpack, table, as_json)
        return
    if model is None:
        raise typer.BadParameter("which network is to be measured?", param_hint="--model")
    from latprune.cli.live import working
    from latprune.graph.tracing import trace
    from latprune.latency.interpolation import held_out
    from latprune.latency.measuring import measure, outlook

    source = source_of(model, classes=classes, input=input, task=task)
    with chosen_device(context, on, table, pack) as device, working() as progress:
        target = target_of(device, runtime, precision=precision, batch=batch, threads=threads)
        network = source.open()
        example = network.example(batch)
        progress.stage("trace")
        graph = trace(network.model, example)
        progress.stage(f"measure ({outlook(graph, device.table(target))})")
        measured = measure(
            network.model, graph, example, target, progress=progress.step, device=device
        )
        errors = [abs(error) for error in held_out(measured, graph).tolist()]
    dense = measured.network(graph)
    facts = {
        "target": target.to_json(),
        "table": str(measured.path),
        "measurements": len(measured),
        "dense": dense.to_json(),
        "interpolation": {"points": len(errors), "median_error": median(errors or [0.0])},
    }
    text = (
        f"{model} takes {dense.median_ms:.3f} ms (spread {dense.iqr_ms:.3f} ms, {dense.runs} runs)"
        f"\nwith {target.describe()}\n{len(measured)} layers measured in {measured.path}"
    )
    if errors:
        text += (
            f"\nbetween them, interpolation is off by {100 * median(errors):.1f} % (the median of "
            f"{len(errors)} measured points that it was not shown)"
        )
    _show(facts if as_json else text)


@app.command("plan")
def plan_command(
    context: typer.Context,
    model: Model,
    budget: BudgetText,
    weights: Weights = None,
    pretrained: Pretrained = False,
    task: Task = "classification",
    classes: Classes = None,
    input: Input = None,
    data: DataPath = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    runtime: Runtime = "onnxruntime",
    precision: Precision = "fp32",
    batch: Batch = 1,
    threads: Threads = 1,
    criterion: Criterion = None,
    solver: SolverName = "joint",
    keep: Keep = None,
    train_batch: TrainBatch = 32,
    workers: Workers = 0,
    on: On = None,
    table: TableFile = None,
    pack: Pack = None,
    as_json: AsJson = False,
) -> None:
    """Show what a budget would do; cut nothing.

    Without --data, channels are scored by magnitude.
    """
    from latprune.cli.live import working
    from latprune.cli.planned import choose

    source = source_of(
        model, weights, pretrained=pretrained, classes=classes, input=input, task=task
    )
    allowed = budget_of(budget)
    chosen, by = criterion_of(criterion, data), solver_of(solver)
    needs_table(table, pack)
    with chosen_device(context, on, table, pack) as device, working() as progress:
        target = target_of(device, runtime, precision=precision, batch=batch, threads=threads)
        known = _known(
            source,
            target,
            chosen,
            data,
            (train_split, test_split),
            train_batch,
            workers,
            keep,
            progress,
            device,
        )
        planned = choose(known, allowed, solver=by, progress=progress)
    _show(planned.to_json() if as_json else planned.render())


@app.command("frontier")
def frontier_command(
    context: typer.Context,
    model: Model,
    weights: Weights = None,
    pretrained: Pretrained = False,
    task: Task = "classification",
    classes: Classes = None,
    input: Input = None,
    data: DataPath = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    runtime: Runtime = "onnxruntime",
    precision: Precision = "fp32",
    batch: Batch = 1,
    threads: Threads = 1,
    criterion: Criterion = None,
    keep: Keep = None,
    train_batch: TrainBatch = 32,
    workers: Workers = 0,
    on: On = None,
    table: TableFile = None,
    pack: Pack = None,
    points: Annotated[int, typer.Option("--points", min=2, help="To show, about.")] = 12,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw to this picture (.png, .svg, .pdf).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what could be kept at every latency; cut nothing.

    Without --data, channels are scored by magnitude.
    """
    from latprune.cli.drawn import draw
    from latprune.cli.live import working

    source = source_of(
        model, weights, pretrained=pretrained, classes=classes, input=input, task=task
    )
    chosen = criterion_of(criterion, data)
    needs_table(table, pack)
    with chosen_device(context, on, table, pack) as device, working() as progress:
        target = target_of(device, runtime, precision=precision, batch=batch, threads=threads)
        known = _known(
            source,
            target,
            chosen,
            data,
            (train_split, test_split),
            train_batch,
            workers,
            keep,
            progress,
            device,
        )
        drawn = draw(known, points=points, progress=progress)
    if plot is not None:
        with usage("--plot"):
            drawn.plot(plot)
    _show(drawn.to_json() if as_json else drawn.render())


@app.command("prune")
def prune_command(
    context: typer.Context,
    model: Model,
    budget: BudgetText,
    out: Annotated[Path, typer.Option("--out", help="Folder for the result.")],
    weights: Weights = None,
    pretrained: Pretrained = False,
    task: Task = "classification",
    classes: Classes = None,
    input: Input = None,
    crop_pct: CropPct = None,
    data: DataPath = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    runtime: Runtime = "onnxruntime",
    precision: Precision = "fp32",
    batch: Batch = 1,
    threads: Threads = 1,
    criterion: Criterion = None,
    solver: SolverName = "joint",
    keep: Keep = None,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Of tuning.")] = 5,
    lr: Annotated[float, typer.Option("--lr", help="Highest learning rate of tuning.")] = 0.01,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of tuning.")] = 0,
    train_batch: TrainBatch = 32,
    workers: Workers = 0,
    calibration: Calibration = 8,
    on: On = None,
    table: TableFile = None,
    pack: Pack = None,
    as_json: AsJson = False,
) -> None:
    """Prune a network to a budget and tune it.

    Without --data, channels are scored by magnitude and nothing is tuned. The folder --out gets
    pruned.safetensors, report.json and report.txt. After Ctrl-C the same command goes on.
    """
    from latprune.cli.folder import RunFolder
    from latprune.cli.live import working
    from latprune.pipeline import prune
    from latprune.report.text import to_text
    from latprune.tuning import Recipe, cross_entropy

    source = source_of(model, weights, pretrained, classes, input, crop_pct, task)
    allowed = budget_of(budget)
    chosen, by = criteria_of(criterion, data), solver_of(solver)
    with usage("--lr"):
        recipe = Recipe(epochs=epochs, lr=lr, seed=seed) if epochs and data else None
    needs_table(table, pack)
    with chosen_device(context, on, table, pack) as device, working() as progress:
        target = target_of(device, runtime, precision=precision, batch=batch, threads=threads)
        arguments = {
            **vars(source),
            "data": data,
            "target": target.to_json(),
            "budget": allowed.to_json(),
            "criterion": ",".join(chosen),
            "solver": solver,
            "keep": keep or [],
            "epochs": epochs if data else 0,
            "lr": lr,
            "seed": seed,
            "train_batch": train_batch,
            "splits": [train_split, test_split],
        }
        network = source.open()
        found: Data | None = None
        if data is not None:
            found = _opened(data, network, train_batch, workers, (train_split, test_split))
        with usage("--out"):
            folder = RunFolder.claim(out, "prune", arguments)
        pruned = prune(
            network.model,
            network.example(batch),
            allowed,
            loader=found.train if found else None,
            loss=found.loss if found else cross_entropy,
            distil=found.distil if found else None,
            evaluate=found.judge if found and source.is_trained else None,
            target=target,
            keep=tuple(keep or ()),
            criterion=chosen,
            solver=by,
            recipe=recipe,
            calibration_batches=calibration,
            checkpoint=folder.checkpoint,
            progress=progress,
            device=device,
        )
        facts = {
            **pruned.report.to_json(),
            "before_tuning": dict(pruned.before_tuning),
            "reranked": dict(pruned.reranked),
        }
        folder.keep(pruned, facts=facts, text=to_text(pruned.report))
    _conclude(pruned.report, facts if as_json else None)


@app.command("check")
def check_command(
    context: typer.Context,
    model: Model,
    pruned: PrunedFile,
    weights: Weights = None,
    pretrained: Pretrained = False,
    task: Task = "classification",
    classes: Classes = None,
    input: Input = None,
    crop_pct: CropPct = None,
    data: DataPath = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    train_batch: TrainBatch = 32,
    workers: Workers = 0,
    calibration: Calibration = 8,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Measure a pruned network again.

    It is timed beside the dense one, and with --data both are judged, as torch runs them in fp32
    and, if the plan was made for int8, as they ship. Without the dense network's weights only the
    pruned one's accuracy is shown.
    """
    from latprune.cli.live import working
    from latprune.graph.tracing import trace
    from latprune.report import check
    from latprune.surgery import load, load_plan

    source = source_of(model, weights, pretrained, classes, input, crop_pct, task)
    stored = load_plan(pruned)
    was = stored.target
    with chosen_device(context, on) as device, working() as progress:
        here = target_of(
            device, was.runtime, precision=was.precision, batch=was.batch, threads=was.threads
        )
        if here != was:
            _complain(f"planned for {was.describe()}; measured on {here.describe()}")
        in_int8 = here.precision == "int8"
        network = source.open()
        small = load(pruned, network.model)
        example = network.example(here.batch)
        found = None
        if data is not None:
            found = _opened(data, network, train_batch, workers, (train_split, test_split))

        def judge(judged: nn.Module) -> Mapping[str, float]:
            known = judged is not network.model or source.is_trained
            return found.judge(judged) if found and known else {}

        progress.stage("trace")
        graph = trace(network.model, example)
        progress.stage("check")
        report = check(
            network.model,
            small,
            replace(stored, target=here),
            example,
            graph=graph,
            evaluate=judge,
            calibration=found.calibration(calibration) if found and in_int8 else None,
            device=device,
        )
    _conclude(report, report.to_json() if as_json else None)


@app.command("export")
def export_command(
    model: Model,
    pruned: PrunedFile,
    to: Annotated[Path, typer.Option("--to", help="The file: NAME.onnx, .xml or .pt2.")],
    task: Task = "classification",
    classes: Classes = None,
    input: Input = None,
    data: DataPath = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32 or int8; by default the plan's.")
    ] = None,
    batch: Batch = 1,
    train_batch: TrainBatch = 32,
    workers: Workers = 0,
    calibration: Calibration = 8,
    as_json: AsJson = False,
) -> None:
    """Write a pruned network as ONNX, for OpenVINO (.xml) or as .pt2.

    The file is read back and its outputs compared with torch's; it needs no latprune to run. For
    int8, as .onnx or .xml, --data calibrates.
    """
    from latprune.cli.live import working
    from latprune.export import export_onnx, export_openvino, export_pt2
    from latprune.surgery import load, load_plan

    if to.suffix not in (".onnx", ".xml", ".pt2"):
        sentence = f"{to} ends in none of .onnx, .xml (OpenVINO), .pt2"
        raise typer.BadParameter(sentence, param_hint="--to")
    in_int8 = (precision or load_plan(pruned).target.precision) == "int8"
    _check_export(to, precision, in_int8=in_int8, has_data=data is not None)
    source = source_of(model, classes=classes, input=input, task=task)
    with working() as progress:
        network = source.open()
        small = load(pruned, network.model)
        example = network.example(batch)
        progress.stage("export")
        to.parent.mkdir(parents=True, exist_ok=True)
        write = export_openvino if to.suffix == ".xml" else export_onnx
        if to.suffix == ".pt2":
            export_pt2(small, example, to)
        elif in_int8 and data is not None:
            found = _opened(data, network, train_batch, workers, (train_split, test_split))
            batches = found.calibration(calibration)
            write(small, example, to, precision="int8", calibration=batches)
        else:
            write(small, example, to)
    text = f"{to} ({to.stat().st_size / 1e6:.1f} MB) agrees with torch"
    _show({"file": str(to), "bytes": to.stat().st_size} if as_json else text)


def _check_export(to: Path, precision: str | None, *, in_int8: bool, has_data: bool) -> None:
    """Refuse what cannot be exported before anything is built."""
    if precision not in (None, "fp32", "int8"):
        sentence = f"a file is written in fp32 or int8, not {precision}"
        raise typer.BadParameter(sentence, param_hint="--precision")
    if in_int8 and to.suffix == ".pt2":
        sentence = "int8 is written as .onnx or .xml; give --precision fp32 for .pt2"
        raise typer.BadParameter(sentence, param_hint="--to")
    if in_int8 and not has_data:
        sentence = "int8 needs --data to calibrate with; --precision fp32 does not"
        raise typer.BadParameter(sentence, param_hint="--data")


@app.command("demo")
def demo_command(
    budget: BudgetText = "50%",
    out: Annotated[Path, typer.Option("--out", help="Folder for the result.")] = Path(
        "latprune-demo"
    ),
    as_json: AsJson = False,
) -> None:
    """Prune a reader of digits: offline, minutes.

    Trains a compact residual network on scikit-learn's handwritten digits, then prunes it.
    """
    from latprune.cli.folder import RunFolder
    from latprune.cli.live import working
    from latprune.demo import next_commands, run
    from latprune.report.text import to_text

    allowed = budget_of(budget)
    with working() as progress:
        with usage("--out"):
            folder = RunFolder.claim(out, "demo", {"budget": allowed.to_json()})
        pruned = run(folder.path, allowed, progress=progress)
        facts = {**pruned.report.to_json(), "before_tuning": dict(pruned.before_tuning)}
        folder.keep(pruned, facts=facts, text=to_text(pruned.report))
    after = "\n".join([f"All of it is in {out}. Next:", *next_commands(out)])
    _conclude(pruned.report, facts if as_json else None, after=after)


def _known(
    source: Source,
    target: Target,
    criterion: str,
    data: Path | None,
    splits: Splits,
    train_batch: int,
    workers: int,
    keep: list[str] | None,
    progress: Progress,
    device: Device,
) -> Known:
    """Open the network, and its data if they are to score with; trace, measure and score."""
    from latprune.cli.planned import look
    from latprune.tuning import cross_entropy

    network = source.open()
    found = None
    if data is not None and criterion != "magnitude":
        found = _opened(data, network, train_batch, workers, splits)
    return look(
        network,
        target,
        criterion=criterion,
        loader=found.train if found else None,
        loss=found.loss if found else cross_entropy,
        keep=tuple(keep or ()),
        progress=progress,
        device=device,
    )


def _opened(path: Path, network: Network, train_batch: int, workers: int, splits: Splits) -> Data:
    """Open the data, and say what somebody should know of them."""
    from latprune.cli.job import open_data

    found = open_data(path, network, batch=train_batch, workers=workers, splits=splits)
    if found.remark:
        _complain(found.remark)
    return found


def _unpack(results: Path, table: Path | None, as_json: bool) -> None:
    """Read what a device answered; leave with an error if a job failed there."""
    from latprune.latency.devices.packed import unpack

    found = unpack(results, table_file=table)
    facts = {
        "target": found.table.target.to_json(),
        "table": str(found.table.path),
        "added": found.added,
        "failed": list(found.failed),
        "next": next_command(found) if found.then else None,
    }
    _show(facts if as_json else told(found))
    raise typer.Exit(FAILED if found.failed else 0)


def _show(result: dict[str, Any] | RenderableType) -> None:
    """Write a result to stdout: a dict as JSON, anything else for people."""
    if isinstance(result, dict):
        print(json.dumps(result, indent=2))
    elif isinstance(result, str):
        print(result)
    else:
        Console().print(result)


def _conclude(report: Report, facts: dict[str, Any] | None, *, after: str = "") -> None:
    """Show a report and leave with the code that says whether the budget is met."""
    from latprune.report.text import render

    _show(render(report) if facts is None else facts)
    if after and facts is None:
        _show(f"\n{after}")
    raise typer.Exit(0 if report.met else NOT_MET)


def _complain(sentence: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(sentence, style="red", markup=False)
