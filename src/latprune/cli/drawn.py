"""The frontier of a network: what can be kept at every latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from latprune.cli.planned import bought_share, kept_share
from latprune.errors import import_extra
from latprune.latency.measuring import measure
from latprune.planning import frontier
from latprune.report.counting import network_macs
from latprune.report.narrow import Fitting, add_row
from latprune.report.wording import percent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from latprune.cli.planned import Known
    from latprune.planning import Plan
    from latprune.progress import Progress


@dataclass(frozen=True, eq=False)
class Drawn:
    """The frontier, and the few of its points that are shown."""

    known: Known
    plans: Sequence[Plan]
    shown: Sequence[Plan]

    def to_json(self) -> dict[str, Any]:
        """Give every point as JSON values, widths included."""
        return {
            "target": self.known.table.target.to_json(),
            "baseline_ms": self.plans[-1].baseline_ms,
            "criterion": self.plans[-1].criterion,
            "points": [
                {
                    "predicted_ms": plan.predicted_ms,
                    "share": _share(plan),
                    "saliency": kept_share(plan),
                    "price_ms": plan.price_ms,
                    "macs": network_macs(self.known.graph, plan.widths),
                    "widths": plan.widths,
                }
                for plan in self.plans
            ],
        }

    def render(self) -> RenderableType:
        """Give the shown points as something that a rich console prints."""
        dense, graph = self.plans[-1], self.known.graph
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for head in ("predicted", "of dense", "faster", "saliency", "MACs", "next 0.1 ms buys"):
            table.add_column(head, justify="right")
        macs = network_macs(graph, graph.widths)
        for plan in self.shown:
            add_row(
                table,
                f"{plan.predicted_ms:.3f} ms",
                percent(_share(plan)),
                f"{1 / _share(plan):.2f}x",
                percent(kept_share(plan)),
                percent(network_macs(graph, plan.widths) / macs),
                percent(bought_share(plan)),
            )
        return Group(
            Text(f"latprune on {dense.target.describe()}", style="bold"),
            Text(
                f"{dense.baseline_ms:.3f} ms measured; the most saliency ({dense.criterion}) that "
                f"can be kept at a latency, {len(self.shown)} of {len(self.plans)} points"
            ),
            Fitting(table),
        )

    def plot(self, path: Path) -> None:
        """Draw the frontier to a picture, its format by the file's suffix.

        Raises:
            MissingExtra: If matplotlib is not installed.
            ValueError: If the picture cannot be written, as on a full disk.
        """
        import_extra("matplotlib", "report")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(
            [plan.predicted_ms for plan in self.plans],
            [100 * kept_share(plan) for plan in self.plans],
        )
        axes.plot(
            [plan.predicted_ms for plan in self.shown],
            [100 * kept_share(plan) for plan in self.shown],
            "o",
        )
        axes.set_xlabel("predicted latency in ms")
        axes.set_ylabel(f"saliency kept in % ({self.plans[-1].criterion})")
        axes.set_title(self.plans[-1].target.describe(), fontsize="small")
        axes.grid(alpha=0.3)
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error.strerror}") from None


def check_picture(path: Path) -> None:
    """See that a picture can be drawn to a file, before there is anything to draw.

    Raises:
        MissingExtra: If matplotlib is not installed.
        ValueError: If the suffix is no picture's, or there is no such folder.
    """
    known = import_extra("matplotlib.backend_bases", "report").FigureCanvasBase.filetypes
    if path.suffix.removeprefix(".") not in known:
        raise ValueError(f"{path} ends in none of {', '.join(f'.{name}' for name in known)}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path} is a folder" if path.is_dir() else f"no folder {path.parent}")


def draw(known: Known, *, points: int, progress: Progress) -> Drawn:
    """Draw a frontier twice: the second time with the layers of the shown points measured."""
    progress.stage("draw")
    shown = _spread(frontier(known.graph, known.table, known.saliency), points)
    table = measure(
        known.model,
        known.graph,
        known.example,
        known.table.target,
        widths=[plan.widths for plan in shown],
        device=known.device,
    )
    plans = frontier(known.graph, table, known.saliency)
    return Drawn(known, plans, _spread(plans, points))


def _spread(plans: Sequence[Plan], points: int) -> list[Plan]:
    """Give about so many plans at even distances in time, the first and the last among them."""
    times = np.array([plan.predicted_ms for plan in plans])
    wanted = np.linspace(times[0], times[-1], points)
    nearest = {int(np.abs(times - ms).argmin()) for ms in wanted}
    return [plans[index] for index in sorted(nearest)]


def _share(plan: Plan) -> float:
    return plan.predicted_ms / plan.baseline_ms
