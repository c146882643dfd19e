"""The whole line in one call: real scores, real tuning, a clock that is a formula."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import latprune as lp
import latprune.report.comparison
from latprune.batches import first
from latprune.pipeline import ALWAYS_NOTED
from latprune.states import count_subnormals
from latprune.surgery import load_notes
from tests.synthetic import Synthetic
from tests.test_fitting import EXAMPLE, Network, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from latprune.knapsack import Choice, Solver
    from latprune.latency.timing import Comparison


@pytest.fixture(autouse=True)
def synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    Synthetic(whole=1.2, rest_ms=0.05).install(monkeypatch)


@pytest.fixture
def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (64,), generator=generator)
    images = torch.randn(64, 3, 16, 16, generator=generator) + labels.view(-1, 1, 1, 1)
    return DataLoader(TensorDataset(images, labels), batch_size=16)


@pytest.fixture
def evaluate(loader: DataLoader[tuple[torch.Tensor, ...]]) -> Callable[..., Mapping[str, float]]:
    @torch.no_grad()
    def top1(model: nn.Module) -> dict[str, float]:
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
        return {"top1": right / 64}

    return top1


RECIPE = lp.Recipe(epochs=4, lr=0.05, warmup_epochs=0, distillation=0, precision="no")


def test_a_network_is_pruned_tuned_and_reported(
    loader: DataLoader[tuple[torch.Tensor, ...]],
    evaluate: Callable[..., Mapping[str, float]],
    tmp_path: Path,
) -> None:
    model = Network()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    result = lp.prune(
        model,
        EXAMPLE,
        "50%",
        loader=loader,
        target=lp.Target.here("synthetic"),
        recipe=RECIPE,
        evaluate=evaluate,
        folder=tmp_path,
    )

    assert result.report.met
    assert result.report.ratio <= 0.5
    assert len(result.history) == 4
    assert result.report.small.accuracy["top1"] > result.report.dense.accuracy["top1"] + 0.1
    assert set(result.before_tuning) == {"top1"}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "Met" in str(result.report)


@pytest.mark.parametrize("seed", [0, 1])
def test_in_int8_what_ships_is_calibrated_with_the_same_batches_and_judged(
    loader: DataLoader[tuple[torch.Tensor, ...]],
    evaluate: Callable[..., Mapping[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    Synthetic(whole=1.2, precisions=("fp32", "int8")).install(monkeypatch)
    asked: list[torch.Tensor] = []
    torch.manual_seed(seed)
    others = DataLoader(TensorDataset(torch.randn(32, 3, 16, 16), torch.zeros(32)), batch_size=8)

    def ships(
        model: nn.Module, example: object, target: lp.Target, batches: list[torch.Tensor]
    ) -> nn.Module:
        asked.append(torch.cat(batches))
        return model

    monkeypatch.setattr(latprune.report.comparison, "as_shipped", ships)
    result = lp.prune(
        Network(),
        EXAMPLE,
        "50%",
        loader=loader,
        target=lp.Target.here("synthetic", precision="int8"),
        calibration=others if seed else None,
        calibration_batches=3,
        recipe=replace(RECIPE, epochs=1, seed=seed),
        evaluate=evaluate,
        folder=tmp_path,
    )

    expected = [inputs for inputs, _ in first(others if seed else loader, 3, seed=0)]
    assert len(asked) == 2
    assert all(torch.equal(batches, torch.cat(expected)) for batches in asked)
    assert result.report.small.shipped == result.report.small.accuracy
    assert "top1 in int8" in str(result.report)


def test_what_is_left_answers_more_like_the_dense_network_once_it_is_reconstructed(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    model, target = Network(), lp.Target.here("synthetic")
    lp.tune(model, loader, recipe=RECIPE)
    images = torch.cat([batch for batch, _ in loader])
    far: dict[bool, float] = {}
    for reconstruct in (True, False):
        told = Told()
        pruned = lp.prune(
            model, EXAMPLE, "50%", loader=loader, target=target, folder=tmp_path,
            reconstruct=reconstruct, progress=told,
        )  # fmt: skip
        with torch.no_grad():
            answered, wanted = pruned.model(images), pruned.dense(images)
        far[reconstruct] = float(F.mse_loss(answered, wanted))
        assert any("layers reconstructed" in step for step in told.steps) == reconstruct

    assert far[True] < 0.7 * far[False]


def test_without_data_channels_are_scored_by_magnitude_and_nothing_is_tuned(
    tmp_path: Path,
) -> None:
    model, before = Network(), torch.get_rng_state()
    result = lp.prune(model, EXAMPLE, 0.6, target=lp.Target.here("synthetic"), folder=tmp_path)

    assert result.plan.criterion == "relative_magnitude"
    assert torch.equal(torch.get_rng_state(), before)
    assert result.history == ()
    assert result.report.met


def test_a_saved_result_carries_its_report(tmp_path: Path) -> None:
    result = lp.prune(Network(), EXAMPLE, 0.6, target=lp.Target.here("synthetic"), folder=tmp_path)
    result.save(tmp_path / "out" / "small.safetensors")

    again = lp.load(tmp_path / "out" / "small.safetensors", Network()).eval()

    assert torch.equal(again(EXAMPLE), result.model.eval()(EXAMPLE))
    notes = load_notes(tmp_path / "out" / "small.safetensors")
    assert notes["report"] == result.report.to_json()


def test_what_a_prompt_shows_of_results_is_a_line(tmp_path: Path) -> None:
    target = lp.Target.here("synthetic")
    result = lp.prune(Network(), EXAMPLE, 0.6, target=target, folder=tmp_path)
    graph = result.graph
    table = lp.measure(Network(), graph, EXAMPLE, target, folder=tmp_path)
    saliency, budget = lp.magnitude(Network(), graph), lp.Budget(fraction=0.6)
    fitted = lp.fit(Network(), graph, EXAMPLE, table, saliency, budget)

    for what, said in [
        (result, f"takes {result.report.used:.1%} of its budget of 60%"),
        (result.report, f"takes {result.report.used:.1%} of its budget of 60%"),
        (result.plan, f"predicted to take {result.plan.predicted_ms:.4g} of "),
        (fitted, f"<Fitted: Network, takes {fitted.used:.1%} of its budget of 60%, "),
        (graph, f" channels in {len(graph.groups)} groups, {len(graph.layers)} layers, "),
        (graph.groups[0], f"<ChannelGroup: {graph.groups[0].name}, "),
        (graph.groups[0].members[0], "<Member: axis 0 of "),
        (saliency, f"<Saliency: magnitude, {sum(graph.widths.values())} channels in "),
        (table, f"<LatencyTable: {len(table)} layers, {target.describe()}>"),
    ]:
        assert said in repr(what)
        assert len(repr(what)) < 150


@pytest.mark.parametrize(
    ("stage", "after", "repeated"), [("reconstruct", 1, ["reconstruct"]), ("tune", 5, [])]
)
def test_an_interrupted_run_goes_on_and_ends_the_same(
    loader: DataLoader[tuple[torch.Tensor, ...]],
    evaluate: Callable[..., Mapping[str, float]],
    tmp_path: Path,
    stage: str,
    after: int,
    repeated: list[str],
) -> None:
    class Stop(Exception):
        pass

    class Stops(Told):
        def __init__(self, after: int) -> None:
            super().__init__()
            self.after = after

        def step(self, done: int, total: int | None, what: str) -> None:
            if self.stages[-1] == stage and done >= self.after:
                raise Stop

    def run(checkpoint: Path, after: int) -> tuple[lp.Pruned, list[str]]:
        torch.manual_seed(0)
        told = Stops(after)
        result = lp.prune(
            Network(),
            EXAMPLE,
            "50%",
            loader=loader,
            target=lp.Target.here("synthetic"),
            recipe=RECIPE,
            evaluate=evaluate,
            folder=checkpoint / "tables",
            checkpoint=checkpoint,
            progress=told,
        )
        return result, told.stages

    unbroken, _ = run(tmp_path / "unbroken", after=1000)
    with pytest.raises(Stop):
        run(tmp_path / "broken", after=after)
    resumed, stages = run(tmp_path / "broken", after=1000)

    assert stages == ["trace", *repeated, "tune", "check"]
    assert resumed.plan == unbroken.plan
    expected = unbroken.model.state_dict()
    assert all(torch.equal(expected[k], v) for k, v in resumed.model.state_dict().items())


def test_a_checkpoint_of_another_budget_is_refused(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    def run(budget: str) -> lp.Pruned:
        return lp.prune(
            Network(),
            EXAMPLE,
            budget,
            loader=loader,
            target=lp.Target.here("synthetic"),
            folder=tmp_path / "tables",
            checkpoint=tmp_path / "run",
        )

    run("50%")
    with pytest.raises(lp.ModelMismatch, match="was cut to 50%"):
        run("60%")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, "hash of the dense network's weights"),
        ({"criterion": "relative_magnitude"}, "criteria: .'taylor'. there"),
        ({"solver": lp.uniform}, "solvers: .*joint.* there and .*uniform.* here"),
    ],
    ids=["weights", "criterion", "solver"],
)
def test_a_cut_of_another_network_or_by_other_means_is_refused(
    tmp_path: Path,
    loader: DataLoader[tuple[torch.Tensor, ...]],
    change: dict[str, Any],
    message: str,
) -> None:
    def run(criterion: Any = "taylor", solver: Solver = lp.joint, model: str = "same") -> None:
        torch.manual_seed(len(model))
        lp.prune(
            Network(),
            EXAMPLE,
            "50%",
            loader=loader,
            target=lp.Target.here("synthetic"),
            criterion=criterion,
            solver=solver,
            folder=tmp_path / "tables",
            checkpoint=tmp_path / "run",
        )

    run()
    run()
    with pytest.raises(lp.ModelMismatch, match=message):
        run(**change)


OTHERWISE: list[tuple[dict[str, Any], str]] = [
    ({"keep": ["0"]}, r"keep: \[\] there and \['0'\] here"),
    ({"branches": True}, "branches: False there and True here"),
    ({"reconstruct": False}, "reconstruct: True there and False here"),
    ({"score_batches": 1}, "score_batches: 16 there and 1 here"),
    ({"recipe": replace(RECIPE, seed=3)}, "seed: 0 there and 3 here"),
    ({"loss": F.multi_margin_loss}, "loss: .*cross_entropy there and .*multi_margin_loss here"),
    ({"distil": F.mse_loss}, "distil: .*Distillation there and .*mse_loss here"),
]


def test_a_cut_that_was_asked_for_otherwise_is_refused_but_for_what_older_files_do_not_say(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    model, file = Network(), tmp_path / "run" / "cut.safetensors"

    def run(**options: Any) -> lp.Pruned:
        return lp.prune(
            model, EXAMPLE, "50%", loader=loader, target=lp.Target.here("synthetic"),
            criterion="taylor", folder=tmp_path / "tables", checkpoint=file.parent, **options,
        )  # fmt: skip

    made = run()
    for options, message in OTHERWISE:
        with pytest.raises(lp.ModelMismatch, match=message):
            run(**options)

    notes = {name: load_notes(file)[name] for name in (*ALWAYS_NOTED, "reranked")}
    lp.save(made.model, file, graph=made.graph, plan=made.plan, notes=notes)

    assert run(score_batches=1).plan == made.plan


def test_a_resumed_run_still_knows_how_the_criteria_were_ranked(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    def run() -> lp.Pruned:
        torch.manual_seed(0)
        return lp.prune(
            Network(),
            EXAMPLE,
            "50%",
            loader=loader,
            target=lp.Target.here("synthetic"),
            criterion=["magnitude", "taylor"],
            folder=tmp_path,
            checkpoint=tmp_path / "run",
        )

    first, again = run(), run()
    assert list(first.reranked.items()) == list(again.reranked.items()) != []


def test_an_unknown_criterion_says_what_there_is(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"taylor, .*magnitude or a function"):
        lp.prune(
            Network(),
            EXAMPLE,
            0.5,
            loader=loader,
            target=lp.Target.here("synthetic"),
            criterion="tailor",  # type: ignore[arg-type]
            folder=tmp_path,
        )


def best_of_several(
    loader: DataLoader[tuple[torch.Tensor, ...]], folder: Path, **options: Any
) -> lp.Pruned:
    """Prune a trained network to its half; held-out batches decide."""
    model, target = Network(), lp.Target.here("synthetic")
    lp.tune(model, loader, recipe=RECIPE)
    result = lp.prune(
        model,
        EXAMPLE,
        "50%",
        loader=loader,
        target=target,
        held_out_batches=2,
        folder=folder,
        **options,
    )
    assert list(result.reranked.values()) == sorted(result.reranked.values())
    assert result.report.met
    return result


def test_of_several_criteria_the_one_with_the_least_held_out_loss_is_cut(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    def backwards(model: nn.Module, graph: lp.PruningGraph) -> lp.Saliency:
        good = lp.fisher(model, graph, loader, lp.cross_entropy)
        scores = {group: s.max() - s for group, s in good.scores.items()}
        return lp.Saliency(scores, criterion="backwards")

    result = best_of_several(loader, tmp_path, criterion=[backwards, "fisher", "probe"])

    assert set(result.reranked) == {"backwards", "fisher", "probe"}
    assert result.plan.criterion == next(iter(result.reranked)) != "backwards"


def test_of_several_solvers_the_one_with_the_least_held_out_loss_is_cut(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    def never(*_: object, **__: object) -> Choice:
        raise lp.BudgetTooSmall(1.0, 2.0)

    solvers = [lp.joint, lp.uniform, never]
    result = best_of_several(loader, tmp_path, criterion=["fisher", "taylor"], solver=solvers)

    names = {
        f"{criterion}, {s}" for criterion in ("fisher", "taylor") for s in ("joint", "uniform")
    }
    assert set(result.reranked) == names  # what finds nothing is left out
    assert f"{result.plan.criterion}, {result.plan.solver}" == next(iter(result.reranked))


def test_several_are_tuned_a_little_before_held_out_batches_decide(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    told = Told()
    several: dict[str, Any] = {"criterion": ["fisher", "magnitude"], "recipe": RECIPE}
    as_cut = best_of_several(loader, tmp_path, **several)
    on_trial = best_of_several(loader, tmp_path, **several, trial_steps=20, progress=told)

    assert all(on_trial.reranked[name] != as_cut.reranked[name] for name in as_cut.reranked)
    assert on_trial.plan.criterion == next(iter(on_trial.reranked))
    assert sum("on trial" in step for step in told.steps) == 40
    assert len(on_trial.history) == RECIPE.epochs  # tuned as long as ever, from the cut on


class Seen:
    """Two batches, told apart by their brightness, and who scored and who judged them."""

    def __init__(self) -> None:
        self.scored: set[int] = set()
        self.judged: set[int] = set()

    def __iter__(self) -> Iterator[Any]:
        labels = torch.arange(8) % 5
        return iter([(torch.randn(8, 3, 16, 16), labels + 10 * number) for number in range(2)])

    def __len__(self) -> int:
        return 2

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen = self.scored if torch.is_grad_enabled() else self.judged
        seen.update((labels // 10).tolist())
        return F.cross_entropy(outputs, labels % 10)


def test_batches_that_decide_did_not_score_however_few_there_are(tmp_path: Path) -> None:
    loader, target = Seen(), lp.Target.here("synthetic")
    lp.prune(
        Network(),
        EXAMPLE,
        "50%",
        loader=loader,
        loss=loader.loss,
        target=target,
        criterion=["fisher", "magnitude"],
        folder=tmp_path,
    )

    assert loader.scored == {0}
    assert loader.judged == {1}


def test_a_single_batch_cannot_score_and_decide(tmp_path: Path) -> None:
    with pytest.raises(lp.DataError, match=r"decide between 2 networks .* 1 in the loader"):
        lp.prune(
            Network(),
            EXAMPLE,
            "50%",
            loader=[(torch.randn(8, 3, 16, 16), torch.arange(8) % 5)],
            solver=[lp.joint, lp.uniform],
            folder=tmp_path,
        )

    assert not list(tmp_path.iterdir())  # nothing was measured


@pytest.mark.parametrize(("steps", "recipe"), [(10, None), (-1, RECIPE)])
def test_a_trial_needs_a_recipe(
    loader: DataLoader[tuple[torch.Tensor, ...]],
    tmp_path: Path,
    steps: int,
    recipe: lp.Recipe | None,
) -> None:
    with pytest.raises(ValueError, match="trial_steps: 0 for no trial, or more and a recipe="):
        lp.prune(
            Network(),
            EXAMPLE,
            "50%",
            loader=loader,
            criterion=["taylor", "fisher"],
            recipe=recipe,
            trial_steps=steps,
            folder=tmp_path,
        )


def test_a_trial_needs_several_to_decide_between(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="3 trial_steps decide between several"):
        lp.prune(
            Network(), EXAMPLE, "50%", loader=loader, recipe=RECIPE, trial_steps=3, folder=tmp_path
        )


def test_where_no_solver_finds_a_network_the_clock_says_that_the_budget_is_too_small(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    told = Told()
    with pytest.raises(lp.BudgetTooSmall):
        lp.prune(
            Network(),
            EXAMPLE,
            lp.Budget(ms=1e-6),
            loader=loader,
            target=lp.Target.here("synthetic"),
            solver=[lp.uniform, lp.joint],
            folder=tmp_path,
            progress=told,
        )

    assert told.steps[-1] == "timing the narrowest network"


@pytest.mark.parametrize("solver", [[lp.joint, lp.uniform], []])
def test_several_solvers_need_images_that_decide(solver: list[Solver], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one solver, or several and a loader"):
        lp.prune(Network(), EXAMPLE, "50%", solver=solver, folder=tmp_path)


@pytest.mark.parametrize("criterion", [["taylor", "fisher"], []])
def test_several_criteria_need_images_that_decide(criterion: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one criterion, or several and a loader"):
        lp.prune(
            Network(),
            EXAMPLE,
            0.5,
            target=lp.Target.here("synthetic"),
            criterion=criterion,  # type: ignore[arg-type]
            folder=tmp_path,
        )


def test_several_targets_are_met_and_reported_each(tmp_path: Path) -> None:
    target, other = (lp.Target.here("synthetic", threads=n) for n in (1, 2))
    told = Told()

    result = lp.prune(
        Network(), EXAMPLE, "80%", target=target, also={other: "50%"}, folder=tmp_path,
        progress=told,
    )  # fmt: skip
    measured = [step for step in told.steps if "1 thread" in step or "2 threads" in step]
    assert "1 thread" in measured[0]
    assert "2 threads" in measured[-1]
    result.save(tmp_path / "small.safetensors")

    (report,) = result.also
    assert result.met
    assert (result.report.target, report.target) == (target, other)
    assert 0.9 <= report.used <= 1
    assert result.report.used < 0.7  # the other budget is the tighter one
    assert len(load_notes(tmp_path / "small.safetensors")["also"]) == 1


def test_a_run_goes_on_only_for_the_same_targets(tmp_path: Path) -> None:
    target, other = (lp.Target.here("synthetic", threads=n) for n in (1, 2))
    prune = partial(
        lp.prune, Network(), EXAMPLE, "60%", folder=tmp_path, checkpoint=tmp_path / "run"
    )
    prune(target=target, also={other: "60%"})

    with pytest.raises(lp.ModelMismatch, match="give another checkpoint folder"):
        prune(target=target)


def test_a_loss_of_ones_own_scores_and_tunes_without_a_teacher(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    calls = []

    def own(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(len(labels))
        return lp.cross_entropy(outputs, labels)

    result = lp.prune(
        Network(),
        EXAMPLE,
        0.6,
        loader=loader,
        loss=own,
        criterion="taylor",
        recipe=lp.Recipe(epochs=1, distillation=0.5, precision="no"),
        target=lp.Target.here("synthetic"),
        score_batches=2,
        folder=tmp_path,
    )

    assert result.met
    # In both modes it is asked before anything is measured.
    assert len(calls) == 2 + 2 + len(loader)


class Several(torch.nn.Module):
    """The network, of a picture in two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        return self.network(torch.cat([above, below], dim=2))  # type: ignore[no-any-return]


