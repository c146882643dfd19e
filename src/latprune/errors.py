"""Every error that latprune raises on purpose; each carries its numbers as attributes.

::

    LatpruneError
    ├── BudgetTooSmall        no allowed network fits into the budget
    │   └── BudgetsTooSmall   none that meets several budgets at once was found
    ├── ProblemTooDense       choosing exactly would take more memory than allowed
    ├── UntraceableModel      the forward pass cannot be followed
    │   └── DoesNotRun        it fails on the example input
    ├── UnknownModel          a model's name or factory leads to no model
    ├── ModelMismatch         a model is not the one a graph, plan or file was made from
    ├── NotMeasured           a latency was asked for that no table holds
    ├── DamagedTable          a latency table's file cannot be read
    ├── StaleTable            a latency table belongs to another target
    ├── TableInUse            a latency table is to be replaced while it is measured into
    ├── FolderInUse           another process is at work in the folder of a run
    ├── DeviceError           another device cannot be reached, or cannot time what it should
    ├── DamagedResults        what another device measured cannot be read
    ├── JobsPacked            what is missing was packed, to be timed on another device
    ├── DamagedFile           a saved network cannot be read
    ├── DataError             a data set is missing, empty or without classes
    ├── NotFinite             a loss, gradient or score is NaN or infinite
    ├── ZeroGradients         training gives no gradient to score channels by
    ├── ProcessLost           another process that trains the same network is gone
    ├── CannotExport          a network cannot be written as ONNX
    ├── CannotQuantise        the quantiser fails on a network
    ├── ExportDisagrees       an exported network computes something else
    ├── NoCompiler            torch.compile finds no C++ compiler
    ├── NoGpu                 PyTorch finds no GPU
    ├── NoProvider            ONNX Runtime cannot use a provider for GPUs
    ├── CannotBuild           TensorRT cannot build a network
    ├── CannotCopy            a module keeps something that cannot be copied
    ├── CannotSave            a module's state holds something that no file can hold
    └── MissingExtra          a library is not installed; names the extra

    UserWarning
    ├── BoundIsLooser         a plan's bound holds but is not the best one there is
    └── SubnormalWeights      a network holds numbers that CPUs are slow with
"""

from __future__ import annotations

import importlib
import math
import shlex
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import ModuleType


class LatpruneError(Exception):
    """The root: `except LatpruneError` catches whatever latprune raises on purpose."""


class BudgetTooSmall(LatpruneError):
    """No allowed network fits into the budget.

    Attributes:
        budget_ms: What was asked for.
        floor_ms: The predicted latency with every group at its narrowest allowed width.
        target: Whose budget it is, where there are several: 0, 1, ….
        remedy: What else to do about it, beside raising it; None: what is usual.
        dense_ms: What the dense network takes, where that is known.
    """

    def __init__(
        self,
        budget_ms: float,
        floor_ms: float,
        *,
        target: int = 0,
        remedy: str | None = None,
        dense_ms: float | None = None,
    ) -> None:
        asked, floor = f"{budget_ms:.3f} ms", f"{floor_ms:.3f} ms"
        share = ""
        if dense_ms is not None:
            asked += f", {100 * budget_ms / dense_ms:.3g}% of the dense network's {dense_ms:.3f} ms"
            share = f" ({math.ceil(1000 * floor_ms / dense_ms) / 10:g}%)"
        super().__init__(
            f"no network fits into {asked}: with every group at its narrowest allowed width the "
            f"predicted latency is {floor}. Raise the budget above {floor}{share}, "
            f"{remedy or 'or protect fewer layers with keep= (--keep)'}."
        )
        self.budget_ms = budget_ms
        self.floor_ms = floor_ms
        self.target = target
        self.remedy = remedy
        self.dense_ms = dense_ms


class BudgetsTooSmall(BudgetTooSmall):
    """Each budget can be met by itself, and no network was found that meets them all.

    Attributes:
        budgets_ms: What was asked for, per target.
        nearest_ms: What the network takes that comes nearest.
    """

    def __init__(self, budgets_ms: Sequence[float], nearest_ms: Sequence[float]) -> None:
        over_ms = [took - asked for took, asked in zip(nearest_ms, budgets_ms, strict=True)]
        target = over_ms.index(max(over_ms))
        super().__init__(budgets_ms[target], nearest_ms[target], target=target)
        asked, took = (
            " and ".join(f"{ms:.3f} ms" for ms in times) for times in (budgets_ms, nearest_ms)
        )
        self.args = (
            f"no network was found that fits into {asked} at once, though each can be met by "
            f"itself: the nearest takes {took}. Raise one of the budgets, or protect fewer layers "
            f"with keep= (--keep).",
        )
        self.budgets_ms = tuple(budgets_ms)
        self.nearest_ms = tuple(nearest_ms)


