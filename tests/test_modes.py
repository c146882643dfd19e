"""Labels follow the network to its device, whatever they are made of; networks can be copied."""

from __future__ import annotations

import copy
import itertools
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from latprune.modes import copied, evaluating, moved, sharing

META = torch.device("meta")


class Pair(NamedTuple):
    boxes: torch.Tensor
    name: str


def test_tensors_are_moved_out_of_whatever_holds_them() -> None:
    here = torch.ones(2)
    there = moved([{"a": here}, (here, "b"), Pair(here, "c"), None], META)

    assert there[0]["a"].device == there[1][0].device == there[2].boxes.device == META
    assert isinstance(there[2], Pair)
    assert (there[1][1], there[2].name, there[3]) == ("b", "c", None)
    assert here.device.type == "cpu"


def test_what_is_there_already_is_not_copied() -> None:
    here = torch.ones(2)

    assert moved({"a": here}, here.device)["a"] is here


class Remembers(nn.Module):
    """Keeps what it derived from a parameter from one evaluation to the next, as timm's LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.kept: dict[str, list[Tensor]] = {}

    def train(self, mode: bool = True) -> Remembers:
        if mode:
            self.kept.clear()
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if not self.kept:
            self.kept["doubled"] = [self.weight * 2]
        return x * self.kept["doubled"][0]


class Merging(nn.Linear):
    """Adds its adapter to its weight for evaluation, as LoRA does."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.adapter = nn.Parameter(torch.ones(2, 2))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        if self.merged == mode:
            self.weight.data += -self.adapter if mode else self.adapter
            self.merged = not mode
        return super().train(mode)


@pytest.mark.parametrize("modes", list(itertools.product([True, False], repeat=3)))
def test_modules_that_change_more_than_a_flag_are_back_in_their_state_after_an_evaluation(
    modes: tuple[bool, ...],
) -> None:
    model = nn.Sequential(Merging(), Merging())
    for module, mode in zip(model.modules(), modes, strict=True):
        module.train(mode)
    before = copy.deepcopy(model.state_dict())

    with evaluating(model):
        assert all(layer.merged for layer in model)

    assert tuple(module.training for module in model.modules()) == modes
    assert all(layer.merged != layer.training for layer in model)
    torch.testing.assert_close(dict(model.state_dict()), dict(before))


def test_what_a_module_derived_and_kept_is_not_copied() -> None:
    model, inputs = Remembers().eval(), torch.ones(1, 2)
    outputs = model(inputs)
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(model)

    twin = copied(model)

    assert not twin.kept
    assert not twin.training
    assert not model.kept["doubled"][0].is_leaf
    torch.testing.assert_close(twin(inputs), outputs.detach())


def test_a_module_with_a_weight_made_of_others_is_copied_and_goes_on_learning() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.utils.weight_norm(nn.Linear(2, 2))

    twin = copied(model)

    twin(torch.ones(1, 2)).sum().backward()
    there, here = (dict(one.named_parameters())["weight_g"] for one in (twin, model))
    assert there.grad is not None
    assert here.grad is None


class Waited(torch.Tensor):
    """Remembers whether anybody waits for it."""

    non_blocking: bool

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Any:  # type: ignore[override]
        self.non_blocking = non_blocking
        return self


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_cpu_waits_for_what_it_is_given(device: str) -> None:
    tensor = torch.zeros(2).as_subclass(Waited)

    moved(tensor, torch.device(device))

    assert tensor.non_blocking == (device != "cpu")


def test_a_copy_that_shares_has_its_own_buffers_and_shapes_but_no_memory_of_its_own() -> None:
    linear, norm = nn.Linear(2, 4), nn.BatchNorm1d(4)
    model = nn.Sequential(linear, norm, linear)

    twin = sharing(model)

    weight, mean = twin.get_parameter("0.weight"), twin.get_buffer("1.running_mean")
    assert weight.data_ptr() == linear.weight.data_ptr()
    assert mean.data_ptr() != model.get_buffer("1.running_mean").data_ptr()
    assert twin[2] is twin[0] is not linear
    weight.data = weight.data[:, :1]
    twin.double()
    assert (linear.weight.shape, linear.weight.dtype) == ((4, 2), torch.float32)


def test_adapters_that_merge_into_their_layers_share_no_memory_with_a_copy() -> None:
    model = Merging().eval()
    merged = model.weight.detach().clone()

    sharing(model).train()

    assert torch.equal(model.weight, merged)
