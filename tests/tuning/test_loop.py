"""Tuning learns, and an interrupted run ends where an unbroken one does."""

from __future__ import annotations

import copy
import os
import random
import signal
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from latprune.errors import DamagedFile, DataError, ModelMismatch, NotFinite
from latprune.states import count_subnormals
from latprune.tuning import Recipe, Tuned, TuneProgress, cross_entropy, distillation, tune
from latprune.tuning.checkpoint import FILE
from latprune.tuning.precision import has_bf16

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECIPE = Recipe(epochs=3, lr=0.05, precision="no", clip_norm=5.0, label_smoothing=0.1)
STEPS = 4
CLASSES = 3


class Blobs(Dataset[tuple[Tensor, int]]):
    """Pictures whose class is their brightest channel, with fresh noise at each reading."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.randn(3, 6, 6)
        image[index % CLASSES] += 2
        return image, index % CLASSES


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def shifted() -> nn.Module:
    """Give another network of the same shapes."""
    model = network()
    with torch.no_grad():
        model.get_parameter("0.bias").add_(1)
    return model


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Blobs(), batch_size=6, shuffle=True, **options)


def run(**options: Any) -> Tuned:
    model, recipe = options.pop("model", None) or network(), options.pop("recipe", RECIPE)
    return tune(model, options.pop("loader", None) or loader(), recipe=recipe, **options)


def interrupting_at(step: int) -> Callable[[TuneProgress], None]:
    def interrupt(progress: TuneProgress) -> None:
        if (progress.epoch - 1) * STEPS + progress.step == step:
            raise KeyboardInterrupt

    return interrupt


def assert_same(one: Tuned, other: Tuned) -> None:
    weights, others = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert one.history == other.history


def teacher() -> nn.Module:
    torch.manual_seed(8)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, CLASSES), nn.Dropout(0.5))


def bias_of_head(model: nn.Module) -> dict[str, float]:
    return {"bias": model.get_parameter("6.bias").sum().item()}


# Python 3.12 and later warn of any fork beside threads; the workers only draw pictures.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("recipe", "workers"),
    [
        pytest.param(RECIPE, 0, id="sgd"),
        pytest.param(RECIPE, 1, id="sgd, worker"),
        pytest.param(replace(RECIPE, optimizer="adamw", lr=0.01), 0, id="adamw"),
        pytest.param(replace(RECIPE, precision="bf16"), 0, id="bf16"),
    ],
)
def test_an_interrupted_run_equals_an_unbroken_one(
    tmp_path: Path, recipe: Recipe, workers: int
) -> None:
    def part(**options: Any) -> Tuned:
        pictures = loader(num_workers=workers)
        return run(
            loader=pictures, recipe=recipe, teacher=teacher(), evaluate=bias_of_head, **options
        )

    for step in sorted(random.sample(range(1, 3 * STEPS + 1), 3)):
        torch.rand(step), random.random()  # another process would have other random states
        with pytest.raises(KeyboardInterrupt):
            part(checkpoint=tmp_path, progress=interrupting_at(step))

    assert_same(part(checkpoint=tmp_path), part())


def test_a_killed_run_continues_from_its_last_checkpoint(tmp_path: Path) -> None:
    ticks = iter(range(10**6))

    def die(progress: TuneProgress) -> None:
        if (progress.epoch, progress.step) == (2, 3):
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(checkpoint=tmp_path, checkpoint_every_s=1.0, progress=die, clock=lambda: next(ticks))

    seen: list[TuneProgress] = []
    resumed = run(checkpoint=tmp_path, progress=seen.append)
    assert (seen[0].epoch, seen[0].step) == (2, 3)
    assert_same(resumed, run())


def test_ctrl_c_finishes_and_keeps_the_step_under_way(tmp_path: Path) -> None:
    class Pressing(nn.Module):
        """Passes its input on, and presses Ctrl-C in its sixth training step."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 6:
                os.kill(os.getpid(), signal.SIGINT)
            return x

    pressing = network()
    pressing[2] = nn.Sequential(nn.ReLU(), Pressing())  # type: ignore[operator]
    with pytest.raises(KeyboardInterrupt):
        run(model=pressing, checkpoint=tmp_path)

    seen: list[TuneProgress] = []
    resumed = run(checkpoint=tmp_path, progress=seen.append)
    assert (seen[0].epoch, seen[0].step) == (2, 3)
    assert_same(resumed, run())


