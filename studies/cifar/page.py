"""Writes `docs/results/cifar.md` and its plot from `result.json`: no figure is typed by hand."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from studies.frame import markdown, versions_in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from studies.frame import Row

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
PLOT = "cifar.svg"
OURS = "joint"
Document = dict[str, Any]


def write_page(document: Document, *, folder: Path = RESULTS) -> None:
    """Write the page, and the plot beside it."""
    config = document["config"]
    parts = [_INTRODUCTION.format(**_facts(document)), _dense(document)]
    parts += [_budget(document, budget) for budget in _sorted(config["budgets"])]
    parts += [_standing(document), _ablations(document), _CLOSING.format(**_facts(document))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cifar.md").write_text("\n\n".join(part.strip() for part in parts if part) + "\n")
    draw(document, folder / PLOT)


def rows_of(document: Document, method: str, budget: str) -> list[Row]:
    """Give a method's rows of a budget, one per seed."""
    found = document["rows"].values()
    return [row for row in found if (row["method"], row["budget"]) == (method, budget)]


def _sorted(budgets: Iterable[str]) -> list[str]:
    return sorted(budgets, key=lambda budget: -float(budget.rstrip("%")))


def _facts(document: Document) -> dict[str, Any]:
    config, target = document["config"], document["target"]
    done = {row["seed"] for row in document["rows"].values() if "tuned_top1" in row}
    return {
        **config,
        **config["recipe"],
        "versions": versions_in_words(document),
        "device": target["device"],
        "done": ", ".join(map(str, sorted(done))) or "none",
        "steps": config["tuning_images"] // config["batch_size"],
        "round_to": config["methods"]["Torch-Pruning"]["round_to"],
        "scratch_lr": config["methods"]["narrow, from scratch"]["recipe"]["lr"],
    }


def _dense(document: Document) -> str:
    rows = rows_of(document, "dense", "100%")
    if not rows:
        return "The dense network was not judged yet."
    tuned = [100 * row["tuned_top1"] for row in rows if "tuned_top1" in row]
    after = f"; tuned like the others {_spread(tuned)}" if tuned else ""
    return f"Dense: {100 * rows[0]['top1']:.2f} as published{after} (top-1 in %)."


def _budget(document: Document, budget: str) -> str:
    methods = document["config"]["methods"]
    head = ["method", "measured", "cut", "tuned", "seeds"]
    table = [_line(method, rows_of(document, method, budget)) for method in methods]
    return f"## {budget} of the latency\n\n{markdown(head, table)}{_reasons(document, budget)}"


def _line(method: str, rows: Sequence[Row]) -> list[str]:
    tuned = [row for row in rows if "tuned_top1" in row]
    if not tuned:
        state = "not run yet"
        if any("impossible" in row for row in rows):
            state = "nothing fits"
        return [method, state, "–", "–", "–"]
    return [
        method,
        _spread([100 * row["ratio"] for row in tuned if "ratio" in row], unit=" %"),
        _spread([100 * row["untuned_top1"] for row in tuned]),
        _spread([100 * row["tuned_top1"] for row in tuned]),
        str(len(tuned)),
    ]


def _spread(values: Sequence[float], *, unit: str = "") -> str:
    """The mean, and between which values the seeds lie."""
    if not values:
        return "not timed yet"
    if len(values) == 1:
        return f"{values[0]:.1f}{unit}"
    return f"{mean(values):.1f}{unit} ({min(values):.1f} – {max(values):.1f})"


def _reasons(document: Document, budget: str) -> str:
    """Say once what each way answered where nothing fits."""
    said: dict[str, list[str]] = {}
    for method in document["config"]["methods"]:
        for row in rows_of(document, method, budget)[:1]:
            if "impossible" in row:
                floor = 100 * row["floor_share"] * float(budget.rstrip("%")) / 100
                said.setdefault(f"{floor:.1f} %", []).append(method)
    if not said:
        return ""
    parts = (f"{floor} for {', '.join(methods)}" for floor, methods in said.items())
    return f"\n\nWhere nothing fits, the least that was found takes {'; '.join(parts)}."


