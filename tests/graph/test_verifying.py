"""Trial cuts find what is broken, and stop looking closer when that would take too long."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latprune.graph import verifying
from latprune.graph.groups import ChannelGroup
from latprune.graph.slicing import slice_model, zero_channels
from latprune.graph.tracing import trace
from latprune.graph.verifying import Judgement, find_broken, settle, uneven_kept
from tests.graph.test_tracing import EXAMPLE, is_right
from tests.networks import ConvNorm, Head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Fixed(nn.Module):
    """A block whose inner width stands in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.grow, self.shrink = ConvNorm(6, 8, 1), ConvNorm(4, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = torch.split(self.grow(x), 4, dim=1)
        return x + self.shrink(first + second)  # type: ignore[no-any-return]


class ManyFixed(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 6)
        self.blocks, self.head = nn.Sequential(*(Fixed() for _ in range(blocks))), Head(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)))  # type: ignore[no-any-return]


def test_all_that_is_broken_is_frozen_and_all_else_stays() -> None:
    graph = trace(ManyFixed(5), EXAMPLE)

    assert set(graph.widths) == {"stem.0"}
    assert {f"blocks.{i}.grow.0" for i in range(5)} <= {f.where for f in graph.frozen}


def test_what_fails_together_stays_where_too_much_is_broken_to_try_one_by_one() -> None:
    graph = trace(ManyFixed(40), EXAMPLE)

    assert {f"blocks.{i}.grow.0" for i in range(40)} <= {f.where for f in graph.frozen}
    assert not graph.groups


def test_a_change_that_float32_might_have_made_is_judged_in_float64() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 3), Head(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = 1 + 1e-4 * len(self.stem.weight)
            return self.head(scale * self.stem(x))  # type: ignore[no-any-return]

    graph = trace(Scaled(), EXAMPLE)

    assert not graph.groups
    assert any("its outputs change by" in frozen.reason for frozen in graph.frozen)


def test_what_is_wrong_at_the_bottom_of_a_deep_network_shows() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 3), Head(8)
            self.body = nn.Sequential(*(ConvNorm(8, 8) for _ in range(40)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = 1 + 1e-3 * len(self.stem.weight)
            return self.head(self.body(scale * self.stem(x)))  # type: ignore[no-any-return]

    graph = trace(Deep(), EXAMPLE)

    assert any(f.where == "stem" and "outputs change by" in f.reason for f in graph.frozen)
    assert len(graph.groups) == 40


def test_what_python_computes_from_a_number_that_follows_is_judged_in_float64() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.width = nn.Conv2d(3, 8, 3), Head(8), 8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = x.view(len(x), self.width, *x.shape[2:])
            return self.head((1 + 2e-6 * self.width) * x)  # type: ignore[no-any-return]

    graph = trace(Scaled(), EXAMPLE)

    assert not graph.groups
    assert any("its outputs change by" in frozen.reason for frozen in graph.frozen)


class Deviating(nn.Module):
    """Its gate is a standard deviation over channels: of a single one there is none."""

    def __init__(self, correction: int) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), Head(6)
        self.correction = correction

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x * x.std(1, keepdim=True, correction=self.correction)
        return self.head(self.body(x).relu())  # type: ignore[no-any-return]


def test_two_channels_stay_where_a_variance_divides_by_one_less() -> None:
    multiples = [
        trace(Deviating(correction), EXAMPLE).group("stem").multiple for correction in (0, 1)
    ]

    assert multiples == [1, 2]


def test_what_is_not_a_number_is_no_agreement() -> None:
    class Vanishing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 3), Head(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = 1.0 if len(self.stem.weight) == 8 else float("nan")
            return self.head(scale * self.stem(x))  # type: ignore[no-any-return]

    graph = trace(Vanishing(), EXAMPLE)

    assert not graph.groups
    assert any("change by nan" in frozen.reason for frozen in graph.frozen)


class Casting(nn.Module):
    """It casts to float32 by itself, and a number of its own tells where channels are parted."""

    def __init__(self, *, casts: bool = True) -> None:
        super().__init__()
        self.stem, self.body, self.part = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), 3
        self.casts = casts
        self.inner = nn.Sequential(nn.Conv2d(6, 10, 1), nn.ReLU(), nn.Conv2d(10, 6, 1))
        self.head = Head(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.float() if self.casts else x).relu()
        x = torch.cat([x[:, : self.part].sigmoid(), x[:, self.part :]], 1)
        x = self.body(x)
        return self.head(x + self.inner(x))  # type: ignore[no-any-return]


