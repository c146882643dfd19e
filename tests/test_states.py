"""Networks whose state is more than tensors are saved and come back, or the error says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import latprune as lp
from latprune.states import count_subnormals, drop_subnormals, hand_on, state_of, tensors_of
from latprune.tuning.checkpoint import hash_of_weights
from tests import networks
from tests.test_surgery import EXAMPLE, a_plan

if TYPE_CHECKING:
    from pathlib import Path


class Told(networks.Plain):
    """Keeps what it is told beside its weights."""

    def __init__(self, told: Any = None) -> None:
        super().__init__()
        self.told = told

    def get_extra_state(self) -> Any:
        return self.told

    def set_extra_state(self, state: Any) -> None:
        self.told = state


class Listing(networks.Plain):
    """Writes a list into its state by itself, as quantised layers do."""

    def __init__(self, listed: list[int]) -> None:
        super().__init__()
        self.listed = listed

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}listed"] = self.listed

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.listed = state_dict.pop(f"{prefix}listed")
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Secret:
    """Of a class that no reader of weights may make."""


def saved(model: nn.Module, path: Path) -> None:
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    lp.save(lp.cut(model, graph, plan), path, graph=graph, plan=plan)


@pytest.mark.parametrize(
    "told",
    [
        None,
        {"steps": 3, 7: (1.5, "seven"), "nested": [{"on": True}]},
        "PK\x03\x04",
        torch.arange(5, dtype=torch.uint8),
    ],
)
def test_a_state_that_is_no_tensor_comes_back(told: Any, tmp_path: Path) -> None:
    saved(Told(told).eval(), tmp_path / "small.safetensors")

    again: Any = lp.load(tmp_path / "small.safetensors", Told("another").eval())

    assert type(again.told) is type(told)
    assert torch.equal(again.told, told) if isinstance(told, torch.Tensor) else again.told == told


def test_what_a_module_writes_by_a_name_of_its_own_comes_back(tmp_path: Path) -> None:
    saved(Listing([1, 2]).eval(), tmp_path / "small.safetensors")

    again: Any = lp.load(tmp_path / "small.safetensors", Listing([]).eval())

    assert again.listed == [1, 2]


def test_what_is_handed_on_is_a_copy_and_no_tensor() -> None:
    model, other = Told({"seen": [1]}), Told({"seen": []})
    weights = [parameter.detach().clone() for parameter in other.parameters()]

    hand_on(model, other)

    assert other.told == model.told
    assert other.told["seen"] is not model.told["seen"]
    assert all(map(torch.equal, other.parameters(), weights))


def test_tensors_within_a_state_come_back() -> None:
    model = Told({"scales": torch.tensor([0.5, 2.0])})
    twin = Told()

    twin.load_state_dict(state_of(tensors_of(model)))

    assert torch.equal(twin.told["scales"], torch.tensor([0.5, 2.0]))


def test_a_state_that_no_file_can_hold_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(Told(Secret())).eval()

    with pytest.raises(lp.CannotSave, match=r"0, a Told, holds '0._extra_state', a Secret"):
        saved(model, tmp_path / "small.safetensors")

    assert not list(tmp_path.iterdir())


def test_weights_are_told_apart_by_such_a_state_too() -> None:
    torch.manual_seed(0)
    one, two = Told({"steps": 3}), Told({"steps": 4})
    two.load_state_dict({**one.state_dict(), "_extra_state": {"steps": 4}})

    assert hash_of_weights(one) != hash_of_weights(two)
    two.told = {"steps": 3}
    assert hash_of_weights(one) == hash_of_weights(two)


def test_numbers_that_processors_are_slow_with_are_set_to_zero() -> None:
    first, norm, last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2).half()
    model = nn.Sequential(first, norm, last)
    with torch.no_grad():
        first.weight[0] = -1e-40
        model.get_buffer("1.running_var")[1] = 1e-39
        norm.bias[0] = 2e-38  # small, and usual
        last.weight[0, 0] = 1e-6  # below half precision's usual numbers, and of use
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    assert count_subnormals(model) == 4
    assert drop_subnormals(model) == 4

    assert count_subnormals(model) == 0
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"0.weight", "1.running_var"}
    assert not first.weight[0].any()
    assert float(model.get_buffer("1.running_var")[1]) == 0