class Halves(IterableDataset[Any]):
    """Such pictures, which come without a length; where there are no labels, alone."""

    def __init__(self, *, labelled: bool = True) -> None:
        self.labelled = labelled

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        for label in range(32):
            halves = tuple(torch.randn(2, 3, 8, 16, generator=generator) + label % 5)
            yield (halves, label % 5) if self.labelled else (halves,)


@pytest.mark.parametrize("criterion", [None, "taylor", ["probe", "relative_magnitude"]])
def test_networks_with_several_inputs_are_pruned_on_streams(criterion: Any, tmp_path: Path) -> None:
    parts = torch.split(EXAMPLE, 8, dim=2)
    loader = DataLoader(Halves(), batch_size=9)
    recipe = replace(RECIPE, epochs=1, distillation=0.5)

    pruned = lp.prune(
        Several(),
        parts,
        "70%",
        loader=loader,
        target=lp.Target.here("synthetic"),
        criterion=criterion,
        recipe=recipe,
        folder=tmp_path,
    )

    assert pruned.met
    assert len(pruned.history) == 1


def test_pictures_without_labels_score_and_tune_by_the_dense_network_alone(
    tmp_path: Path,
) -> None:
    def run(distillation: float) -> lp.Pruned:
        return lp.prune(
            Several(),
            torch.split(EXAMPLE, 8, dim=2),
            "70%",
            loader=DataLoader(Halves(labelled=False), batch_size=8),
            target=lp.Target.here("synthetic"),
            recipe=replace(RECIPE, epochs=1, distillation=distillation),
            folder=tmp_path,
        )

    with pytest.raises(lp.DataError, match="labels of a batch are none"):
        run(0.5)
    assert not list(tmp_path.iterdir())  # nothing was measured before
    assert run(1.0).met


