"""The judge finds right cuts right and wrong cuts wrong, without being told where channels lie."""

from __future__ import annotations

import copy

import pytest
import torch
from benchmarks.coverage.judge import judge
from torch import nn

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
KEPT = [0, 2, 3, 5, 6]


class Two(nn.Module):
    """A layer of eight channels, a norm, and a layer that reads them."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = norm or nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.norm(self.first(x)).sigmoid())
        return out


def cut(model: nn.Module, *, written: list[int] = KEPT, read: list[int] = KEPT) -> nn.Module:
    """Keep channels of `Two` where they are written and where they are read."""
    small = copy.deepcopy(model)
    for name in ("first.weight", "first.bias", "norm.weight", "norm.bias"):
        _keep(small, name, 0, written)
    for name, _ in list(small.get_submodule("norm").named_buffers()):
        if "running" in name:
            _keep(small, f"norm.{name}", 0, written)
    _keep(small, "second.weight", 1, read)
    if isinstance(small.norm, nn.LayerNorm):
        small.norm.normalized_shape = (len(written),)
    return small


def _keep(model: nn.Module, name: str, axis: int, entries: list[int]) -> None:
    owner, _, leaf = name.rpartition(".")
    tensor = getattr(model.get_submodule(owner), leaf)
    tensor.data = tensor.data.index_select(axis, torch.tensor(entries))


def test_a_right_cut_is_exact() -> None:
    found = judge(Two(), cut, IMAGES)

    assert found.holds == "exact"
    assert found.difference < 1e-12


def test_channels_may_change_places_if_their_readers_follow() -> None:
    shuffled = [6, 0, 5, 3, 2]

    found = judge(Two(), lambda m: cut(m, written=shuffled, read=shuffled), IMAGES)

    assert found.holds == "exact"


def test_a_reader_of_other_channels_is_wrong() -> None:
    found = judge(Two(), lambda m: cut(m, read=[0, 1, 2, 3, 4]), IMAGES)

    assert found.holds == "wrong"
    assert "outputs change" in found.why


def test_a_reader_in_another_order_is_wrong() -> None:
    found = judge(Two(), lambda m: cut(m, read=KEPT[::-1]), IMAGES)

    assert found.holds == "wrong"


def test_a_cut_that_changes_weights_besides_is_wrong() -> None:
    def scaling(model: nn.Module) -> nn.Module:
        small = cut(model)
        small.get_parameter("second.weight").data.mul_(1.25)
        return small

    found = judge(Two(), scaling, IMAGES)

    assert found.holds == "wrong"
    assert "second.weight" in found.why


def test_a_cut_of_outputs_is_wrong() -> None:
    def narrow(model: nn.Module) -> nn.Module:
        small = copy.deepcopy(model)
        _keep(small, "second.weight", 0, [0, 1])
        _keep(small, "second.bias", 0, [0, 1])
        return small

    found = judge(Two(), narrow, IMAGES)

    assert found.holds == "wrong"
    assert "shapes" in found.why


def test_a_norm_over_channels_leaves_the_structure_right() -> None:
    assert judge(Two(nn.GroupNorm(1, 8)), cut, IMAGES).holds == "structure"


class OwnNorm(nn.Module):
    """A norm over channels that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * torch.rsqrt(x.pow(2).mean(dim=1, keepdim=True) + 1e-6)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def test_a_norm_that_is_written_out_leaves_the_structure_right() -> None:
    assert judge(Two(OwnNorm()), cut, IMAGES).holds == "structure"


def test_a_wrong_cut_under_a_norm_that_is_written_out_is_wrong() -> None:
    found = judge(Two(OwnNorm()), lambda m: cut(m, read=KEPT[::-1]), IMAGES)

    assert found.holds == "wrong"


def test_a_wrong_cut_under_a_norm_over_channels_is_wrong() -> None:
    found = judge(Two(nn.GroupNorm(1, 8)), lambda m: cut(m, read=KEPT[::-1]), IMAGES)

    assert found.holds == "wrong"


def test_a_network_that_hides_its_channels_stays_open() -> None:
    class Deaf(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 0 + 1

    assert judge(Deaf(), cut, IMAGES).holds == "open"


def test_outputs_that_are_all_zero_prove_nothing() -> None:
    class Silent(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 0

    found = judge(Silent(), cut, IMAGES)

    assert found.holds != "exact"
    assert "zero" in found.why


def test_what_a_watched_module_returns_is_compared_too() -> None:
    class Deaf(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).sign()

    def slightly_wrong(model: nn.Module) -> nn.Module:
        return cut(model, read=KEPT[::-1])

    found = judge(Deaf(), slightly_wrong, IMAGES, watch=["second"])

    assert found.holds == "wrong"


def test_the_judged_network_and_the_default_type_stay_as_they_were() -> None:
    model = Two()
    before = copy.deepcopy(model.state_dict())

    judge(model, cut, IMAGES)

    assert torch.get_default_dtype() == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("affine", [True, False])
def test_standardised_weights_are_right_in_structure(affine: bool) -> None:
    class Standardised(Two):
        """Weights with mean zero and variance one per output channel, as in BiT."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.second.weight
            gain = self.second.bias if affine else None
            flat = nn.functional.batch_norm(
                weight.reshape(1, len(weight), -1), None, None, weight=gain, training=True
            )
            hidden = self.norm(self.first(x)).sigmoid()
            return nn.functional.conv2d(hidden, flat.reshape_as(weight))

    assert judge(Standardised(), cut, IMAGES).holds == "structure"
    assert judge(Standardised(), lambda m: cut(m, read=KEPT[::-1]), IMAGES).holds == "wrong"


@pytest.mark.parametrize(
    ("moved", "holds"), [(0, "structure"), (1, "wrong")], ids=["own gates", "a neighbour's gates"]
)
def test_gates_by_a_convolution_along_channels_are_right_in_structure(
    moved: int, holds: str
) -> None:
    class Gated(Two):
        """Efficient channel attention; where gates are moved, every channel gets another's."""

        def __init__(self) -> None:
            super().__init__()
            self.along = nn.Conv1d(1, 1, 3, padding=1 + moved, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.first(x))
            gates = self.along(x.mean((2, 3))[:, None])[:, 0, 2 * moved :][
                :, : x.shape[1], None, None
            ]
            out: torch.Tensor = self.second(x * gates.sigmoid())
            return out

    assert judge(Gated(), cut, IMAGES).holds == holds


class Deviations(nn.Module):
    """Divides eight channels by the deviation of each half of them."""

    def __init__(self, halves: int = 2) -> None:
        super().__init__()
        self.halves = halves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = x.reshape(len(x), self.halves, -1, *x.shape[2:])
        return (halves / halves.std(dim=(2, 3, 4), keepdim=True)).flatten(1, 2)


@pytest.mark.parametrize(("read", "holds"), [([4, 5, 7], "structure"), ([4, 6, 7], "wrong")])
def test_a_statistic_that_lost_entries_and_results_gives_way_to_one_number(
    read: list[int], holds: str
) -> None:
    def halved(model: nn.Module) -> nn.Module:
        small = copy.deepcopy(model)
        for name in ("first.weight", "first.bias"):
            _keep(small, name, 0, [4, 5, 7])
        _keep(small, "second.weight", 1, read)
        small.norm = Deviations(1)
        return small

    assert judge(Two(Deviations()), halved, IMAGES).holds == holds
