"""The frontier of one stored problem with every solver's choices on it.

    python -m benchmarks.knapsack.figure [--problem resnet50-16] [--to docs/choosing.png]

Above, the saliency kept at every latency; below, how many times as much a choice loses as the
frontier does at the same latency. Latency is the layers' sum as a share of the dense network's.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from benchmarks.knapsack.stored import FOLDER, dense, load_problem
from latprune.knapsack import Choice, Problem, frontier, greedy, halp, joint, uniform

if TYPE_CHECKING:
    from collections.abc import Callable

SHARES = (0.8, 0.55, 0.3)
TICK_MS = 1e-3
SOLVERS: dict[str, tuple[Callable[[Problem], Choice], str]] = {
    "joint": (joint, "o"),
    "halp, 30 steps": (partial(halp, steps=30, tick_ms=TICK_MS), "s"),
    "halp, 10 steps": (partial(halp, steps=10, tick_ms=TICK_MS), "D"),
    "halp, 1 step": (partial(halp, steps=1, tick_ms=TICK_MS), "^"),
    "greedy": (greedy, "v"),
    "uniform": (uniform, "x"),
}


def main() -> int:
    arguments = _arguments()
    path = FOLDER / f"{arguments.problem}.npz"
    whole = dense(load_problem(path, 1.0))
    corners = frontier(load_problem(path, 1.0), tolerance=1e-6)
    figure = Figure(figsize=(7.2, 8.0), layout="constrained")
    kept, lost = figure.subplots(2, 1, sharex=True)
    line = np.array([_point(corner, whole) for corner in corners])
    kept.plot(*(100 * line.T), color="black", linewidth=1, label="frontier")
    lost.axhline(1, color="black", linewidth=1)
    for name, (solver, marker) in SOLVERS.items():
        points = np.array([_point(solver(load_problem(path, share)), whole) for share in SHARES])
        ratios = (1 - points[:, 1]) / (1 - np.interp(points[:, 0], *line.T))
        kept.plot(*(100 * points.T), marker, label=name)
        lost.plot(100 * points[:, 0], ratios, marker)
        for (latency, value), ratio in zip(points, ratios, strict=True):
            print(f"{name}: latency {latency:.4f}, kept {value:.4f}, loses {ratio:.3f}x")
    for axes in (kept, lost):
        axes.grid(alpha=0.3)
        for share in SHARES:
            axes.axvline(100 * share, color="gray", linewidth=0.8, linestyle=":")
    kept.set_ylabel("saliency kept in %")
    kept.set_title(f"{arguments.problem}; dotted: the budgets")
    kept.legend(loc="lower right")
    lost.set_ylabel("saliency lost ÷ the frontier's at the same latency")
    lost.set_xlabel("latency in % of the dense network's layers")
    kept.set_xlim(0, 102)
    figure.savefig(arguments.to, dpi=110)
    return 0


def _point(choice: Choice, whole: Choice) -> tuple[float, float]:
    return choice.cost_ms / whole.cost_ms, choice.value / whole.value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--problem", default="resnet50-16", help="a stored one")
    parser.add_argument("--to", type=Path, default=Path("docs/choosing.png"), help="the picture")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
