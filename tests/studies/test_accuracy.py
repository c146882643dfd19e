"""Studies of accuracy find equal latencies, keep networks whole, and say what was lost."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from studies.accuracy import gradual, methods
from studies.accuracy.__main__ import STUDIES, Study, cases
from studies.accuracy.counting import Counter
from studies.accuracy.lessons import Lessons, lessons, loss
from studies.accuracy.networks import judge, load_network, save_network
from studies.accuracy.page import write_page
from studies.cifar_resnet import resnet20
from torch import nn

import latprune as lp
from latprune.errors import BudgetTooSmall
from latprune.latency.timing import Comparison, Measurement
from latprune.report.counting import network_macs
from latprune.tuning import distillation
from tests.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from studies.accuracy.bench import Bench
    from studies.subjects import Subject

    PageOf = Callable[[dict[str, Any]], str]

OURS = "joint, relative Gauss-Newton, reconstructed"  # of the study of ResNet-56
CONFIG: dict[str, Any] = {
    "network": "cifar_resnet56",
    "target": {"runtime": "synthetic", "batch": 1, "threads": 1},
    "budgets": ["60%", "5%"],
    "seeds": [0],
    **{"batch_size": 16, "score_images": 16, "calibration_images": 32, "held_out_images": 0},
    **{"tuning_images": 32, "test_images": 100, "untuned_test_images": 100},
    "recipe": {"epochs": 1, "lr": 0.01, "warmup_epochs": 0.0, "precision": "no"},
    "check": {"limit_s": 1.0, "openings": 1},
    "ours": "joint",
    "methods": {
        "joint": {"by": "latprune", "solver": "joint", "criterion": "magnitude"},
        "refitted": {"by": "reconstructed", "method": "joint"},
    },
    "ablations": {
        "of": "joint",
        "budget": "60%",
        "seeds": [0],
        "methods": {
            "untaught": {"by": "another", "method": "joint"},
            "on trial": {"by": "trial", "of": ["joint"], "steps": 1, "held_out_batches": 1},
        },
    },
}


class Stopwatch:
    """A bench whose networks take what a list says; the dense one takes 10 ms."""

    def __init__(self, times_ms: list[float]) -> None:
        self.times_ms = times_ms

    def compare(self, small: int) -> Comparison:
        dense, taken = Measurement(10.0, 0.0, 1), Measurement(self.times_ms[small], 0.0, 1)
        return Comparison(dense, taken, self.times_ms[small] / 10, 0.0, 0.0)


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=30, unique=True), st.floats(0.01, 1.0))
def test_the_search_finds_the_slowest_network_within_a_budget(
    times_ms: list[float], fraction: float
) -> None:
    times_ms.sort()
    fits = [number for number, ms in enumerate(times_ms) if ms / 10 <= fraction]
    bench = cast("Bench", Stopwatch(times_ms))
    models = cast("list[nn.Module]", list(range(len(times_ms))))
    budget = lp.Budget(fraction=fraction)

    if fits:
        assert methods.largest_within(bench, models, budget) == fits[-1]
    else:
        with pytest.raises(BudgetTooSmall):
            methods.largest_within(bench, models, budget)


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_ratios_are_tried_in_order_until_one_is_within_the_budget(
    times_ms: list[float], fraction: float
) -> None:
    fits = [number for number, ms in enumerate(times_ms) if ms / 10 <= fraction]
    bench = cast("Bench", Stopwatch(times_ms))
    models = cast("list[nn.Module]", list(range(len(times_ms))))
    budget = lp.Budget(fraction=fraction)

    if fits:
        assert methods.first_within(bench, models, budget) == fits[0]
    else:
        with pytest.raises(BudgetTooSmall) as caught:
            methods.first_within(bench, models, budget)
        assert caught.value.floor_ms == pytest.approx(min(times_ms))


@pytest.mark.parametrize("network", methods.BUILT)
def test_narrower_networks_run_and_end_with_the_dense_one(network: str) -> None:
    dense, build = methods.BUILT[network]

    found = methods.narrower(dense, 8, factors=8)

    assert found[-1] == dense
    assert len(set(found)) == len(found)
    for stages in found:
        assert build(stages).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
        assert all(width % 8 == 0 for width in stages)


def test_networks_come_back_from_their_files_as_they_were(tmp_path: Path) -> None:
    dense, example = resnet20().eval(), torch.randn(1, 3, 32, 32)
    graph = lp.trace(dense, example, branches=True)
    kept = {group.name: range(group.channels // 2) for group in graph.groups}
    kept |= {group: range(0) for group in graph.branches[1].groups}
    small = lp.cut(dense, graph, _plan(graph, dense, kept))
    save_network(small, tmp_path / "cut.pt")

    cut = load_network(tmp_path / "cut.pt").eval()

    torch.testing.assert_close(cut(example), small(example))
    assert cut.get_submodule("layer1.0.conv1").out_channels == 8
    assert len(list(cut.parameters())) < len(list(dense.parameters()))


def test_right_answers_are_counted_as_torch_gives_them() -> None:
    model = resnet20().eval()
    images = torch.randn(200, 3, 32, 32)
    labels = torch.randint(10, (200,))
    with torch.no_grad():
        logits = model(images)
    expected = float((logits.argmax(dim=1) == labels).double().mean())

    judged = judge(model, images, labels, among=range(10))

    assert judged["top1"] == pytest.approx(expected, abs=0.011)
    assert judged["top1_restricted"] == judged["top1"]  # asked about all there are
    assert judged["test_loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4)
    odd = judge(model, images, labels // 2 * 2 + 1, among=[1, 3, 5, 7, 9])["test_loss"]
    assert odd == pytest.approx(float(F.cross_entropy(logits[:, 1::2], labels // 2)), rel=1e-4)
    assert judge(model, images, labels.clamp(max=0), among=[0])["top1_restricted"] == 1


def test_counted_budgets_are_shares_of_the_multiply_accumulates() -> None:
    model, example = resnet20().eval(), torch.randn(1, 3, 32, 32)
    graph = lp.trace(model, example)
    target = lp.Target.here(runtime="onnxruntime", batch=1, threads=1)
    table = lp.measure(model, graph, example, target, device=Counter(graph))

    plan = lp.plan(graph, table, lp.magnitude(model, graph), lp.Budget(fraction=0.6))

    share = network_macs(graph, plan.widths) / network_macs(graph, graph.widths)
    assert plan.predicted_ms / plan.baseline_ms == pytest.approx(share, rel=1e-3)
    assert 0.55 < share <= 0.6


def test_lessons_go_over_the_pictures_as_often_as_it_takes(tmp_path: Path) -> None:
    pictures = [(torch.full((3, 32, 32), float(number)), number) for number in range(10)]
    subject = cast("Subject", SimpleNamespace(model=resnet20().eval(), tuning=lambda: pictures))

    drawn = lessons(subject, tmp_path / "drawn", count=25, batch_size=4, seed=0)

    labels = drawn.labels.tolist()
    assert len(drawn) == 25
    assert sorted(labels[:10]) == sorted(labels[10:20]) == list(range(10))
    assert labels[:10] != labels[10:20]
    assert drawn.images[:, 0, 0, 0].tolist() == labels
    with torch.no_grad():
        torch.testing.assert_close(drawn.logits, subject.model(drawn.images), rtol=1e-4, atol=1e-4)


def test_the_teaching_is_that_of_tune() -> None:
    outputs, logits, labels = torch.randn(4, 10), torch.randn(4, 10), torch.arange(4)
    recipe = lp.Recipe(distillation=0.25, temperature=3.0)

    mixed = loss(outputs, {"labels": labels, "logits": logits}, recipe=recipe)

    labelled = lp.cross_entropy(outputs, labels)
    taught = distillation(outputs, logits, temperature=3.0)
    torch.testing.assert_close(mixed, 0.75 * labelled + 0.25 * taught)


@pytest.mark.parametrize("soft", [False, True])
def test_gradual_pruning_ends_at_the_budget(monkeypatch: pytest.MonkeyPatch, soft: bool) -> None:
    Synthetic().install(monkeypatch)
    model, example = resnet20(), torch.randn(1, 3, 32, 32)
    graph = lp.trace(model.eval(), example)
    target = lp.Target.here(runtime="synthetic", batch=1, threads=1)
    bench = _Bench(graph, lp.measure(model, graph, example, target))
    recipe = lp.Recipe(epochs=1, lr=0.01, precision="no")
    settings = {"steps": 2, "every": 1, "aim": 1.0, "soft": soft}

    _, taken = gradual.train(model, cast("Bench", bench), settings, budget="60%", recipe=recipe)

    small = Synthetic().network_ms(model.eval(), example)
    assert taken == 2
    share = small / Synthetic().network_ms(resnet20().eval(), example)
    assert 0.55 < share < 0.61  # predicted between measured widths, and not closed by timing


def test_torch_prunings_networks_run_and_are_all_different() -> None:
    pytest.importorskip("torch_pruning")
    from studies.accuracy.other_pruner import candidates

    model, example = resnet20().eval(), torch.randn(1, 3, 32, 32)
    batches = [(torch.randn(8, 3, 32, 32), torch.randint(10, (8,)))]

    found = candidates(model, example, batches, round_to=8)

    sizes = {sum(p.numel() for p in candidate.model.parameters()) for candidate in found}
    assert len(sizes) > 3
    assert min(sizes) < 0.5 * max(sizes)
    for candidate in found:
        convolutions = [m for m in candidate.model.modules() if isinstance(m, nn.Conv2d)]
        assert all(layer.out_channels % 8 == 0 for layer in convolutions)
        assert candidate.model(example).shape == (1, 10)


def test_the_study_goes_from_config_to_page_and_does_nothing_twice(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shared_data: Path,
) -> None:
    monkeypatch.setenv("LATPRUNE_DATA", str(shared_data))
    watch = Synthetic(whole=1.2)
    watch.install(monkeypatch)
    monkeypatch.setattr(lp, "compare", watch.compare)
    study = Study(CONFIG, tmp_path / "runs")
    for stage in ("score", "cut", "tune", "check"):
        for case in cases(CONFIG):
            getattr(study, stage)(case)
    capsys.readouterr()

    again = Study(CONFIG, tmp_path / "runs")
    for stage in ("score", "cut", "tune", "check"):
        for case in cases(CONFIG):
            getattr(again, stage)(case)

    rows = again.found(known={})
    assert capsys.readouterr().out == ""
    assert rows["joint, 60%, seed 0"]["ratio"] <= 0.6
    assert "no network fits" in rows["joint, 5%, seed 0"]["impossible"]
    assert rows["refitted, 60%, seed 0"]["widths"] == rows["joint, 60%, seed 0"]["widths"]
    assert rows["refitted, 60%, seed 0"]["loss"] != rows["joint, 60%, seed 0"]["loss"]
    assert rows["refitted, 5%, seed 0"]["impossible"] == rows["joint, 5%, seed 0"]["impossible"]
    assert rows["untaught, 60%, seed 0"]["ratio"] == rows["joint, 60%, seed 0"]["ratio"]
    assert rows["on trial, 60%, seed 0"]["network_of"] == "joint"
    assert set(rows["on trial, 60%, seed 0"]["tried"]["joint"]) == {"as_cut", "on_trial"}
    assert rows["dense, 100%, seed 0"]["ratio"] == pytest.approx(1.0)

    elsewhere = Study(CONFIG, tmp_path / "empty").found(known={**rows, "of another config": {}})
    assert list(elsewhere.items()) == list(rows.items())


@pytest.fixture
def page_of(tmp_path: Path, repository: Path) -> PageOf:
    """Write a study's page of other rows, timed on "a first machine" unless they say where."""
    study = repository / "studies" / "accuracy" / "cifar"
    document = json.loads((study / "result.json").read_text())
    document["target"]["device"] = "a first machine"

    def written(rows: dict[str, Any]) -> str:
        write_page(study, folder=tmp_path, document={**document, "rows": rows})
        return (tmp_path / "cifar.md").read_text()

    return written


