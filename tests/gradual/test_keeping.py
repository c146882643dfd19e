"""A run that is killed goes on, and ends where an unbroken one does."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import latprune as lp
from latprune.errors import DamagedFile
from latprune.files import replacing
from latprune.tuning.checkpoint import FILE
from tests.gradual.training import batch, begun, measured, network

if TYPE_CHECKING:
    from pathlib import Path

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True)
ADAMW = partial(torch.optim.AdamW, lr=0.01)
BATCHES = 24


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    measured(network(), folder)
    return folder


class Run:
    """Everything that a training script has, with chance from three libraries."""

    def __init__(self, tables: Path, **options: Any) -> None:
        self.model, self.optimizer, self.pruning = begun(tables, **{"every": 5, **options})
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, BATCHES)
        self.done = 0

    def resume(self, folder: Path) -> None:
        facts = self.pruning.resume(folder)
        if facts is not None:
            self.done = facts["done"]
            self.scheduler.load_state_dict(facts["scheduler"])

    def train(self, batches: int, folder: Path | None = None) -> None:
        while self.done < batches:
            images, labels = batch(self.done)
            noise = torch.randn_like(images) * random.random() * float(np.random.rand())
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(images + noise), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.scheduler.step()
            self.pruning.step()
            self.done += 1
            if folder is not None:
                scheduler = self.scheduler.state_dict()
                self.pruning.save(folder, done=self.done, scheduler=scheduler)

    def end(self) -> tuple[Any, dict[str, torch.Tensor]]:
        assert self.pruning.done
        return self.pruning.plan.to_json(), self.model.state_dict()


def seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def unbroken(tables: Path, **options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    seed(1)
    run = Run(tables, **options)
    seed(2)
    run.train(BATCHES)
    return run.end()


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())


@pytest.mark.parametrize("stop", [1, 5, 8, 20])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("make", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_run_goes_on_where_it_was_kept(
    tmp_path: Path, tables: Path, make: Any, soft: bool, stop: int
) -> None:
    seed(1)
    first = Run(tables, optimizer=make, soft=soft)
    seed(2)
    first.train(stop)
    first.train(stop + 1, tmp_path)
    first.train(stop + 2)  # lost

    seed(3)
    second = Run(tables, optimizer=make, soft=soft)
    second.resume(tmp_path)
    second.train(BATCHES)

    assert_same(second.end(), unbroken(tables, optimizer=make, soft=soft))


def child(tables: Path, folder: Path, soft: bool) -> None:
    torch.set_num_threads(1)
    run = Run(tables, optimizer=ADAMW, soft=soft)
    seed(2)
    run.resume(folder)
    run.train(BATCHES, folder)
    plan, weights = run.end()
    save_file(weights, folder / "end.safetensors")
    with replacing(folder / "plan.json") as file:  # it may be killed meanwhile, too
        file.write_text(json.dumps(plan))


@pytest.mark.skipif(
    sys.platform != "linux" or torch.accelerator.is_available(), reason="forks after autograd"
)
# Python 3.12 and later warn of any fork beside threads.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("soft", [False, True])
def test_a_run_that_is_killed_again_and_again_ends_the_same(
    tmp_path: Path, tables: Path, soft: bool
) -> None:
    chance = random.Random(5)
    context = multiprocessing.get_context("fork")
    kills = 0
    while not (tmp_path / "plan.json").exists():
        process = context.Process(target=child, args=(tables, tmp_path, soft))
        process.start()
        if kills < 4:
            wait_for_files(process, tmp_path / FILE, chance.randint(1, 6))
            time.sleep(chance.uniform(0, 0.02))
            process.kill()  # if it is not at its end
            kills += 1
        process.join()
        assert kills < 4 or process.exitcode in (0, -signal.SIGKILL)

    ended = (
        json.loads((tmp_path / "plan.json").read_text()),
        load_file(tmp_path / "end.safetensors"),
    )
    plan, weights = unbroken(tables, optimizer=ADAMW, soft=soft)
    assert_same(ended, (json.loads(json.dumps(plan)), weights))


def wait_for_files(process: Any, path: Path, count: int) -> None:
    """Wait until a file has been replaced so many times, or the process has ended."""
    before, replaced = inode(path), 0
    while replaced < count and process.is_alive():
        now = inode(path)
        replaced += now != before
        before = now
        time.sleep(1e-4)


def inode(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return found.st_ino, found.st_mtime_ns


def test_a_finished_run_is_resumed_as_finished(tmp_path: Path, tables: Path) -> None:
    first = Run(tables)
    first.train(BATCHES, tmp_path)
    second = Run(tables)
    second.resume(tmp_path)

    assert second.pruning.done
    assert not second.optimizer._optimizer_step_pre_hooks
    assert_same(second.end(), first.end())


@pytest.mark.parametrize("soft", [False, True])
def test_a_finished_run_takes_up_what_it_kept_itself(
    tmp_path: Path, tables: Path, soft: bool
) -> None:
    run = Run(tables, soft=soft)
    run.train(BATCHES, tmp_path)
    plan, weights = run.end()
    kept = {name: value.clone() for name, value in weights.items()}

    run.resume(tmp_path)

    assert_same(run.end(), (plan, kept))


def test_an_empty_folder_resumes_nothing(tmp_path: Path, tables: Path) -> None:
    run = Run(tables)

    assert run.pruning.resume(tmp_path) is None
    assert run.pruning.plan is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 2}, "steps"),
        ({"budget": 0.6}, "the budget"),
        ({"soft": True}, "soft"),
        ({"optimizer": ADAMW}, "the optimizer"),
        ({"copies": [network()]}, "the number of copies"),
    ],
)
def test_what_another_run_kept_is_refused(
    tmp_path: Path, tables: Path, change: dict[str, Any], words: str
) -> None:
    Run(tables).train(2, tmp_path)

    with pytest.raises(lp.ModelMismatch, match=f"{words} is .* there and .* here"):
        Run(tables, **change).resume(tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path, tables: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nothing of the kind")

    with pytest.raises(DamagedFile):
        Run(tables).resume(tmp_path)


def test_copies_and_learning_rates_are_kept(tmp_path: Path, tables: Path) -> None:
    def run() -> tuple[Any, Any, Any]:
        model = network()
        graph, table = measured(model, tables)
        optimizer = SGD(model.parameters())
        average = torch.optim.swa_utils.AveragedModel(model)
        pruning = lp.prune_in_steps(
            model, graph, table, 0.5, optimizer=optimizer, every=1, steps=2, copies=[average]
        )
        return optimizer, average, pruning

    optimizer, average, pruning = run()
    optimizer.zero_grad()
    F.cross_entropy(pruning.model(batch(0)[0]), batch(0)[1]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    pruning.step()
    average.update_parameters(pruning.model)
    average.update_parameters(pruning.model)
    optimizer.param_groups[0]["lr"] = 0.0123
    pruning.save(tmp_path)

    again, resumed, other = run()
    assert other.resume(tmp_path) == {}
    assert again.param_groups[0]["lr"] == 0.0123
    assert_same(("", resumed.state_dict()), ("", average.state_dict()))
    assert int(resumed.n_averaged) == 2


def test_a_setting_that_was_a_tensor_comes_back_as_one(tmp_path: Path, tables: Path) -> None:
    """As timm's Lamb counts its steps from the first one on."""
    first, second = Run(tables), Run(tables)
    first.optimizer.param_groups[0]["step"] = torch.tensor(3.0)
    first.pruning.save(tmp_path)

    second.pruning.resume(tmp_path)

    step = second.optimizer.param_groups[0]["step"]
    assert isinstance(step, torch.Tensor)
    assert (step.item(), step.dtype) == (3.0, torch.float32)