def test_a_target_has_one_budget(tmp_path: Path) -> None:
    target = lp.Target.here("synthetic")

    with pytest.raises(ValueError, match="has two budgets: 60% and 50%"):
        lp.prune(Network(), EXAMPLE, "60%", target=target, also={target: "50%"}, folder=tmp_path)


def off_by(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(outputs, labels, reduction="none")


@pytest.mark.parametrize(
    ("labels", "loss", "message"),
    [
        (None, F.mse_loss, r"nothing as labels, for the loader gives inputs alone"),
        (torch.randn(8, 5), off_by, r"gave a tensor \[8, 5\], not one number for the batch"),
    ],
    ids=["inputs alone", "a number per output"],
)
def test_a_loss_that_cannot_be_asked_is_refused_before_anything_is_measured(
    labels: torch.Tensor | None, loss: Any, message: str, tmp_path: Path
) -> None:
    pictures = torch.randn(8, 3, 16, 16)
    batches: list[Any] = [pictures if labels is None else (pictures, labels)] * 2
    target = lp.Target.here("synthetic")

    with pytest.raises(lp.DataError, match=message):
        lp.prune(
            Network(), EXAMPLE, "60%", loader=batches, loss=loss, target=target, folder=tmp_path
        )

    assert not list(tmp_path.iterdir())


class Auxiliary(torch.nn.Module):
    """Returns two heads' outputs in training."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Network()

    def forward(self, x: torch.Tensor) -> Any:
        logits = self.inner(x)
        return (logits, logits) if self.training else logits


def of_one_head(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, labels)


@pytest.mark.parametrize(
    ("network", "label", "options", "message"),
    [
        (Network, 255, {}, r"Target 255 is out of bounds.* in training mode, and a Tensor \[8\]"),
        (
            Auxiliary,
            0,
            {"loss": of_one_head},
            r"cross_entropy.* a tuple of 2 .* as the network's outputs, in training mode",
        ),
    ],
    ids=["labels of no class", "outputs of several heads"],
)
def test_a_loss_that_cannot_be_trained_by_is_refused_before_anything_is_measured(
    network: type[torch.nn.Module],
    label: int,
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    batches = [(torch.randn(8, 3, 16, 16), torch.full((8,), label))] * 2
    recipe = replace(RECIPE, epochs=1)
    model, options = network(), {"folder": tmp_path, "recipe": recipe, **options}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    target = lp.Target.here("synthetic")

    with pytest.raises(lp.DataError, match=message):
        lp.prune(model, EXAMPLE, "60%", loader=batches, target=target, **options)
    with pytest.raises(lp.DataError, match=message):
        lp.prune_gradually(
            model, EXAMPLE, "60%", loader=batches, target=target, steps=1, every=1, **options
        )

    assert not list(tmp_path.iterdir())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_network_that_learns_from_the_dense_one_alone_needs_no_labels_of_its_classes(
    tmp_path: Path,
) -> None:
    batches = [(torch.randn(8, 3, 16, 16), torch.full((8,), 255))] * 2

    done = lp.prune(
        Network(), EXAMPLE, "60%", loader=batches, target=lp.Target.here("synthetic"),
        folder=tmp_path, recipe=replace(RECIPE, epochs=1, distillation=1.0),
    )  # fmt: skip

    assert done.met


def test_answers_that_are_no_logits_are_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    network = torch.nn.Sequential(Network(), torch.nn.Linear(5, 1))  # of a regression
    batches = [(torch.randn(8, 3, 16, 16), torch.randn(8, 1))] * 2

    with pytest.raises(ValueError, match=r"gives \[8, 1\]: .* loss= that the network is trained"):
        lp.prune(
            network, EXAMPLE, "60%", loader=batches, target=lp.Target.here("synthetic"),
            folder=tmp_path,
        )  # fmt: skip

    assert not list(tmp_path.iterdir())


def test_numbers_that_processors_are_slow_with_are_left_out_of_what_is_timed_and_kept(
    loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    model, target = Network(), lp.Target.here("synthetic")
    with torch.no_grad():
        next(model.parameters())[0] = 1e-40
    common: dict[str, Any] = {"loader": loader, "target": target, "folder": tmp_path}

    with pytest.warns(lp.SubnormalWeights, match="They are set to zero") as warned:
        done = lp.prune(model, EXAMPLE, "60%", recipe=replace(RECIPE, epochs=1), **common)
    with pytest.warns(lp.SubnormalWeights):
        gradual = lp.prune_gradually(
            model, EXAMPLE, "60%", recipe=replace(RECIPE, epochs=1), steps=1, every=1, **common
        )

    assert len(warned) == 1
    assert count_subnormals(model) > 0  # it is not changed
    for result in done, gradual:
        assert count_subnormals(result.model) == count_subnormals(result.dense) == 0


def test_a_network_with_numbers_that_processors_are_slow_with_is_timed_with_a_warning(
    tmp_path: Path,
) -> None:
    model, target = Network(), lp.Target.here("synthetic")
    with torch.no_grad():
        next(model.parameters())[0] = 1e-40

    with pytest.warns(lp.SubnormalWeights, match="timed as it is"):
        lp.measure(model, lp.trace(model, EXAMPLE), EXAMPLE, target, folder=tmp_path)


def test_what_a_network_writes_into_is_neither_the_example_nor_the_data(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x *= 2
            return self.network(x)  # type: ignore[no-any-return]

    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(8, *EXAMPLE.shape[1:], generator=generator) for _ in range(4)]
    batches = [(image, torch.arange(8) % 3) for image in images]
    before, example = [image.clone() for image in images], EXAMPLE.clone()
    target = lp.Target.here("synthetic")
    recipe = replace(RECIPE, epochs=1)

    lp.prune(
        Scaled(), example, "60%", loader=batches, recipe=recipe, target=target, folder=tmp_path
    )

    assert torch.equal(example, EXAMPLE)
    assert all(map(torch.equal, images, before))


class Packed:
    """Pictures that move in their own way, and do not come apart."""

    def __init__(self, pictures: torch.Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, _: torch.device) -> torch.Tensor:
        return self.pictures


def test_batches_that_cannot_be_joined_are_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    batches = [(Packed(torch.randn(8, 3, 16, 16)), torch.arange(8) % 5)] * 2

    def pruned(*, reconstruct: bool) -> lp.Pruned:
        target = lp.Target.here("synthetic")
        return lp.prune(
            Network(), EXAMPLE, "70%", loader=batches, criterion="taylor", target=target,
            reconstruct=reconstruct, folder=tmp_path,
        )  # fmt: skip

    with pytest.raises(lp.DataError, match=r"a Packed does not say .* leave reconstruction out"):
        pruned(reconstruct=True)
    assert not list(tmp_path.iterdir())
    assert pruned(reconstruct=False).report.met


def test_the_dense_network_is_made_ready_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, made = Network(), list[int]()
    dense_size = sum(parameter.numel() for parameter in model.parameters())
    prepare = Synthetic.prepare

    def counted(self: Synthetic, network: nn.Module, *rest: Any) -> Any:
        made.append(sum(parameter.numel() for parameter in network.parameters()))
        return prepare(self, network, *rest)

    compared: list[object] = []

    def compare(dense: object, *rest: Any, **options: Any) -> Comparison:
        compared.append(dense)
        return Synthetic(whole=1.2, rest_ms=0.05).compare(cast("nn.Module", dense), *rest)

    monkeypatch.setattr(Synthetic, "prepare", counted)
    monkeypatch.setattr(latprune.report.comparison, "compare", compare)

    lp.prune(model, EXAMPLE, "50%", target=lp.Target.here("synthetic"), folder=tmp_path)

    assert made.count(dense_size) == 1
    assert compared
    assert not any(isinstance(dense, torch.nn.Module) for dense in compared)


@pytest.mark.parametrize(
    "prune", [lp.prune, partial(lp.prune_gradually, steps=1, every=1)], ids=["once", "gradually"]
)
def test_broken_or_frozen_weights_are_told_before_anything_is_traced(
    prune: Callable[..., lp.Pruned], loader: DataLoader[tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    told = Told()
    begin = partial(
        prune, example=EXAMPLE, budget=0.6, loader=loader, recipe=RECIPE, folder=tmp_path,
        progress=told,
    )  # fmt: skip
    broken, frozen = Network(), Network()
    broken_weight = next(broken.parameters())
    torch.nn.init.constant_(broken_weight[0], math.nan)
    frozen.requires_grad_(False)

    with pytest.raises(lp.NotFinite, match=r"numbers of .*weight are NaN: its channels"):
        begin(broken)
    with pytest.raises(ValueError, match="no parameter of the network takes gradients"):
        begin(frozen)
    assert not told.stages
