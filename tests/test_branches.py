"""Plans that remove whole residual branches, from the knapsack to the file."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import latprune as lp
from latprune.errors import ModelMismatch
from latprune.graph.groups import Branch
from latprune.latency.staircase import lines_needed, options
from latprune.latency.table import Cut
from latprune.latency.timing import Comparison, Measurement
from latprune.report.counting import network_macs, parameters
from latprune.report.text import merged
from latprune.tuning import distillation
from tests import blocks
from tests.graph.test_branching import kept_without
from tests.synthetic import Synthetic
from tests.test_planning import TARGET, made_up_ms
from tests.test_surgery import a_plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

EXAMPLE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
RESIDUALS = lp.trace(blocks.Residuals(), EXAMPLE, branches=True)


def test_a_prompt_shows_a_branch_as_its_layers_alone() -> None:
    branch = RESIDUALS.branches[0]

    assert repr(branch) == f"<Branch: {branch.name}, layers {', '.join(branch.layers)}>"


def every_choice(graph: lp.PruningGraph, table: lp.LatencyTable) -> list[dict[str, int]]:
    """All widths that a plan may have, with every set of branches removed."""
    inside = {group for branch in graph.branches for group in branch.groups}
    allowed = {
        name: [0, *widths] if name in inside else list(widths)
        for name, widths in options(graph, table).items()
    }
    every = (dict(zip(allowed, at, strict=True)) for at in itertools.product(*allowed.values()))
    return [widths for widths in every if graph.allows(widths)]


def made_up_table(graph: lp.PruningGraph) -> lp.LatencyTable:
    table = lp.LatencyTable(TARGET)
    for shape in (*lines_needed(graph), *graph.shapes_at(graph.widths).values()):
        table.add(shape, Measurement(made_up_ms(shape), 0.0, 1))
    for widths in every_choice(graph, table):
        for shape in graph.shapes_at(widths).values():
            table.add(shape, Measurement(made_up_ms(shape), 0.0, 1))
    dense_ms = table.layers_ms(graph, graph.widths)
    table.add_network(graph, Measurement(dense_ms, 0.0, 1))
    return table


TABLE = made_up_table(RESIDUALS)


def random_saliency(seed: int) -> lp.Saliency:
    rng = np.random.default_rng(seed)
    scores = {group.name: rng.lognormal(size=group.channels) for group in RESIDUALS.groups}
    return lp.Saliency(scores, criterion="random")


def a_plan_without(graph: lp.PruningGraph, *names: str) -> lp.Plan:
    kept = kept_without(graph, names, share=0.4)
    return replace(a_plan(graph), kept={name: tuple(channels) for name, channels in kept.items()})


@pytest.mark.parametrize("share", [0.3, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_widths_keep_more_where_branches_can_go(share: float, seed: int) -> None:
    saliency = random_saliency(seed)
    budget_ms = share * TABLE.network(RESIDUALS).median_ms

    made = lp.plan(RESIDUALS, TABLE, saliency, lp.Budget(fraction=share))

    best = max(
        sum(float(saliency.values(group)[width]) for group, width in widths.items())
        for widths in every_choice(RESIDUALS, TABLE)
        if TABLE.layers_ms(RESIDUALS, widths) <= budget_ms
    )
    assert made.value == pytest.approx(best)
    assert made.predicted_ms == pytest.approx(TABLE.layers_ms(RESIDUALS, made.widths))
    assert made.predicted_ms <= budget_ms


def test_a_budget_below_all_narrow_networks_is_met_without_branches() -> None:
    whole = replace(RESIDUALS, branches=())
    budget = lp.Budget(ms=0.9 * narrowest_ms(whole))

    with pytest.raises(lp.BudgetTooSmall):
        lp.plan(whole, TABLE, random_saliency(0), budget)
    made = lp.plan(RESIDUALS, TABLE, random_saliency(0), budget)

    assert any(branch.is_removed(made.widths) for branch in RESIDUALS.branches)


def narrowest_ms(graph: lp.PruningGraph) -> float:
    return min(TABLE.layers_ms(graph, widths) for widths in every_choice(graph, TABLE))


def test_branches_stay_where_some_channels_are_gone_already() -> None:
    every = {group.name: range(group.channels) for group in RESIDUALS.groups}
    budget = lp.Budget(ms=1.05 * narrowest_ms(replace(RESIDUALS, branches=())))

    made = lp.plan(RESIDUALS, TABLE, random_saliency(0), budget, within=every)

    assert min(made.widths.values()) > 0


def test_times_of_networks_without_branches_are_known_only_to_graphs_that_have_them() -> None:
    table = made_up_table(RESIDUALS)
    widths = {**RESIDUALS.widths, "blocks.1.first.0": 0}
    one = Measurement(1.0, 0.1, 10)
    table.add_cut(RESIDUALS, widths, Comparison(one, one, 1.0, 0.1, 0.01))

    assert table.cuts(RESIDUALS) == [Cut(widths, Comparison(one, one, 1.0, 0.1, 0.01))]
    assert table.cuts(replace(RESIDUALS, branches=())) == []


@pytest.mark.parametrize("network", blocks.WITH_BRANCHES)
def test_a_network_without_branches_comes_back_bit_by_bit_and_computes_the_same_in_onnx(
    network: type[nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = network().eval()
    graph = lp.trace(model, EXAMPLE, branches=True)
    plan = a_plan_without(graph, *(branch.name for branch in graph.branches[::2]))
    small = lp.cut(model, graph, plan)
    lp.recalibrate(small, [(EXAMPLE, torch.zeros(2))])
    lp.save(small, tmp_path / "small.safetensors", graph=graph, plan=plan)

    again = lp.load(tmp_path / "small.safetensors", network().eval())
    lp.export_onnx(small, EXAMPLE, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: EXAMPLE.numpy()})

    expected = small(EXAMPLE).detach()
    assert small.state_dict().keys() == again.state_dict().keys()
    assert torch.equal(again(EXAMPLE), expected)
    assert np.abs(found - expected.numpy()).max() <= 1e-4 * float(expected.abs().max())


def test_weights_of_a_fresh_network_do_not_matter_where_branches_were_removed(
    tmp_path: Path,
) -> None:
    model = blocks.Residuals().eval()
    plan = a_plan_without(RESIDUALS, RESIDUALS.branches[0].name)
    small = lp.cut(model, RESIDUALS, plan)
    lp.save(small, tmp_path / "small.safetensors", graph=RESIDUALS, plan=plan)
    fresh = blocks.Residuals().eval()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(torch.nan)

    again = lp.load(tmp_path / "small.safetensors", fresh)

    assert torch.equal(small(EXAMPLE), again(EXAMPLE))


def test_a_pt2_file_needs_nothing_of_the_branch(tmp_path: Path) -> None:
    model = blocks.Residuals().eval()
    small = lp.cut(model, RESIDUALS, a_plan_without(RESIDUALS, "blocks.0", "blocks.1"))

    lp.export_pt2(small, EXAMPLE, tmp_path / "small.pt2")

    found = torch.export.load(tmp_path / "small.pt2").module()(EXAMPLE)
    assert torch.allclose(found, small(EXAMPLE), atol=1e-5)


def test_files_from_before_branches_are_still_read(tmp_path: Path) -> None:
    model = blocks.Residuals().eval()
    plan = a_plan(RESIDUALS)
    small = lp.cut(model, RESIDUALS, plan)
    lp.save(small, tmp_path / "new.safetensors", graph=RESIDUALS, plan=plan)
    with safe_open(str(tmp_path / "new.safetensors"), framework="pt") as file:
        metadata = {**file.metadata(), "version": "1"}
    del metadata["branches"]
    tensors = load_file(tmp_path / "new.safetensors")
    save_file(tensors, tmp_path / "old.safetensors", metadata=metadata)

    old = lp.load(tmp_path / "old.safetensors", blocks.Residuals().eval())

    assert torch.equal(old(EXAMPLE), small(EXAMPLE))


def test_a_plan_that_empties_a_group_beside_branches_is_refused() -> None:
    model = blocks.Residuals().eval()
    plan = a_plan_without(RESIDUALS, "blocks.1")

    with pytest.raises(ModelMismatch, match="knows no branch"):
        lp.cut(model, replace(RESIDUALS, branches=()), plan)


def test_a_branch_survives_json_exactly() -> None:
    for branch in RESIDUALS.branches:
        stored = json.dumps(branch.to_json())

        assert json.dumps(Branch.from_json(json.loads(stored)).to_json()) == stored


def test_what_is_removed_counts_no_work_and_is_said_to_be_removed() -> None:
    plan = a_plan_without(RESIDUALS, "blocks.0", "blocks.1", "blocks.2")
    small = lp.cut(blocks.Residuals(), RESIDUALS, plan)
    layers = RESIDUALS.shapes_at(plan.widths)

    assert network_macs(RESIDUALS, plan.widths) == sum(shape.macs for shape in layers.values())
    assert parameters(small) < parameters(blocks.Residuals())
    (row,) = (r for r in merged(told(plan)) if r.name == "blocks.1.first.0")
    assert (row.pruned, row.kept) == ("removed", 0.0)


def told(plan: lp.Plan) -> Mapping[str, tuple[int, int]]:
    return {name: (width, plan.widths[name]) for name, width in RESIDUALS.widths.items()}


def test_prune_removes_branches_that_are_worth_nothing_and_keeps_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic(whole=1.2).install(monkeypatch)
    model = blocks.Residuals().eval()

    pruned = lp.prune(
        model,
        EXAMPLE,
        "60%",
        target=lp.Target.here("synthetic", batch=2),
        branches=True,
        criterion=_inner_channels_are_worth_nothing,
        folder=tmp_path,
    )
    pruned.save(tmp_path / "small.safetensors")

    removed = pruned.report.to_json()["removed"]
    assert removed
    assert pruned.report.met
    assert all(pruned.plan.widths[f"{name}.first.0"] == 0 for name in removed)
    again = lp.load(tmp_path / "small.safetensors", blocks.Residuals().eval())
    assert torch.equal(again(EXAMPLE), pruned.model(EXAMPLE))


LOADER = [(torch.randn(4, 3, 12, 12), torch.zeros(4, dtype=torch.int64)) for _ in range(3)]


@pytest.mark.parametrize(
    ("criterion", "loader", "asked", "may_go"),
    [
        ("relative_fisher", LOADER, None, True),
        ("relative_gauss_newton", LOADER, None, True),
        (None, LOADER, None, True),
        (None, None, None, False),
        ("relative_fisher", LOADER, False, False),
        ("relative_fisher", None, None, False),
        ("relative_fisher", None, True, True),
        ("fisher", LOADER, None, False),
        ("fisher", LOADER, True, True),
        (["relative_fisher", "fisher"], LOADER, None, False),
        (lp.magnitude, LOADER, None, False),
    ],
)
def test_branches_may_go_by_default_where_their_price_can_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    criterion: Any, loader: Any, asked: Any, may_go: bool,
) -> None:  # fmt: skip
    Synthetic(whole=1.2).install(monkeypatch)
    target = lp.Target.here("synthetic", batch=2)

    pruned = lp.prune(
        blocks.Residuals().eval(), EXAMPLE, "90%", loader=loader, target=target, branches=asked,
        criterion=criterion, folder=tmp_path,
    )  # fmt: skip

    assert bool(pruned.graph.branches) is may_go


def own_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Give a loss that is not the default one: by itself it says what branches are worth."""
    return F.cross_entropy(outputs, labels)


