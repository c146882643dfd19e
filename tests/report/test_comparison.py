"""A report says whether the budget was met, and if not, why."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from latprune.errors import ModelMismatch
from latprune.latency.target import Target
from latprune.latency.timing import Comparison, Measurement
from latprune.planning import Budget
from latprune.report import Report, check, parameters
from tests.report.examples import TARGET, chain, plan_for, report

HALF = Budget(fraction=0.5)
TAKEN = Comparison(Measurement(2.0, 0.1, 9), Measurement(1.0, 0.1, 9), 0.5, 0.01, 0.003)


@pytest.mark.parametrize(
    ("small_ms", "met", "begins"),
    [
        (5.0, True, "Met:"),
        (4.86, True, "Met:"),
        (4.5, True, "Met, with time"),
        (5.01, False, "Not"),
    ],
)
def test_the_verdict_follows_the_clock(small_ms: float, met: bool, begins: str) -> None:
    judged = report(budget=HALF, small_ms=small_ms)

    assert judged.met is met
    assert judged.verdict.startswith(begins)


def test_a_share_is_judged_by_the_ratio_so_that_drift_cancels() -> None:
    # Both networks were timed while the machine ran at half its speed.
    slowed = report(budget=HALF, dense_ms=20.0, small_ms=9.9)

    assert slowed.met
    assert slowed.budget_ms == 10.0


def test_milliseconds_are_judged_by_the_median_alone() -> None:
    judged = report(budget=Budget(ms=5.0), dense_ms=20.0, small_ms=9.9)

    assert not judged.met
    assert judged.used == pytest.approx(1.98)


def test_a_miss_within_the_spread_is_put_down_to_noise() -> None:
    assert "quieter machine" in report(budget=HALF, small_ms=5.02, iqr_ms=0.1).verdict
    assert "quieter machine" not in report(budget=HALF, small_ms=5.2, iqr_ms=0.1).verdict


def test_an_unused_budget_is_explained() -> None:
    uncut = report(budget=Budget(ms=20.0), small_ms=10.0, kept={})
    noisy = report(budget=HALF, small_ms=4.8, iqr_ms=0.3)
    wasted = report(budget=HALF, small_ms=4.0)

    assert "Nothing was cut" in uncut.verdict
    assert "quieter machine" in noisy.verdict
    assert "could keep more" in wasted.verdict


def test_a_budget_that_no_better_network_was_predicted_to_fit_is_not_called_wasted() -> None:
    coarse = report(budget=HALF, small_ms=4.0)
    best = replace(coarse.plan, predicted_ms=4.0, bound=coarse.plan.value)

    assert "no network that keeps more" in replace(coarse, plan=best).verdict
    assert "could keep more" in replace(coarse, plan=replace(best, bound=110.0)).verdict


def test_a_budget_that_worthless_channels_leave_unused_is_put_down_to_their_scores() -> None:
    coarse = report(budget=HALF, small_ms=4.0)
    worthless = replace(coarse.plan, value=coarse.plan.dense_value)

    assert "worth nothing" in replace(coarse, plan=worthless).verdict


def test_a_callers_remark_takes_the_place_of_a_guess() -> None:
    judged = report(budget=HALF, small_ms=6.0, remark="This is the narrowest network.")

    assert judged.verdict.endswith("This is the narrowest network.")


def test_a_busy_machine_is_named_in_the_verdict() -> None:
    quiet = replace(report(budget=HALF), foreign_cores=0.1)
    busy = replace(report(budget=HALF), foreign_cores=1.62)

    assert "busy" not in quiet.verdict
    assert busy.verdict.startswith(quiet.verdict)
    assert "others used 1.6 of its cores" in busy.verdict


def test_widths_and_layers_stand_before_beside_after() -> None:
    judged = report(budget=HALF)

    assert judged.widths == {"conv0": (8, 8), "conv1": (16, 8)}
    before, after = judged.layers["fc"]
    assert after is not None
    assert (before.in_channels, after.in_channels) == (16, 8)
    assert (before.out_channels, after.out_channels) == (10, 10)


def test_json_survives_text_and_says_what_the_report_says() -> None:
    judged = report(budget=HALF)

    read = json.loads(json.dumps(judged.to_json()))

    assert read == judged.to_json()
    assert read["met"] is True
    assert read["dense"]["median_ms"] == 10.0
    assert read["small"]["accuracy"] == {"top1": 0.975}
    assert read["widths"]["conv1"] == [16, 8]
    assert read["layers"]["fc"]["in_channels"] == [16, 8]


def test_print_needs_no_library_and_shows_predicted_beside_measured() -> None:
    text = str(report(budget=HALF))

    assert TARGET.describe() in text
    for figure in ("10.000 ms", "4.950 ms", "4.900 ms", "2.02x", "97.50 %", "-0.50 points"):
        assert figure in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_check_counts_and_judges_both_networks() -> None:
    graph = chain(4, 8)
    dense, small = networks(4, 8), networks(4, 2)

    judged = checked(dense, small, comparison=TAKEN)

    assert judged.dense.accuracy == {"share": judged.dense.parameters / 1000}
    assert judged.small.accuracy == {"share": judged.small.parameters / 1000}
    assert judged.small.parameters == sum(p.numel() for p in small.parameters())
    assert judged.small.macs < judged.dense.macs
    assert (judged.ratio, judged.dense.latency.median_ms) == (0.5, 2.0)
    assert judged.graph.widths == graph.widths


def test_networks_that_were_just_trained_are_judged_in_eval_mode() -> None:
    dense, small = networks(4, 8).train(), networks(4, 2).train()
    modes = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        modes.append(model.training)
        return {}

    plan, example = plan_for(chain(4, 8), {"conv1": 2}, HALF), torch.zeros(1, 3, 8, 8)
    check(dense, small, plan, example, graph=chain(4, 8), comparison=TAKEN, evaluate=evaluate)

    assert modes == [False, False]
    assert dense.training
    assert small.training


def test_groups_that_the_plan_does_not_name_count_as_whole() -> None:
    graph = chain(4, 8)
    plan = plan_for(graph, {"conv1": 2}, HALF)
    of_one = replace(plan, kept={"conv1": plan.kept["conv1"]})

    found, whole = (
        check(
            networks(4, 8),
            networks(4, 2),
            one,
            torch.zeros(1, 3, 8, 8),
            graph=graph,
            comparison=TAKEN,
        )
        for one in (of_one, plan)
    )

    assert found.to_json() == whole.to_json()
    assert found.widths == {"conv0": (4, 4), "conv1": (8, 2)}


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"conv2": (0,)}, "cuts conv2, which has to stay"),
        ({"conv1": (7, 8)}, "more channels in conv1"),
        ({"conv1": ()}, "keeps no channels of conv1.*branches=True"),
    ],
)
def test_a_plan_of_another_graph_is_refused_before_anything_is_timed(
    kept: dict[str, tuple[int, ...]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latprune.report.comparison.compare", not_to_be_called)
    graph = chain(4, 8)
    plan = replace(plan_for(graph, {}, HALF), kept=kept)

    with pytest.raises(ModelMismatch, match=said):
        check(networks(4, 8), networks(4, 2), plan, torch.zeros(1, 3, 8, 8), graph=graph)


def not_to_be_called(*_: object, **__: object) -> None:
    raise AssertionError("it was timed")


def test_check_measures_where_nothing_was_measured() -> None:
    judged = checked(networks(4, 8), networks(4, 2), comparison=None)

    assert judged.dense.latency.median_ms > 0
    assert judged.small.latency.runs > 1
    assert judged.ratio > 0


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_network_in_int8_is_judged_as_it_ships_if_it_can_be_calibrated(calibrated: bool) -> None:
    graph, int8 = chain(8, 16), Target.here("onnxruntime", precision="int8")
    batch = torch.randn(4, 3, 8, 8)
    judged = check(
        networks(8, 16),
        networks(8, 4),
        replace(plan_for(graph, {"conv1": 4}, HALF), target=int8),
        torch.zeros(1, 3, 8, 8),
        graph=graph,
        evaluate=lambda model: {"mean": model(batch).mean().item()},
        calibration=[batch] if calibrated else None,
        comparison=TAKEN,
    )

    text, stored = str(judged), judged.to_json()["small"]["accuracy_as_shipped"]
    assert "mean in fp32" in text
    assert (stored != {}) is ("mean in int8" in text) is calibrated
    assert ("The accuracy in int8 was not measured" in text) is not calibrated
    if calibrated:
        assert 0 < abs(stored["mean"] - judged.small.accuracy["mean"]) < 0.1
        assert judged.dense.shipped.keys() == {"mean"}


def test_in_fp32_what_ships_is_what_was_judged() -> None:
    judged = checked(networks(4, 8), networks(4, 2), comparison=TAKEN)

    assert judged.small.shipped == {}
    assert judged.unjudged == ""


def checked(dense: nn.Module, small: nn.Module, *, comparison: Comparison | None) -> Report:
    graph = chain(4, 8)
    return check(
        dense,
        small,
        replace(plan_for(graph, {"conv1": 2}, HALF), target=Target.here("eager")),
        torch.zeros(1, 3, 8, 8),
        graph=graph,
        evaluate=lambda model: {"share": parameters(model) / 1000},
        comparison=comparison,
    )


def networks(first: int, second: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1),
        nn.Conv2d(first, second, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(second, 10),
    )
