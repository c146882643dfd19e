"""Channels are followed through what is written into slices, sorted or picked beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latprune.graph.rules import RULES
from latprune.graph.tracing import trace
from tests.graph.test_tracing import EXAMPLE, is_right

if TYPE_CHECKING:
    from collections.abc import Callable

    from latprune.graph.labels import Call, LabelMode

    Move = Callable[[Tensor], Tensor]


class Moved(nn.Module):
    """Something is done between two layers to [samples, channels, places]."""

    def __init__(self, move: Move) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 8, 3, padding=1)
        self.move = move
        self.after = nn.Conv1d(8, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.move(self.before(x).flatten(2).tanh())
        y: Tensor = self.head(self.after(x).relu().cumsum(2).mean(2))
        return y


def padded_by_hand(x: Tensor) -> Tensor:
    y = torch.zeros(x.shape[0], x.shape[1], x.shape[2] + 2, dtype=x.dtype)
    y[:, :, 1:-1] = x
    return y


def interleaved(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:, :, ::2], y[:, :, 1::2] = x[:, :, 1::2], 2 * x[:, :, ::2]
    return y


def added_to_its_neighbour(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, 1:] += x[:, :, :-1]
    return y


def with_an_axis_in_between(x: Tensor) -> Tensor:
    return (x.clone().unsqueeze_(2) * 2).squeeze_(2).transpose_(1, 2).transpose_(1, 2)


def picked_where_the_mean_is_largest(x: Tensor) -> Tensor:
    places = x.detach().mean(1, keepdim=True).topk(5, dim=2).indices
    return x.gather(2, places.expand(-1, x.shape[1], -1))


def added_up_by_places(x: Tensor) -> Tensor:
    rows = x.permute(2, 0, 1).flatten(0, 1)
    halves = torch.arange(len(rows)) // 2
    added = torch.zeros_like(rows).index_add(0, halves, rows)
    return added.reshape(-1, *x.shape[:2]).permute(1, 2, 0)


FOLLOWED: list[Move] = [
    added_up_by_places,
    *(padded_by_hand, interleaved, added_to_its_neighbour, with_an_axis_in_between),
    lambda x: x.sort(2).values,
    lambda x: x.sort(stable=True, dim=2, descending=True).values,
    lambda x: x.topk(5, 2).values,
    lambda x: x.gather(2, x.argsort(2)),
    picked_where_the_mean_is_largest,
    lambda x: torch.zeros_like(x).scatter(2, x.argsort(2), x),
    lambda x: x.median(2, keepdim=True).values,
    lambda x: x.median(2).values.unsqueeze(2),
    lambda x: x.kthvalue(3, 2, keepdim=True).values,
    lambda x: x.quantile(0.3, dim=2, keepdim=True),
    lambda x: x.cummax(2).values,
    lambda x: x * (x > 0).any(2, keepdim=True),
    lambda x: torch.zeros_like(x).index_add(2, torch.arange(x.shape[2]) // 2, x),
    lambda x: torch.zeros_like(x).index_copy(2, torch.arange(5), x[:, :, :5]),
    lambda x: x.reshape(*x.shape[:2], 12, -1).rot90(1, (2, 3)).flatten(2),
    lambda x: F.rrelu(F.logsigmoid(x)) + (x // 0.3),
]


@pytest.mark.parametrize("move", FOLLOWED)
def test_channels_are_cut_beside_what_happens_to_their_places(move: Move) -> None:
    model = Moved(move).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 8, "after": 12}
    assert is_right(model, graph)


@pytest.mark.parametrize(
    "move",
    [
        lambda x: torch.cat([x[:, ::2] * x[:, 1::2], x[:, 1::2]], 1),
        lambda x: torch.cat([-x[:, 1:8:2], x[:, 0:8:2]], 1),
        lambda x: torch.stack([-x[:, 1::2], x[:, ::2]], 2).flatten(1, 2),
    ],
)
def test_neighbours_that_are_taken_apart_in_steps_are_cut_together(move: Move) -> None:
    model = Moved(move).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 4, "after": 12}
    assert is_right(model, graph)


def test_blocks_whose_number_is_an_attribute_are_cut_alike() -> None:
    class Pyramid(nn.Module):
        """Every block of channels goes through a convolution of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.levels = 2
            self.convs = nn.ModuleList(nn.Conv1d(4, 4, 1, groups=4) for _ in range(self.levels))

        def forward(self, x: Tensor) -> Tensor:
            parts = x.chunk(self.levels, dim=1)
            return torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)

    model = Moved(Pyramid()).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 4, "after": 12}
    assert is_right(model, graph)


def test_channels_taken_in_steps_that_leave_some_over_stay() -> None:
    graph = trace(Moved(lambda x: torch.cat([x[:, ::3], x[:, 1::3], x[:, 2::3]], 1)), EXAMPLE)

    assert "before" not in graph.widths
    assert any(frozen.reason.startswith("slice at fixed") for frozen in graph.frozen)