def test_a_setting_comes_back_as_it_was_or_is_named(tmp_path: Path, tables: Path) -> None:
    first, second = Run(tables), Run(tables)
    note = {0: "frozen", "span": [(1, 2)]}
    first.optimizer.param_groups[0]["note"] = note
    first.pruning.save(tmp_path)

    second.pruning.resume(tmp_path)

    assert second.optimizer.param_groups[0]["note"] == note
    first.optimizer.param_groups[0]["lr"] = np.float32(0.1)
    with pytest.raises(TypeError, match="'lr' of the optimizer's group 0 is a float32"):
        first.pruning.save(tmp_path)


class Counting(torch.optim.SGD):
    """Keeps something that belongs to no parameter."""

    def step(self, closure: Any = None) -> Any:
        own = self.state["all"]  # type: ignore[index]
        own["taken"] = own.get("taken", 0) + 1
        own["trail"] = torch.full((3,), float(own["taken"]))
        return super().step(closure)


def test_state_that_belongs_to_no_parameter_comes_back(tmp_path: Path, tables: Path) -> None:
    first, second = (Run(tables, optimizer=partial(Counting, lr=0.05)) for _ in range(2))
    first.train(7, tmp_path)

    second.resume(tmp_path)

    own = second.optimizer.state["all"]
    assert own["taken"] == 7
    assert own["trail"].tolist() == [7.0, 7.0, 7.0]


def test_parameters_in_another_order_are_another_run(tmp_path: Path, tables: Path) -> None:
    """As of a set of parameters: momenta would be those of others."""
    Run(tables).pruning.save(tmp_path)

    backwards = Run(tables, optimizer=lambda parameters: SGD(list(parameters)[::-1]))

    with pytest.raises(lp.ModelMismatch, match="their names in order is"):
        backwards.pruning.resume(tmp_path)


def test_a_file_is_no_folder_that_keeps_a_run(tmp_path: Path, tables: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(lp.ModelMismatch, match="is a file: give the folder"):
        Run(tables).pruning.resume(tmp_path / "file")


@pytest.mark.parametrize("soft", [False, True])
def test_a_state_from_before_a_cut_is_refused_after_it(tables: Path, soft: bool) -> None:
    run = Run(tables, soft=soft)
    run.train(3)
    state = run.pruning.state_dict()
    run.train(7)

    with pytest.raises(lp.ModelMismatch, match="from behind 0 steps, and the network has taken 1"):
        run.pruning.load_state_dict(state)


def test_the_state_by_itself_brings_a_fresh_network_into_shape(tables: Path) -> None:
    first = Run(tables)
    first.train(8)
    state, weights = first.pruning.state_dict(), first.model.state_dict()

    second = Run(tables)
    second.pruning.load_state_dict(state)
    second.model.load_state_dict(weights)

    assert second.pruning.plan == first.pruning.plan
    assert second.pruning.kept == first.pruning.kept


def test_the_state_of_another_pruning_is_refused(tables: Path) -> None:
    state = Run(tables).pruning.state_dict()

    with pytest.raises(lp.ModelMismatch, match="every: 5 there and 6 here"):
        Run(tables, every=6).pruning.load_state_dict(state)