def test_the_page_says_who_is_ahead_and_where_nothing_fits(page_of: PageOf) -> None:
    rows = {
        "a": _row(OURS, "50%", 0.80),
        "b": _row("greedy", "50%", 0.85),
        "c": {"method": "joint", "budget": "35%", "seed": 0, "impossible": "", "floor_share": 1.2},
    }

    page = page_of(rows)

    assert f"50%: {OURS} is behind greedy by 5.0 points" in page
    assert "| joint | nothing fits |" in page
    assert "takes 42.0 % for joint" in page
    assert "| Torch-Pruning | not run yet |" in page


def test_the_page_names_the_device_once_where_it_is_the_same(page_of: PageOf) -> None:
    page = page_of({"a": _row("joint", "50%", 0.80), "b": _row("greedy", "50%", 0.70)})

    assert page.count("a first machine") == 1
    assert "| on |" not in page


def test_the_page_says_which_rows_were_timed_on_which_device(page_of: PageOf) -> None:
    rows = {
        "a": _row("joint", "50%", 0.80),
        "b": {**_row("joint", "50%", 0.80, seed=2), "device": "a second machine"},
        "c": {**_row("joint", "50%", 0.80, seed=1), "device": "a third machine"},
        "d": {**_row("greedy", "35%", 0.80), "device": "a second machine"},
        "e": {**_row("greedy", "35%", 0.80, seed=1), "device": "a second machine"},
        "f": {**_row("joint", "70%", 0.80), "device": "a third machine"},
        "g": {**_row("HALP, 30 steps", "70%", 0.80)},
    }

    page = page_of(rows)

    named = ["- A: a second machine", "- B: a first machine", "- C: a third machine"]
    assert "\n".join(named) in page
    assert "(machines A to C, named below;" in page
    assert "(machines A and B, named below;" in page_of({name: rows[name] for name in "ab"})
    at_70, at_50, at_35 = (page.split("\n## ")[place].splitlines() for place in (1, 2, 3))

    def on(method: str, lines: list[str]) -> str:
        (line,) = (line for line in lines if line.startswith(f"| {method} |"))
        return line.split("|")[-2].strip()

    assert on("method", at_50) == "on"
    assert on("joint", at_50) == "B, C, A"  # in the order of the seeds
    assert on("greedy", at_35) == "A"  # the same for both
    assert on("joint", at_70) == "C"
    assert on("Torch-Pruning", at_70) == "–"