def test_a_network_that_casts_to_float32_is_judged_in_it() -> None:
    graph = trace(Casting(), EXAMPLE, branches=True)

    assert graph.widths == {"stem": 3, "stem#2": 5, "body": 6, "inner.0": 10}
    assert [branch.name for branch in graph.branches] == ["inner"]
    assert is_right(Casting(casts=False), graph)


class MistakenCasting(Casting):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1 + 1e-2 * len(self.stem.weight))


def test_what_is_wrong_in_float32_is_found_there() -> None:
    graph = trace(MistakenCasting(), EXAMPLE)

    assert not any(name.startswith("stem") for name in graph.widths)
    assert any("its outputs change by" in frozen.reason for frozen in graph.frozen)


class Alike(nn.Module):
    """What makes a tensor as large as another one, in ways that no rule need know."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.left, self.right, self.way = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), way
        self.body, self.head = nn.Conv2d(16, 6, 3), Head(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.left(x).relu(), self.right(x)
        right = getattr(self, self.way)(left, right)
        return self.head(self.body(torch.cat([left, right], 1)))  # type: ignore[no-any-return]

    def view_as(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return right.flatten(2).view_as(left)

    def reshape_as(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return right.flatten(2).reshape_as(left)

    def expand_as(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return right.mean((2, 3), keepdim=True).expand_as(left)

    def broadcast(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.broadcast_to(right.mean((2, 3), keepdim=True), left.shape)

    def slices(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return right[:, : left.shape[1]]

    def hides(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return right.flatten(2).reshape(left.detach().numpy().shape)


TIED = ["view_as", "reshape_as", "expand_as", "broadcast", "slices"]


@pytest.mark.parametrize("way", TIED)
def test_what_must_be_as_wide_as_another_is_cut_with_it(way: str) -> None:
    assert trace(Alike(way), EXAMPLE).widths == {"left": 8, "body": 6}


def test_what_only_holds_at_equal_widths_is_found_by_cutting_different_shares() -> None:
    graph = trace(Alike("hides"), EXAMPLE)

    assert graph.widths == {"body": 6}
    assert any("no longer runs" in frozen.reason for frozen in graph.frozen)


@given(st.lists(st.integers(4, 40), min_size=2, max_size=12))
def test_groups_of_one_size_lose_different_shares_as_far_as_there_are_any(
    sizes: list[int],
) -> None:
    groups = [ChannelGroup(str(index), size, ()) for index, size in enumerate(sizes)]

    kept = uneven_kept(groups, seed=0)

    for size in sizes:
        widths = [len(kept[group.name]) for group in groups if group.channels == size]
        assert 0 < min(widths) <= max(widths) < size
        assert len(set(widths)) >= min(len(widths), size // 2)


@given(sizes=st.lists(st.sampled_from([4, 8, 16, 64]), min_size=2, max_size=24))
def test_of_two_groups_of_a_size_each_is_the_larger_one_in_a_trial(sizes: list[int]) -> None:
    groups = [ChannelGroup(str(index), size, ()) for index, size in enumerate(sizes)]
    there, back = (uneven_kept(groups, seed=0, mirrored=mirrored) for mirrored in (False, True))

    for one, other in itertools.combinations(groups, 2):
        if one.channels == other.channels:
            first, second = (len(kept[one.name]) - len(kept[other.name]) for kept in (there, back))
            assert first == -second


class Comparing(nn.Module):
    """Does something else where one side is narrower than the other, which at first it is not."""

    def __init__(self, *, swapped: bool) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.heads = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(2))
        self.swapped = swapped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = [self.one(x).relu(), self.other(x).relu()]
        first, second = reversed(sides) if self.swapped else sides
        if first.shape[1] < second.shape[1]:
            sides[0] = 2 * sides[0]
        total: torch.Tensor = self.heads[0](sides[0]) + self.heads[1](sides[1])
        return total


@pytest.mark.parametrize("swapped", [False, True])
def test_what_only_holds_while_one_width_is_the_larger_is_found(swapped: bool) -> None:
    model = Comparing(swapped=swapped).eval()
    graph = trace(model, EXAMPLE)

    for narrow, wide in (("one", "other"), ("other", "one")):
        kept = {narrow: range(2), wide: range(6)}
        kept = {name: channels for name, channels in kept.items() if name in graph.widths}
        masked, small = copy.deepcopy(model), copy.deepcopy(model)
        zero_channels(masked, graph.groups, kept)
        slice_model(small, graph.groups, kept)
        assert torch.allclose(masked(EXAMPLE), small(EXAMPLE), atol=1e-5)


class Ending(nn.Module):
    """A number of its own follows the cut of `first`, which only what it returns would show."""

    def __init__(self, end: Callable[[torch.Tensor], Any], classes: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.head, self.end = nn.Linear(6, classes), end

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x).relu() * (8 / len(self.first.weight))
        return self.end(self.head(self.second(x).relu().mean((2, 3))))


def real(x: torch.Tensor) -> torch.Tensor:
    return x


ENDS: list[Callable[[torch.Tensor], Any]] = [
    real,
    torch.relu,
    lambda x: torch.relu(-x),
    lambda x: torch.relu_(x - 10),
    lambda x: -x.exp().neg().relu(),
    lambda x: x > 0,
    lambda x: x.round().long(),
    lambda x: (x > 0, x.new_zeros(2)),
    lambda x: torch.complex(x, x),
    lambda x: torch.complex(x, x).conj(),
]


@pytest.mark.parametrize("end", ENDS)
def test_a_wrong_cut_is_found_whatever_is_left_of_it_in_the_outputs(
    end: Callable[[torch.Tensor], Any],
) -> None:
    assert trace(Ending(end), EXAMPLE).widths == {"second": 6}


def test_a_wrong_cut_is_found_where_training_mode_alone_returns_what_tells_nothing() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.early, self.head = nn.Conv2d(3, 8, 3), Head(8), Head(8)

        def forward(self, x: torch.Tensor) -> Any:
            x = self.first(x).relu()
            early = x * (8 / len(self.first.weight))
            return (self.head(x), self.early(early) > 0) if self.training else self.head(x)

    assert not trace(Early(), EXAMPLE).groups


class Masking(nn.Module):
    """No module gives what it makes its mask, or zeros, of."""

    def __init__(self, classes: int, end: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.stem, self.end = nn.Conv2d(3, 8, 3), end
        self.weight = nn.Parameter(torch.ones(classes, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(nn.functional.linear(self.stem(x).relu().mean((2, 3)), self.weight))


def test_what_cannot_be_judged_stays() -> None:
    graph = trace(Masking(2, lambda x: x > 0), EXAMPLE)

    assert not graph.groups
    assert any("cannot be judged" in frozen.reason for frozen in graph.frozen)


@pytest.mark.parametrize("sign", [-1, 1])
def test_what_some_weights_do_not_show_others_do(sign: int) -> None:
    assert trace(Masking(1, lambda x: (sign * x).relu()), EXAMPLE).widths == {"stem": 8}


def test_an_example_of_zeros_of_which_no_weights_make_anything_shows_no_less() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False))

    assert trace(model, torch.zeros(2, 3, 12, 12)).widths == {"0": 8}


def test_a_network_without_batch_norms_is_not_run_for_their_statistics() -> None:
    class Counting(nn.Linear):
        runs = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.runs += 1
            return super().forward(x)

    network = Counting(3, 2)

    settle(network, (torch.randn(1, 3),), Counting(3, 2))

    assert network.runs == 0


class Scaled(nn.Module):
    """A network with a norm over channels, which it may scale by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), Head(6)
        self.norm, self.slope = nn.GroupNorm(1, 6), 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = 1 + self.slope * len(self.body.weight)
        return self.head(scale * self.norm(self.body(self.stem(x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("slope", "runs"), [(0.0, 2), (0.1, 0)])
def test_training_mode_runs_no_more_often_than_it_can_tell(slope: float, runs: int) -> None:
    network = Scaled()
    body = [group for group in trace(network, EXAMPLE).groups if group.name == "body"]
    network.slope = slope
    modes: list[bool] = []
    network.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    judgement = Judgement({("native_group_norm", 0)}, training=(EXAMPLE,))

    broken = find_broken(network.eval(), (EXAMPLE,), body, judgement)

    assert bool(broken) == bool(slope)
    assert sum(modes) == runs


@pytest.mark.parametrize("at_first", [True, False])
def test_what_is_known_to_fail_together_is_not_tried_again(
    at_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str | torch.dtype, ...]] = []

    def cut(model: Scaled, groups: Sequence[ChannelGroup], *others: Any, **ties: Any) -> None:
        tried.append((model.stem.weight.dtype, *(group.name for group in groups)))
        slice_model(model, groups, *others, **ties)

    network = Scaled()
    groups = trace(network, EXAMPLE).groups
    network.slope = 0.1
    monkeypatch.setattr(verifying, "slice_model", cut)
    judgement = Judgement({("native_group_norm", 0)})
    first, then = (groups, ()) if at_first else ((), groups)

    broken = find_broken(network.eval(), (EXAMPLE,), first, judgement, then=then)

    assert list(broken) == ["body"]
    assert len(set(tried)) == len(tried) == 3