def own_distance(
    outputs: torch.Tensor, taught: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Give a distance of which nothing says how it curves."""
    return F.mse_loss(outputs, taught)


@pytest.mark.parametrize(
    ("taught", "criterion"),
    [
        ({}, "relative_gauss_newton"),
        ({"loss": own_loss}, "relative_fisher"),
        ({"loss": own_loss, "distil": distillation}, "relative_gauss_newton"),
        ({"loss": own_loss, "distil": own_distance}, "relative_fisher"),
        ({"distil": own_distance}, "relative_gauss_newton"),
    ],
)
def test_a_branch_that_changes_nothing_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taught: dict[str, Any], criterion: str
) -> None:
    Synthetic(whole=1.2).install(monkeypatch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = blocks.Residuals().eval()
    idle = RESIDUALS.branches[1]
    for module in idle.modules:
        for norm in model.get_submodule(module).modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                torch.nn.init.zeros_(norm.weight)
    with torch.no_grad():
        loader = [(images, model(images).argmax(dim=1)) for images, _ in LOADER]

    pruned = lp.prune(
        model, EXAMPLE, "85%", loader=loader, folder=tmp_path,
        target=lp.Target.here("synthetic", batch=2), **taught,
    )  # fmt: skip

    assert pruned.report.to_json()["removed"] == [idle.name]
    assert pruned.plan.criterion == criterion
    assert not pruned.reranked


def test_pictures_without_labels_suffice_to_cut_a_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic(whole=1.2).install(monkeypatch)
    unlabelled = [(images, None) for images, _ in LOADER]
    target = lp.Target.here("synthetic", batch=2)
    model = blocks.Residuals().eval()

    by_pictures, by_labels = (
        lp.prune(model, EXAMPLE, "85%", loader=loader, folder=tmp_path / name, target=target)
        for name, loader in (("pictures", unlabelled), ("labels", LOADER))
    )

    assert by_pictures.plan.kept == by_labels.plan.kept


def _inner_channels_are_worth_nothing(_: nn.Module, graph: lp.PruningGraph) -> lp.Saliency:
    inside = {group for branch in graph.branches for group in branch.groups}
    scores = {g.name: np.full(g.channels, float(g.name not in inside)) for g in graph.groups}
    return lp.Saliency(scores, criterion="by hand")