def test_methods_are_compared_over_the_seeds_that_both_have(page_of: PageOf) -> None:
    rows = {
        "a": _row(OURS, "50%", 0.80),
        "b": _row(OURS, "50%", 0.90, seed=1),
        "c": {**_row("greedy", "50%", 0.92, seed=1), "tuned_test_loss": 0.25},
        "d": {**_row("joint", "50%", 0.70), "tuned_test_loss": 0.5},
        "e": {**_row("joint", "50%", 0.70, seed=2), "tuned_test_loss": 0.7},
    }

    page = page_of(rows)

    assert "over the seeds that both were run with:\n\n- 50%: " in page
    assert "is behind greedy by 2.0 points." in page
    table = page.split("## 50% of the latency")[1].split("##")[0]
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table.splitlines()}
    assert [lines[name][4] for name in ("method", "greedy", "joint", OURS)] == [
        "test loss",
        "0.250",
        "0.600",
        "–",
    ]


def test_the_page_says_who_is_level(page_of: PageOf) -> None:
    rows = {
        "a": _row(OURS, "50%", 0.80001),
        "b": _row("greedy", "50%", 0.80002),
        "c": _row("joint", "50%", 0.81),
    }

    page = page_of(rows)

    assert "is behind joint by 1.0 points and level with greedy." in page


