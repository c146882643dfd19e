"""Two processes that train one network cut it alike, to the bit."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.multiprocessing.spawn import ProcessExitedException
from torch.nn.parallel import DistributedDataParallel

import latprune as lp
from latprune.gradual.processes import agreed
from tests.gradual.training import batch, measured, network
from tests.processes import run_together

if TYPE_CHECKING:
    from pathlib import Path

# Python 3.12 and later warn of any fork beside threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
STEPS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, with everything measured."""
    made = tmp_path_factory.mktemp("together")
    measured(network(), made / "tables")
    return made


def begun(folder: Path, **options: Any) -> tuple[Any, Any, lp.GradualPruning]:
    """Give a wrapped network, its optimizer and its pruning, as two processes would."""
    model = network()
    graph, table = measured(model, folder / "tables")
    wrapped = DistributedDataParallel(model, **options.pop("wrap", {}))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    options = {"every": 2, "steps": 3, **options}
    pruning = lp.prune_in_steps(wrapped, graph, table, 0.5, optimizer=optimizer, **options)
    return wrapped, optimizer, pruning


def train(
    wrapped: Any, optimizer: Any, pruning: lp.GradualPruning, numbers: range, rank: int
) -> list[dict[str, Any]]:
    plans = []
    for number in numbers:
        images, labels = batch(2 * number + rank)  # other pictures in each process
        loss = F.cross_entropy(wrapped(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        plan = pruning.step()
        plans += [] if plan is None else [plan.to_json()]
    return plans


def cutting(rank: int, folder: Path, **options: Any) -> dict[str, Any]:
    wrapped, optimizer, pruning = begun(folder, **options)
    plans = train(wrapped, optimizer, pruning, range(STEPS), rank)
    moments = [optimizer.state[p]["momentum_buffer"].numpy() for p in wrapped.parameters()]
    weights = {name: p.detach().numpy() for name, p in wrapped.named_parameters()}
    return {"plans": plans, "weights": weights, "moments": moments}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"soft": True},
        {"wrap": {"gradient_as_bucket_view": True}},
        {"wrap": {"static_graph": True}},
        {"wrap": {"find_unused_parameters": True}},
    ],
    ids=["cut", "soft", "views", "static", "unused"],
)
def test_every_process_has_the_same_plans_and_weights(
    folder: Path, options: dict[str, Any]
) -> None:
    first, second = run_together(partial(cutting, **options), folder)

    assert len(first["plans"]) == 3
    assert first["plans"] == second["plans"]
    for name, weight in first["weights"].items():
        assert np.array_equal(weight, second["weights"][name]), name
    assert all(map(np.array_equal, first["moments"], second["moments"]))


def alone(folder: Path) -> list[np.ndarray]:
    """Train on both processes' pictures in one: gradients are averages of two."""
    model = network()
    graph, table = measured(model, folder / "tables")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruning = lp.prune_in_steps(model, graph, table, 0.5, optimizer=optimizer, every=2, steps=3)
    model.eval()  # batch norms would see other batches
    for number in range(STEPS):
        optimizer.zero_grad()
        for rank in range(2):
            images, labels = batch(2 * number + rank)
            (F.cross_entropy(model(images), labels) / 2).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        pruning.step()
    return [p.detach().numpy() for p in model.parameters()]


def evaluating(rank: int, folder: Path) -> list[np.ndarray]:
    wrapped, optimizer, pruning = begun(folder)
    wrapped.eval()
    train(wrapped, optimizer, pruning, range(STEPS), rank)
    return [p.detach().numpy() for p in wrapped.parameters()]


def test_two_processes_train_and_cut_as_one_does_on_both_shares(folder: Path) -> None:
    together, _ = run_together(evaluating, folder)

    for ours, theirs in zip(together, alone(folder), strict=True):
        assert ours.shape == theirs.shape
        assert ours == pytest.approx(theirs, abs=1e-5)


def compressing(rank: int, folder: Path) -> list[int]:
    wrapped, optimizer, pruning = begun(folder)
    calls = []

    def halved(state: Any, bucket: Any) -> Any:
        calls.append(len(bucket.parameters()))
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        summed = bucket.buffer().clone()
        dist.all_reduce(summed)
        done.set_result(summed / 2)
        return done

    halved.__annotations__.clear()  # torch compares them with its types, not with their names
    wrapped.register_comm_hook(None, halved)
    calls_by_step = []
    for number in range(STEPS):
        train(wrapped, optimizer, pruning, range(number, number + 1), rank)
        calls_by_step.append(sum(calls))
        calls.clear()
    return calls_by_step


def test_communication_hooks_stay_registered(folder: Path) -> None:
    first, second = run_together(compressing, folder)

    assert first == second
    assert set(first) == {len(list(network().parameters()))}


def dying(rank: int, folder: Path) -> None:
    wrapped, optimizer, pruning = begun(folder)
    train(wrapped, optimizer, pruning, range(3), rank)
    pruning.save(folder / "run", batch=3)
    train(wrapped, optimizer, pruning, range(3, 4), rank)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    train(wrapped, optimizer, pruning, range(4, STEPS), rank)
    pruning.save(folder / "run", batch=STEPS)


def resuming(rank: int, folder: Path) -> dict[str, Any]:
    wrapped, optimizer, pruning = begun(folder)
    facts = pruning.resume(folder / "run")
    assert facts is not None
    train(wrapped, optimizer, pruning, range(facts["batch"], STEPS), rank)
    assert pruning.plan is not None
    weights = {name: p.detach().numpy() for name, p in wrapped.named_parameters()}
    return {"batch": facts["batch"], "plan": pruning.plan.to_json(), "weights": weights}


def test_a_process_that_dies_fails_the_run_and_leaves_the_checkpoint(folder: Path) -> None:
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        run_together(dying, folder)

    first, second = run_together(resuming, folder)
    unbroken, _ = run_together(cutting, folder)

    assert first["batch"] == 3
    assert first["plan"] == second["plan"] == unbroken["plans"][-1]
    for name, weight in unbroken["weights"].items():
        assert np.array_equal(weight, first["weights"][name]), name


def failing(rank: int, folder: Path) -> str:
    def decide() -> dict[str, Any]:
        assert rank == 0
        raise lp.BudgetTooSmall(1.0, 2.0)

    try:
        agreed(decide)
    except lp.LatpruneError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_what_fails_in_the_first_process_fails_in_all(folder: Path) -> None:
    first, second = run_together(failing, folder)

    assert first.startswith("BudgetTooSmall: no network fits into 1.000 ms")
    assert second.startswith("LatpruneError: in process 0: no network fits into 1.000 ms")


def unwrapped(rank: int, folder: Path) -> str:
    model = network()
    graph, table = measured(model, folder / "tables")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    try:
        lp.prune_in_steps(model, graph, table, 0.5, optimizer=optimizer)
    except ValueError as error:
        return str(error)
    return "nothing"


def test_several_processes_need_a_wrapper_that_can_be_told(folder: Path) -> None:
    first, second = run_together(unwrapped, folder)

    assert first == second
    assert "wrapped in DistributedDataParallel" in first