def test_a_run_interrupted_while_it_is_judged_judges_again(tmp_path: Path) -> None:
    def interrupted(_: nn.Module) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path, evaluate=interrupted)

    assert_same(run(checkpoint=tmp_path, evaluate=bias_of_head), run(evaluate=bias_of_head))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = run(checkpoint=tmp_path)
    seen: list[TuneProgress] = []

    assert_same(run(checkpoint=tmp_path, progress=seen.append), first)
    assert seen == []


def test_any_batches_that_can_be_run_through_will_do(tmp_path: Path) -> None:
    batches = [(torch.randn(4, 3, 6, 6), torch.randint(CLASSES, (4,))) for _ in range(STEPS)]
    with pytest.raises(KeyboardInterrupt):
        run(loader=batches, checkpoint=tmp_path, progress=interrupting_at(6))

    assert_same(run(loader=batches, checkpoint=tmp_path), run(loader=batches))


def test_tuning_learns_what_can_be_learnt() -> None:
    tuned = run(recipe=replace(RECIPE, epochs=12, label_smoothing=0.0))

    assert tuned.history[-1].loss < 0.5 * tuned.history[0].loss


def test_a_teacher_alone_is_imitated() -> None:
    wise, pupil = nn.Sequential(nn.Flatten(), nn.Linear(108, CLASSES)), nn.Linear(108, CLASSES)
    model, images = nn.Sequential(nn.Flatten(), pupil), torch.randn(50, 3, 6, 6)

    def distance() -> float:
        return float((model(images).softmax(1) - wise(images).softmax(1)).abs().mean().item())

    before = distance()
    recipe = Recipe(
        epochs=60, optimizer="adamw", lr=0.02, weight_decay=0.0, distillation=1.0, precision="no"
    )
    run(model=model, recipe=recipe, teacher=wise)

    assert distance() < 0.3 * before


def test_the_teacher_is_not_changed() -> None:
    wise = network().train()
    before = copy.deepcopy(wise.state_dict())
    run(teacher=wise)

    assert all(torch.equal(value, before[name]) for name, value in wise.state_dict().items())
    assert all(module.training for module in wise.modules())
    assert wise.get_parameter("0.weight").is_contiguous()
    assert wise.get_parameter("0.weight").grad is None


def test_the_model_is_tuned_in_place_and_handed_back_ready_to_use() -> None:
    model = network()
    tuned = run(model=model)

    assert tuned.model is model
    assert not any(module.training for module in model.modules())
    assert model.get_parameter("0.weight").is_contiguous()


def test_numbers_that_decay_left_too_small_for_processors_are_zero_in_the_end() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("0.weight")[0] = 1e-40
    model.get_parameter("0.weight").requires_grad_(False)

    run(model=model)

    assert not model.get_parameter("0.weight")[0].any()
    assert count_subnormals(model) == 0


def test_networks_come_back_as_they_lay_in_memory_and_without_gradients() -> None:
    def lie_last(model: nn.Module) -> list[bool]:
        kernels = [p for p in model.parameters() if p.dim() == 4]
        return [p.is_contiguous(memory_format=torch.channels_last) for p in kernels]

    for is_last in (True, False):
        model, teaches = network(), network()
        if is_last:
            for one in (model, teaches):
                one.to(memory_format=torch.channels_last)

        run(model=model, teacher=teaches)

        assert lie_last(model) == lie_last(teaches) == [is_last]
        assert all(parameter.grad is None for parameter in model.parameters())


def test_the_random_numbers_of_the_caller_are_as_they_were() -> None:
    def drawn() -> list[float]:
        return [random.random(), np.random.rand(), torch.rand(1).item()]

    model, batches = network(), loader(generator=torch.Generator())
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before, order = drawn(), batches.generator.get_state()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)

    run(model=model, loader=batches)

    assert drawn() == before
    assert torch.equal(batches.generator.get_state(), order)