@pytest.mark.parametrize(
    "statistic",
    [
        lambda x: x.max(1, keepdim=True).values,
        lambda x: x.amin(1, keepdim=True),
        lambda x: x.logsumexp(1, keepdim=True),
    ],
)
def test_a_maximum_over_channels_is_a_statistic_of_them(statistic: Move) -> None:
    model = Moved(lambda x: x * statistic(x).sigmoid()).eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 8, "after": 12}
    assert "over its channels" in graph.group("before").approximate
    assert is_right(model, graph)
    assert trace(model, EXAMPLE, exact=True).widths == {"after": 12}


@pytest.mark.parametrize(
    "best",
    [
        lambda x: x.mean((2, 3)).max(1).values,
        lambda x: x.sigmoid().amax(1),
        lambda x: x.mean((2, 3)).logsumexp(1),
    ],
)
def test_the_best_of_all_classes_is_a_result_and_keeps_them(
    best: Callable[[Tensor], Tensor],
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 1), Function(best))

    graph = trace(model.eval(), EXAMPLE)

    assert graph.widths == {"0": 8}
    assert [(frozen.where, frozen.reason) for frozen in graph.frozen] == [("2", "nothing reads it")]


class Function(nn.Module):
    """What a function gives."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize("looked_at", [lambda x, which: which, lambda x, which: x.sum(1) + which])
def test_where_the_number_of_the_largest_channel_is_used_all_stay(
    looked_at: Callable[[Tensor, Tensor], Tensor],
) -> None:
    def best(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((1, 2, 3)), looked_at(x, x.max(1).indices)

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 1), Function(best))

    graph = trace(model.eval(), EXAMPLE)

    assert graph.widths == {"0": 8}
    assert [(frozen.where, frozen.channels) for frozen in graph.frozen] == [("2", 12)]
    assert "the number of the largest" in graph.frozen[0].reason


def one_channel_set(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 3] = 1.0
    return y


def halves_swapped(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:, :4], y[:, 4:] = x[:, 4:], x[:, :4]
    return y


def constants_written_over(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, 1:] = torch.arange(8.0)[:, None]
    return y


def constants_in_a_row(x: Tensor) -> Tensor:
    y = x.clone()
    y[torch.tensor([1])] = torch.arange(8.0, dtype=x.dtype)[:, None].repeat(1, x.shape[2])
    return y


STAYING: list[Move] = [
    *(one_channel_set, halves_swapped, constants_written_over, constants_in_a_row),
    lambda x: x.sort(1).values,
    lambda x: x.topk(8, 1).values,
    lambda x: x.gather(1, x.argsort(1)),
    lambda x: x.gather(2, torch.arange(40).reshape(1, 8, 5).expand(2, 8, 5)),
    lambda x: x + x.median(1, keepdim=True).values,
]


@pytest.mark.parametrize("move", STAYING)
def test_channels_stay_with_a_reason_where_they_are_picked_or_sorted(move: Move) -> None:
    graph = trace(Moved(move), EXAMPLE)

    assert graph.widths == {"after": 12}
    assert any(frozen.where == "before" and frozen.reason for frozen in graph.frozen)


def test_a_rule_that_fails_keeps_channels_and_not_the_model_from_being_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_mode: LabelMode, _call: Call) -> None:
        raise IndexError("as nobody foresaw")

    monkeypatch.setitem(RULES, "sort", fails)

    graph = trace(Moved(lambda x: x.sort(2).values), EXAMPLE)

    assert graph.widths == {"after": 12}
    reasons = [frozen.reason for frozen in graph.frozen if frozen.where == "before"]
    assert reasons == ["the rule for sort fails (as nobody foresaw)"]


class Pooled(nn.Module):
    """Samples are pooled to a size of the model's own and put into rows of zeros, as RoIs are."""

    def __init__(self) -> None:
        super().__init__()
        self.size = (2, 3)
        self.before = nn.Conv2d(3, 8, 3)
        self.after = nn.Linear(8 * 2 * 3, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.before(x), self.size)
        y = torch.zeros(len(x), x.shape[1], *self.size, dtype=x.dtype)
        for row in range(len(x)):
            y[torch.tensor([row])] = x[row : row + 1]
        found: Tensor = self.head(self.after(y.flatten(1)).relu())
        return found


def test_channels_are_cut_that_come_into_zeros_beside_places_that_a_number_counts() -> None:
    model = Pooled().eval()

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"before": 8, "after": 12}
    assert is_right(model, graph)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_that_pad_with_what_there_is_are_cut(mode: str, axes: int) -> None:
    convolution: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    model = nn.Sequential(
        convolution(3, 8, 3, padding=1, padding_mode=mode),
        nn.ReLU(),
        convolution(8, 12, 3, padding=1, padding_mode=mode),
        nn.Flatten(2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    ).eval()
    example = torch.randn(2, 3, *[6] * axes, generator=torch.Generator().manual_seed(1))

    graph = trace(model, example)

    assert graph.widths == {"0": 8, "2": 12}
    assert is_right(model, graph, example)