@pytest.mark.parametrize("study", STUDIES)
def test_the_published_page_is_what_the_result_says(
    study: str, tmp_path: Path, repository: Path
) -> None:
    write_page(repository / "studies" / "accuracy" / study, folder=tmp_path)

    published = repository / "docs" / "results" / f"{study}.md"
    assert (tmp_path / f"{study}.md").read_text() == published.read_text()


class _Bench:
    """What gradual training asks of a bench."""

    def __init__(self, graph: lp.PruningGraph, table: lp.LatencyTable) -> None:
        self.graph, self.table, self.config = graph, table, {"batch_size": 4}
        self.lessons = Lessons(
            torch.randn(16, 3, 32, 32), torch.arange(16) % 10, torch.randn(16, 10)
        )


def _row(method: str, budget: str, tuned: float, *, seed: int = 0) -> dict[str, Any]:
    facts = {"ratio": 0.49, "untuned_top1": 0.3, "tuned_top1": tuned}
    return {"method": method, "budget": budget, "seed": seed, **facts}


def _plan(graph: lp.PruningGraph, dense: nn.Module, kept: dict[str, Any]) -> lp.Plan:
    """A plan that nobody made for a latency."""
    target = lp.Target.here(runtime="onnxruntime", batch=1, threads=1)
    table = lp.measure(dense, graph, torch.zeros(1, 3, 32, 32), target, device=Counter(graph))
    plan = lp.plan(graph, table, lp.magnitude(dense, graph), lp.Budget(fraction=0.9))
    stored = plan.to_json()
    return lp.Plan.from_json({**stored, "kept": {g: list(c) for g, c in kept.items()}})