def test_every_epoch_trains_in_training_mode() -> None:
    def judged(model: nn.Module) -> dict[str, float]:
        model.eval()
        return {}

    model = run(model=network().eval(), evaluate=judged).model
    assert model.get_buffer("1.num_batches_tracked") == 3 * STEPS


def test_what_judges_is_given_eval_mode_and_teaches_nothing() -> None:
    modes = []

    @torch.no_grad()
    def judge(model: nn.Module) -> dict[str, float]:
        modes.append(model.training)
        model(100 + torch.randn(8, 3, 6, 6))
        return {}

    assert_same(run(evaluate=judge), run())
    assert not any(modes)


def test_progress_tells_pace_and_time_left_by_the_clock() -> None:
    ticks = iter(range(10**6))
    seen: list[TuneProgress] = []
    run(progress=seen.append, clock=lambda: next(ticks))

    first = seen[0]
    assert [(p.epoch, p.step) for p in seen] == [(e, s) for e in (1, 2, 3) for s in (1, 2, 3, 4)]
    assert (first.epochs, first.steps) == (3, STEPS)
    assert (first.images_per_s, first.eta_s) == (6.0, 11.0)  # one tick a step
    assert seen[-1].eta_s == 0.0
    assert [p.lr for p in seen[-2:]] == sorted((p.lr for p in seen[-2:]), reverse=True)


def test_the_history_tells_loss_rate_and_metrics_of_every_epoch() -> None:
    seen: list[TuneProgress] = []
    tuned = run(progress=seen.append, evaluate=bias_of_head)

    for epoch in tuned.history:
        steps = [p for p in seen if p.epoch == epoch.epoch]
        assert epoch.loss == pytest.approx(sum(p.loss for p in steps) / STEPS)
        assert epoch.lr == steps[-1].lr
    assert tuned.history[-1].metrics == bias_of_head(tuned.model)


def test_auto_says_what_was_taken_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latprune.tuning.loop.has_bf16", has_bf16)
    recipe = replace(RECIPE, epochs=1, precision="auto")
    taken = run(recipe=recipe, checkpoint=tmp_path).precision

    assert ("s in fp32 and" in taken.reason) == has_bf16(torch.device("cpu"))
    assert run(recipe=recipe, checkpoint=tmp_path).precision == taken


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path, progress=interrupting_at(5))
    before = (tmp_path / FILE).read_bytes()

    batches = loader()
    batches.collate_fn = poisoned
    with pytest.raises(NotFinite, match=r"loss is nan in epoch 2, step 2 of 4, .*Lower lr"):
        run(loader=batches, checkpoint=tmp_path, checkpoint_every_s=0.0)

    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("every_s", [0.0, 60.0])
def test_a_slope_that_is_nan_beside_a_finite_loss_is_an_error_in_the_last_step_too(
    tmp_path: Path, every_s: float
) -> None:
    steps = 0

    def with_a_root(outputs: Tensor, labels: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        loss = cross_entropy(outputs, labels)
        return loss + (outputs - outputs).sum().sqrt() if steps == 2 * STEPS else loss

    recipe = replace(RECIPE, epochs=2, label_smoothing=0, clip_norm=None)
    with pytest.raises(NotFinite, match="after epoch 2, step 4 of 4, though the loss was finite"):
        run(recipe=recipe, loss=with_a_root, checkpoint=tmp_path, checkpoint_every_s=every_s)

    assert all(value.isfinite().all() for value in load_file(tmp_path / FILE).values())


def test_the_trial_of_a_precision_takes_labels_of_any_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latprune.tuning.loop.has_bf16", lambda device: True)
    images, classes = torch.randn(40, 3, 6, 6), torch.arange(40) % CLASSES
    recipe = Recipe(epochs=1, precision="auto")

    for labels in ({"classes": classes}, {"classes": classes, "boxes": torch.zeros(3, 4)}):
        tuned = run(
            loader=[(images, labels)],
            recipe=recipe,
            loss=lambda outputs, of_all: cross_entropy(outputs, of_all["classes"]),
        )
        assert "a step took" in tuned.precision.reason


def test_metrics_may_be_tensors_and_numbers_of_numpy(tmp_path: Path) -> None:
    said = {"tensor": torch.tensor(0.5), "numpy": np.float32(0.25)}
    tuned = run(evaluate=lambda _: said, checkpoint=tmp_path)

    assert tuned.history[-1].metrics == {"tensor": 0.5, "numpy": 0.25}


def poisoned(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    images = torch.stack([image for image, _ in samples]) * float("nan")
    return images, torch.tensor([label for _, label in samples])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": replace(RECIPE, lr=0.1)}, r"recipe\.lr is 0\.05 there and 0\.1 here"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(108, 3))}, "hash of the weights"),
        ({"teacher": network()}, "teacher's weights is None there"),
        ({"model": shifted()}, "hash of the weights is .* there and .* here"),
    ],
    ids=["recipe", "model", "teacher", "weights"],
)
def test_the_checkpoint_of_another_run_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path, progress=interrupting_at(1))

    with pytest.raises(ModelMismatch, match=message):
        run(checkpoint=tmp_path, **change)