class BoundIsLooser(UserWarning):
    """The channel groups are so entangled that only a looser bound than the best is proven.

    Attributes:
        needed_mib: What the tables of an exact bound would take.
        allowed_mib: What they may.
    """

    def __init__(self, needed_mib: float, allowed_mib: float) -> None:
        super().__init__(
            f"an exact bound would take {needed_mib:.0f} MiB of tables, and {allowed_mib:.0f} MiB "
            f"are allowed: too many channel groups meet in one place. The choice comes with a "
            f"bound that holds but is looser. Allow more memory, or offer fewer widths per group."
        )
        self.needed_mib = needed_mib
        self.allowed_mib = allowed_mib


class SubnormalWeights(UserWarning):
    """A network holds numbers so near to zero that CPUs may compute with them many times slower.

    Attributes:
        count: How many.
    """

    def __init__(self, count: int, what_now: str) -> None:
        super().__init__(
            f"{count} weights or statistics of the network are subnormal, nearer to zero than "
            f"1.2e-38: ONNX Runtime and PyTorch may compute with them many times slower on a CPU. "
            f"{what_now}"
        )
        self.count = count


class ProblemTooDense(LatpruneError):
    """The channel groups are so entangled that an exact choice would take too much memory.

    Attributes:
        needed_mib: What its tables would take.
        allowed_mib: What they may.
    """

    def __init__(self, needed_mib: float, allowed_mib: float) -> None:
        super().__init__(
            f"choosing exactly would take {needed_mib:.0f} MiB of tables, and {allowed_mib:.0f} "
            f"MiB are allowed: too many channel groups meet in one place. Allow more memory, "
            f"offer fewer widths per group, or protect some of the layers with "
            f"keep= (--keep)."
        )
        self.needed_mib = needed_mib
        self.allowed_mib = allowed_mib


class UntraceableModel(LatpruneError):
    """The model's forward pass failed or cannot be followed on the example input."""


class DoesNotRun(UntraceableModel):
    """The model's forward pass fails on the example input.

    Attributes:
        shapes: Of the inputs.
        failure: What it raised.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], failure: Exception) -> None:
        inputs = " and ".join("x".join(map(str, shape)) or "a scalar" for shape in shapes)
        super().__init__(
            f"the model does not run on an input of {inputs}: {type(failure).__name__}: {failure}"
        )
        self.shapes = tuple(shapes)
        self.failure = failure


class UnknownModel(LatpruneError):
    """A model's name, factory or published weights lead to no model."""


class ModelMismatch(LatpruneError):
    """A model is not the one that a graph, a plan, weights or a file were made from."""


class NotMeasured(LatpruneError):
    """A latency was asked for that the table does not hold and must not guess."""


class DamagedTable(LatpruneError):
    """A latency table's file cannot be read.

    Attributes:
        path: The file.
        line: The line, counted from 1; 0: the file as a whole.
    """

    def __init__(self, path: Path, line: int, why: str, *, remedy: str | None = None) -> None:
        where = f"{path}, line {line}" if line else f"{path}"
        advice = remedy or (
            f"Remove line {line} to keep the others, or delete the file to measure all of it again."
        )
        super().__init__(f"{where}: {why}. {advice}")
        self.path = path
        self.line = line


class StaleTable(LatpruneError):
    """A latency table was measured on another target than the one asked for.

    Attributes:
        fields: Of the targets, those that differ, where they are known.
    """

    def __init__(self, message: str, *, fields: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.fields = tuple(fields)


class TableInUse(LatpruneError):
    """A latency table is to be replaced, and somebody measures into it.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} cannot be replaced while it is measured into: its times may come to another "
            "pace. Wait until that is over, or write another file (--out)."
        )
        self.path = path


class FolderInUse(LatpruneError):
    """Another process is at work in the folder that keeps a run.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another process is at work in {path}: wait until it is done, or give another folder"
        )
        self.path = path


class DeviceError(LatpruneError):
    """Another device cannot be reached, or cannot time what it should."""


class DamagedResults(LatpruneError):
    """What another device measured cannot be read.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, where: str, why: str) -> None:
        super().__init__(
            f"{path}, {where}: {why}. Copy the file from the device again; if it is damaged there, "
            f"delete it there and start its runner once more."
        )
        self.path = path


class JobsPacked(LatpruneError):
    """What is missing was packed: it goes on once a device has timed it.

    Attributes:
        path: The file of jobs.
        runner: The script that times them on the device.
        what: What was packed, in words.
        round: Which round of `measure` it is, 1 or 2; 0: of something else.
    """

    def __init__(self, path: Path, runner: Path, what: str, *, round: int = 0) -> None:
        command = shlex.join(["python3", runner.name, path.name, "results.jsonl"])
        super().__init__(
            f"{what} cannot be timed here and went to {path}: copy it and {runner} to the device, "
            f"run `{command}` there, copy results.jsonl back, and read it: latprune measure "
            f"--unpack results.jsonl"
        )
        self.path = path
        self.runner = runner
        self.what = what
        self.round = round


class DamagedFile(LatpruneError):
    """A saved network's file cannot be read or lacks its plan."""