def _standing(document: Document) -> str:
    """Say for every budget whether the product's default is ahead, and of whom it is not."""
    lines = []
    for budget in _sorted(document["config"]["budgets"]):
        means = {
            method: mean(row["tuned_top1"] for row in rows)
            for method in document["config"]["methods"]
            if (rows := [r for r in rows_of(document, method, budget) if "tuned_top1" in r])
        }
        if OURS not in means or len(means) < 2:
            continue
        ahead = {m: v for m, v in means.items() if v > means[OURS]}
        worse = ", ".join(
            f"{method} by {100 * (value - means[OURS]):.1f}"
            for method, value in sorted(ahead.items(), key=lambda pair: -pair[1])
        )
        verdict = f"behind {worse} points" if ahead else f"ahead of the {len(means) - 1} others run"
        lines.append(f"- {budget}: `{OURS}` with `taylor` is {verdict}.")
    return "## Who is ahead after tuning\n\n" + "\n".join(lines) if lines else ""


def _ablations(document: Document) -> str:
    ablated = document["config"]["ablations"]
    budget = ablated["budget"]
    methods = {
        "`joint`, distilled, in one shot, closed loop, measured table": OURS,
        **{m: m for m in ablated["methods"]},
    }
    head = ["what is different", "measured", "cut", "tuned", "seeds"]
    table = []
    for said, method in methods.items():
        rows = [r for r in rows_of(document, method, budget) if r["seed"] in ablated["seeds"]]
        line = _line(said, rows)
        if method != OURS and ablated["methods"][method]["by"] == "gradual" and rows:
            line[2] = "–"
        table.append(line)
    return f"## Ablations at {budget}\n\n{markdown(head, table)}"


def draw(document: Document, path: Path) -> None:
    """Draw accuracy over measured latency, a mark per network and a line per method."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "latprune"  # the same figures, the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for number, method in enumerate(document["config"]["methods"]):
        points = [
            (100 * row["ratio"], 100 * row["tuned_top1"])
            for budget in _sorted(document["config"]["budgets"])
            for row in rows_of(document, method, budget)
            if "ratio" in row
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, "os^vDPX*"[number % 8], label=method, alpha=0.8)
    axes.set_xlabel("measured latency, % of the dense network's")
    axes.set_ylabel("top-1 after tuning, %")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


_INTRODUCTION = """
# ResNet-56 on CIFAR-10, at equal measured latency

The published ResNet-56 (He et al. 2016) is narrowed to shares of its latency in ONNX Runtime
({device}; fp32, one picture, one thread), then tuned on
{tuning_images} training pictures in {steps} steps of {batch_size}: the same pictures, order,
augmentation and distillation for every network of a seed. **That is a tuning of seconds, not of
epochs over all of CIFAR-10**: it shows who starts from the better cut, not what is reached in the
end. Accuracies are top-1 in % on {test_images} test pictures (standard error 0.4 to 0.7 points),
"cut" on the first {untuned_test_images} before any tuning, batch norms re-estimated. "Measured" is
the tuned network's time over the dense one's, timed in turns anew. With several seeds: the mean,
and the least and the greatest. A seed draws the pictures that score and tune, and their order.

`python -m studies.cifar run` does all of it and goes on where it was interrupted;
`python -m studies.cifar page` writes this page from `studies/cifar/result.json` ({versions}).
Of the seeds {seeds} there are rows so far of: {done}. [Less than five minutes](README.md) of one
core are enough for two of the rows.

![accuracy over latency](cifar.svg)

- `joint`, HALP, greedy, uniform: latprune with `solver=`, scores by first-order Taylor (`taylor`,
  the default) on {score_images} pictures, the loop closed on the clock. "Fisher" and "magnitude"
  are `joint` with those scores.
- Torch-Pruning: global group Taylor importance on the same pictures, in one step, channels in
  multiples of {round_to} (16, its usual number on GPUs, is all that a layer of the first stage
  has), at 19 ratios, with and without leaving every layer its half (without, it skips layers that
  rounding would empty); the slowest of these networks that was measured to be within the budget.
  **It takes channel i of a padded shortcut for channel i of what it pads**, though they lie 8 and
  16 apart here, so what it removes of one stage is not what it removes of the next: on this
  network its rows show that fault, not its choice of channels.
- narrow, from scratch: one factor for the widths of all layers, new weights, the same steps and
  teacher, at a learning rate of {scratch_lr} in place of {lr}.
- The dense network is tuned as long.
"""

_CLOSING = """
## What this does not show

- What a long training reaches: there is no GPU behind these figures. In {steps} steps a network
  from scratch has hardly begun; trained for as long as the dense one was, narrow networks are
  serious rivals.
- Other networks: this one is narrow (16 to 64 channels), steps of 8 channels are coarse for it, and
  its shortcuts, which pad with zeros, tie all stages together.
- Accuracy of the dense network itself is on the first {test_images} test pictures.
"""