def test_another_teacher_is_another_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path, teacher=network(), progress=interrupting_at(1))

    with pytest.raises(ModelMismatch, match="hash of the teacher's weights"):
        run(checkpoint=tmp_path, teacher=shifted())


def test_a_network_that_ctrl_c_left_half_tuned_goes_on_as_the_one_it_was(tmp_path: Path) -> None:
    model = network()
    for step in (5, 7):
        with pytest.raises(KeyboardInterrupt):
            run(model=model, checkpoint=tmp_path, progress=interrupting_at(step))

    assert_same(run(model=model, checkpoint=tmp_path), run())
    assert_same(run(checkpoint=tmp_path), run())  # it still is the run of the network as given


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a checkpoint")
    with pytest.raises(DamagedFile, match="Delete it"):
        run(checkpoint=tmp_path)


def test_a_network_cannot_teach_itself() -> None:
    model = network()
    with pytest.raises(ValueError, match="cannot teach itself"):
        run(model=model, teacher=model)


def test_a_loader_that_can_be_run_through_only_once_is_an_error() -> None:
    class Once(list[Any]):
        def __iter__(self) -> Any:
            while self:
                yield self.pop()

    with pytest.raises(DataError, match="run through twice"):
        run(loader=Once([(torch.randn(4, 3, 6, 6), torch.zeros(4, dtype=torch.long))]))


def test_an_epoch_has_as_many_steps_as_the_loader_says() -> None:
    batch = (torch.randn(4, 3, 6, 6), torch.zeros(4, dtype=torch.long))

    class MoreThanItSays:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Any:
            return repeat(batch, 5)

    told: list[TuneProgress] = []
    run(loader=MoreThanItSays(), recipe=replace(RECIPE, epochs=2), progress=told.append)

    assert [(at.epoch, at.step) for at in told] == [(e, s) for e in (1, 2) for s in (1, 2, 3)]


class Pooled(nn.Module):
    """Two pictures to classes, by a batch norm over single pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        pooled = (self.conv(image) + self.conv(other)).mean(dim=(2, 3))
        return self.head(self.norm(pooled))  # type: ignore[no-any-return]


def of_pairs(*sizes: int) -> list[Any]:
    labels = [torch.arange(n) % CLASSES for n in sizes]
    return [([torch.randn(len(y), 3, 6, 6), torch.randn(len(y), 3, 6, 6)], y) for y in labels]


def test_several_inputs_are_learnt_from_and_a_lone_last_picture_is_left_out() -> None:
    batches, recipe = of_pairs(6, 6), replace(RECIPE, distillation=1.0)
    begin, teacher = Pooled(), Pooled()

    def learnt(last: list[Any]) -> dict[str, torch.Tensor]:
        model = copy.deepcopy(begin)
        run(model=model, loader=[*batches, *last], recipe=recipe, teacher=teacher)
        return model.state_dict()

    lone = of_pairs(1, 1)
    one, other = learnt(lone[:1]), learnt(lone[1:])

    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)  # whatever was in it
    assert not torch.equal(one["head.weight"], begin.state_dict()["head.weight"])


@pytest.mark.parametrize("sizes", [(1,), (6, 1, 6)])
def test_a_lone_picture_before_the_last_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="two samples or more"):
        run(model=Pooled(), loader=of_pairs(*sizes))


def test_without_labels_a_network_learns_from_its_teacher_alone() -> None:
    images = [torch.randn(6, 3, 6, 6) for _ in range(2)]
    run(loader=images, recipe=replace(RECIPE, distillation=1.0), teacher=teacher())

    with pytest.raises(DataError, match=r"labels of a batch are none.*distillation=1\.0"):
        run(loader=images, teacher=teacher())


def listed(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """A batch whose labels are as a detector's: a dict for each picture."""
    return (
        torch.stack([image for image, _ in samples]),
        [{"label": torch.tensor(label)} for _, label in samples],
    )