class DataError(LatpruneError):
    """A data set is missing, empty or has no classes."""


class NotFinite(LatpruneError):
    """A loss, gradient or score is NaN or infinite."""


class ZeroGradients(LatpruneError):
    """Training gives no gradient to score channels by: all are worth nothing.

    Attributes:
        step: The cut that was due, from 1.
    """

    def __init__(self, step: int) -> None:
        super().__init__(
            f"cut {step} was due, and since the one before every gradient was 0: nothing tells one "
            f"channel from another, and all of them could go at once. Look whether the loss "
            f"depends on the network (a loss that is exactly 0, detach, a frozen network, fp16 "
            f"without a GradScaler), and whether `start` leaves steps that count"
        )
        self.step = step


class ProcessLost(LatpruneError):
    """Another process that trains the same network is gone, or cannot be reached.

    Attributes:
        reason: What the library that connects them said.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"another process of this run has ended, or cannot be reached ({reason}): what it said "
            f"last, or the launcher's report, has the reason. Started again, the run goes on from "
            f"its last checkpoint."
        )
        self.reason = reason


class CannotExport(LatpruneError):
    """Neither of torch's exporters can write a network as ONNX.

    Attributes:
        reasons: The older exporter's, and the newer one's.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(
            f"the network cannot be written as ONNX. The older of torch's exporters says: "
            f"{reasons[0]}. The newer one: {reasons[1]}. Replace what they name in the network's "
            f"code, or have it run where no file is needed: --runtime eager or compile"
        )
        self.reasons = tuple(reasons)


class CannotQuantise(LatpruneError):
    """ONNX Runtime's quantiser fails on a network."""


class ExportDisagrees(LatpruneError):
    """An exported network's outputs differ from the model's.

    Attributes:
        difference: The largest difference, relative to the largest output.
    """

    def __init__(self, message: str, difference: float) -> None:
        super().__init__(message)
        self.difference = difference


class NoCompiler(LatpruneError):
    """`torch.compile` finds no C++ compiler."""

    def __init__(self) -> None:
        super().__init__(
            "torch.compile needs a C++ compiler, and none was found. Install one (on Debian and "
            "Ubuntu: apt-get install g++), or name yours in the environment variable CXX"
        )


class NoGpu(LatpruneError):
    """PyTorch finds no GPU."""

    def __init__(self) -> None:
        super().__init__(
            "PyTorch finds no GPU here: torch.cuda.is_available() is False. It needs an NVIDIA "
            "GPU, its driver, and a PyTorch that was built for CUDA"
        )


class NoProvider(LatpruneError):
    """ONNX Runtime cannot use a provider, which it would pass over in silence.

    Attributes:
        provider: As ONNX Runtime knows it.
        usable: Those that it can use.
    """

    def __init__(self, provider: str, usable: Sequence[str]) -> None:
        super().__init__(
            f"ONNX Runtime cannot use its {provider} here, only {', '.join(usable)}. It takes the "
            f"package onnxruntime-gpu in place of onnxruntime (pip uninstall onnxruntime; pip "
            f"install onnxruntime-gpu), and the versions of CUDA, cuDNN and TensorRT that this "
            f"package was built for"
        )
        self.provider = provider
        self.usable = tuple(usable)


class CannotBuild(LatpruneError):
    """TensorRT cannot build a network.

    Attributes:
        reasons: Its own, if it gave any.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(
            f"TensorRT cannot build the network: {'; '.join(reasons) or 'it gives no reason'}. "
            f"Replace what it names, or choose another runtime, such as onnxruntime-cuda"
        )
        self.reasons = tuple(reasons)


class CannotCopy(LatpruneError):
    """A module keeps something that cannot be copied, so there can be no network beside it."""


class CannotSave(LatpruneError):
    """A module's state holds something that cannot be written and read back."""


class MissingExtra(LatpruneError):
    """A library that a feature needs is not installed.

    Attributes:
        package: The module that could not be imported.
        extra: The extra of latprune that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed. It comes with the extra {extra!r}: "
            f"pip install 'latprune[{extra}]'"
        )
        self.package = package
        self.extra = extra


def or_meant(given: str, names: Iterable[str]) -> str:
    """Ask, behind an error about a name that nothing has, whether a near one was meant."""
    near = get_close_matches(given, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def import_extra(package: str, extra: str) -> ModuleType:
    """Import a library that comes with an extra.

    Raises:
        MissingExtra: If it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not package.startswith(error.name):
            raise
        raise MissingExtra(package.partition(".")[0], extra) from error
