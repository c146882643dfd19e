"""A network that was pruned for several targets is checked on each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

import latprune as lp
from latprune.latency.devices.here import HERE
from latprune.latency.timing import Comparison, Measurement
from latprune.planning import Promise
from latprune.report.targets import check_everywhere

if TYPE_CHECKING:
    import pytest

EXAMPLE = torch.zeros(1, 3, 8, 8)


def reports(
    patch: pytest.MonkeyPatch, *, one: float, two: float
) -> tuple[tuple[lp.Report, ...], list[str]]:
    """Check a network on one thread and on two, where it takes these shares of the dense time."""
    judged: list[str] = []

    def timed(
        dense: object, small: object, example: object, target: lp.Target, **_: object
    ) -> Comparison:
        ratio = {1: one, 2: two}[target.threads]
        return Comparison(
            Measurement(1.0, 0.001, 9), Measurement(ratio, 0.001, 9), ratio, 0.001, 0.0001
        )

    def judge(model: nn.Module) -> dict[str, float]:
        judged.append(str(model))
        return {"top1": 0.5}

    patch.setattr("latprune.report.comparison.compare", timed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph = lp.trace(model, EXAMPLE)
    target = lp.Target("a test's CPU", "onnxruntime", "1.0")
    half = lp.Budget(fraction=0.5)
    further = Promise(replace(target, threads=2), half, 0.5, 1.0, 0.1, 0.4)
    plan = lp.Plan(
        kept={group.name: tuple(range(group.channels // 2)) for group in graph.groups},
        target=target,
        budget=half,
        budget_ms=0.5,
        baseline_ms=1.0,
        rest_ms=0.1,
        predicted_ms=0.4,
        value=1.0,
        bound=1.0,
        dense_value=2.0,
        solver="joint",
        criterion="taylor",
        also=(further,),
    )
    found = check_everywhere(
        model,
        lp.cut(model, graph, plan),
        plan,
        EXAMPLE,
        graph=graph,
        evaluate=judge,
        calibration=[],
        device=HERE,
    )
    return found, judged


def test_every_target_has_its_report_and_networks_are_judged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (first, second), judged = reports(monkeypatch, one=0.49, two=0.51)

    assert [first.target.threads, second.target.threads] == [1, 2]
    assert [first.met, second.met] == [True, False]
    assert first.small.accuracy == {"top1": 0.5}
    assert second.small.accuracy == {}
    assert len(judged) == 2  # the dense network and the small one


def test_a_budget_that_is_not_used_up_names_the_tighter_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (first, second), _ = reports(monkeypatch, one=0.3, two=0.49)

    assert "Tighter is the budget of 50% in onnxruntime, fp32, 2 threads." in first.verdict
    assert "Tighter" not in second.verdict


def test_a_miss_is_not_blamed_on_another_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    (first, _), _ = reports(monkeypatch, one=0.51, two=0.6)

    assert "Tighter" not in first.verdict