def from_dicts(outputs: Tensor, labels: list[dict[str, Tensor]]) -> Tensor:
    return cross_entropy(outputs, torch.stack([each["label"] for each in labels]))


@pytest.mark.parametrize("precision", ["no", "auto"])
def test_a_loss_of_ones_own_takes_labels_of_any_form(precision: Any) -> None:
    recipe = replace(RECIPE, label_smoothing=0.0, epochs=1, precision=precision)
    batches = loader()
    batches.collate_fn = listed
    own = run(
        recipe=recipe, loader=batches, loss=from_dicts, teacher=teacher(), distil=distillation
    )
    plain = run(recipe=replace(recipe, precision=own.precision.name), teacher=teacher())

    assert_same(own, plain)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_losses_are_taken_in_fp32_at_least_and_may_differ_in_type(precision: Any) -> None:
    given: list[torch.dtype] = []

    def own(outputs: Tensor, labels: Tensor) -> Tensor:
        given.append(outputs.dtype)
        return nn.functional.cross_entropy(outputs.double(), labels)

    def distil(outputs: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
        given.extend([outputs.dtype, taught.dtype])
        return distillation(outputs, taught, temperature=temperature)

    recipe = replace(RECIPE, epochs=1, label_smoothing=0.0, precision=precision)
    run(recipe=recipe, loss=own, distil=distil, teacher=teacher())

    assert set(given) == {torch.float32}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, labels: (outputs - labels[:, None]).square(), r"\[6, 3\].*\.mean\(\)"),
        (lambda outputs, labels: outputs.sum().item(), r"gave a float.*leave out \.item\(\)"),
        (lambda outputs, labels: {"a": outputs.sum()}, r"gave a dict.*sum\(losses\.values\(\)\)"),
        (lambda outputs, labels: (outputs.sum(), labels), r"gave a tuple.*by sum\(losses\)"),
    ],
)
@pytest.mark.parametrize("has_teacher", [False, True])
def test_a_loss_has_to_be_one_number_with_a_gradient(
    loss: Any, message: str, has_teacher: bool
) -> None:
    beside = {"teacher": teacher(), "distil": distillation} if has_teacher else {}

    with pytest.raises(ValueError, match=message):
        run(recipe=replace(RECIPE, label_smoothing=0.0), loss=loss, **beside)


def test_a_teacher_of_other_outputs_is_compared_as_one_says() -> None:
    def nothing(outputs: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
        return 0 * outputs.sum()

    recipe = replace(RECIPE, label_smoothing=0.0, distillation=1.0, weight_decay=0.0)
    model = network()
    before = model.get_parameter("6.weight").clone()
    run(model=model, recipe=recipe, loss=cross_entropy, teacher=teacher(), distil=nothing)

    assert torch.equal(model.get_parameter("6.weight"), before)


def test_a_loss_of_ones_own_needs_to_be_told_what_the_default_knows() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1 is for the default loss"):
        run(loss=cross_entropy)
    with pytest.raises(ValueError, match="say how outputs are compared with the teacher's"):
        run(
            recipe=replace(RECIPE, label_smoothing=0.0),
            loss=cross_entropy,
            teacher=teacher(),
        )
