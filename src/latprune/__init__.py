"""Prune a PyTorch network to a latency budget, measured on the machine that will run it.

The straight line, each step a function::

    model ─trace→ graph ─┬─measure→ table ────┐
                         └─taylor→ saliency ──┴─fit→ plan, small model ─tune→ ─check→ report

`prune` is that line in one call; `prune_in_steps` repeats score, plan and cut while you train, and
`prune_gradually` is that with the training.
"""

from latprune.errors import (
    BoundIsLooser,
    BudgetsTooSmall,
    BudgetTooSmall,
    CannotBuild,
    CannotCopy,
    CannotExport,
    CannotQuantise,
    CannotSave,
    DamagedFile,
    DamagedResults,
    DamagedTable,
    DataError,
    DeviceError,
    ExportDisagrees,
    JobsPacked,
    LatpruneError,
    MissingExtra,
    ModelMismatch,
    NoCompiler,
    NoGpu,
    NoProvider,
    NotFinite,
    NotMeasured,
    ProcessLost,
    StaleTable,
    TableInUse,
    UntraceableModel,
    ZeroGradients,
)
from latprune.export import export_onnx, export_openvino, export_pt2
from latprune.fitting import Fitted, fit
from latprune.gradual import GradualPruning, prune_in_steps
from latprune.gradually import prune_gradually
from latprune.graph.groups import ChannelGroup, PruningGraph
from latprune.graph.matching import kept_channels
from latprune.graph.tracing import trace
from latprune.knapsack import joint, uniform
from latprune.latency.devices.packed import Packed, Unpacked, unpack
from latprune.latency.devices.ssh import Ssh
from latprune.latency.measuring import compare, measure
from latprune.latency.table import LatencyTable
from latprune.latency.target import Target
from latprune.pipeline import Pruned, prune
from latprune.planning import Budget, Demand, Plan, frontier, plan
from latprune.report import Report, check
from latprune.reranking import Candidate, rerank
from latprune.saliency import (
    Saliency,
    fisher,
    gauss_newton,
    magnitude,
    price_branches,
    probe,
    relative,
    taylor,
    taylor_squared,
)
from latprune.surgery import cut, load, load_notes, load_plan, save
from latprune.tuning import Recipe, cross_entropy, recalibrate, reconstruct, tune

__version__ = "0.1.0"

__all__ = [
    "BoundIsLooser",
    "Budget",
    "BudgetTooSmall",
    "BudgetsTooSmall",
    "Candidate",
    "CannotBuild",
    "CannotCopy",
    "CannotExport",
    "CannotQuantise",
    "CannotSave",
    "ChannelGroup",
    "DamagedFile",
    "DamagedResults",
    "DamagedTable",
    "DataError",
    "Demand",
    "DeviceError",
    "ExportDisagrees",
    "Fitted",
    "GradualPruning",
    "JobsPacked",
    "LatencyTable",
    "LatpruneError",
    "MissingExtra",
    "ModelMismatch",
    "NoCompiler",
    "NoGpu",
    "NoProvider",
    "NotFinite",
    "NotMeasured",
    "Packed",
    "Plan",
    "ProcessLost",
    "Pruned",
    "PruningGraph",
    "Recipe",
    "Report",
    "Saliency",
    "Ssh",
    "StaleTable",
    "TableInUse",
    "Target",
    "Unpacked",
    "UntraceableModel",
    "ZeroGradients",
    "check",
    "compare",
    "cross_entropy",
    "cut",
    "export_onnx",
    "export_openvino",
    "export_pt2",
    "fisher",
    "fit",
    "frontier",
    "gauss_newton",
    "joint",
    "kept_channels",
    "load",
    "load_notes",
    "load_plan",
    "magnitude",
    "measure",
    "plan",
    "price_branches",
    "probe",
    "prune",
    "prune_gradually",
    "prune_in_steps",
    "recalibrate",
    "reconstruct",
    "relative",
    "rerank",
    "save",
    "taylor",
    "taylor_squared",
    "trace",
    "tune",
    "uniform",
    "unpack",
]
