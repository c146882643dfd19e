"""Whatever `trace` offers to cut can be cut, exactly."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from benchmarks.coverage.judge import judge
from torch import nn

from latprune.errors import DoesNotRun
from latprune.graph.results import batch_of
from latprune.graph.slicing import slice_model
from latprune.graph.tracing import trace
from latprune.graph.verifying import random_kept
from tests import networks

if TYPE_CHECKING:
    from latprune.graph.groups import PruningGraph

EXAMPLE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def cut_at_random(
    model: nn.Module, graph: PruningGraph, *, share: float = 0.3, seed: int = 1
) -> nn.Module:
    small = copy.deepcopy(model)
    kept = random_kept(graph.groups, share=share, seed=seed, ties=graph.ties)
    slice_model(small, graph.groups, kept, ties=graph.ties)
    return small


def is_right(
    model: nn.Module,
    graph: PruningGraph,
    example: torch.Tensor = EXAMPLE,
    *,
    share: float = 0.3,
    seed: int = 1,
) -> bool:
    """Whether a random cut is, to a judge who trusts nothing that the graph says."""
    verdict = judge(model, lambda m: cut_at_random(m, graph, share=share, seed=seed), example)
    marked = any(group.approximate for group in graph.groups)
    return verdict.holds == "exact" or (marked and verdict.holds == "structure")


@pytest.mark.parametrize("network", [*networks.EVERY, networks.Normalised])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_random_cut_of_every_group_keeps_the_function(
    network: type[nn.Module], share: float
) -> None:
    model = network().eval()
    graph = trace(model, EXAMPLE)

    assert graph.groups
    assert is_right(model, graph, share=share)


@pytest.mark.parametrize("network", networks.EVERY)
def test_a_cut_network_trains(network: type[nn.Module]) -> None:
    model = network()
    small = cut_at_random(model, trace(model, EXAMPLE)).train()

    outputs = small(EXAMPLE)
    sum(out.sum() for out in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()

    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def widths(network: type[nn.Module]) -> dict[str, int]:
    return trace(network(), EXAMPLE).widths


def test_layers_that_add_up_share_a_group() -> None:
    assert widths(networks.Residual) == {"stem.0": 12, "inner.0": 10}


def test_branches_that_are_concatenated_keep_groups_of_their_own() -> None:
    assert widths(networks.Concatenated) == {"left.0": 6, "right.0": 10, "both.0": 8}


def test_a_depthwise_convolution_and_a_gate_go_with_what_they_read() -> None:
    assert widths(networks.Depthwise) == {"expand.0": 12, "squeeze": 4}


def test_grouped_convolutions_are_cut_along_the_finer_axis() -> None:
    graph = trace(networks.Grouped(), EXAMPLE)
    many, few = graph.layers[1:3]

    # 8 groups of 2 lose groups; of the 2 groups of 8 → 12 each loses the same positions: the
    # 8 positions of 2 groups fall together with the 8 groups of 2 into 4 classes
    assert (many.groups_follow, few.groups_follow) == (True, False)
    assert graph.group("few.0").channels == 12
    assert few.shape_at({**graph.widths, "few.0": 5}).groups == 2


def test_a_flattened_channel_is_read_at_all_its_places() -> None:
    graph = trace(networks.Flattened(), EXAMPLE)
    hidden = next(layer for layer in graph.layers if layer.name == "hidden")

    assert hidden.reads.groups == (("features.0.0", 9),)
    assert hidden.shape_at({"features.0.0": 3, "hidden": 20}).in_channels == 27


def test_a_group_norm_of_as_many_groups_as_channels_loses_groups_with_them() -> None:
    model = networks.NormalisedByItself()
    graph = trace(model, EXAMPLE, exact=True)
    small: Any = cut_at_random(model, graph)

    assert graph.widths == {"stem": 16, "middle": 12, "last": 10}
    assert {group.multiple for group in graph.groups} == {1}
    assert small.norm.num_groups == small.norm.num_channels == small.stem.out_channels < 16
    assert small.bare.num_groups == small.middle.out_channels < 12
    assert small.channels == small.last.out_channels < 10


def test_channels_padded_with_zeros_stay_and_the_others_go() -> None:
    graph = trace(networks.PaddedShortcut(), EXAMPLE)

    assert graph.widths == {"stem.0": 8, "wide.0": 12}
    assert any(f.where == "back" and f.channels == 8 for f in graph.frozen)


def test_attention_loses_whole_heads_and_the_module_knows() -> None:
    model = networks.Attention()
    graph = trace(model, EXAMPLE)
    heads = graph.group("qkv")

    small = copy.deepcopy(model)
    slice_model(small, graph.groups, {"qkv": [0, 3]})

    assert graph.widths == {"patches": 16, "qkv": 4, "qkv#within": 6}
    assert {m.parameter: m.positions.shape for m in heads.members if m.role != "other"} == {
        "qkv.weight": (4, 18),
        "qkv.bias": (4, 18),
        "proj.weight": (4, 6),
    }
    assert (small.heads, small.head_dim, small.inner) == (2, 6, 12)
    assert torch.equal(small.proj.weight[:, 6:], model.proj.weight[:, 18:])


def test_heads_get_narrower_too_and_the_module_knows() -> None:
    model = networks.Attention()
    graph = trace(model, EXAMPLE)

    small = copy.deepcopy(model)
    kept = {"qkv": [0, 3], "qkv#within": [1, 2, 5]}
    slice_model(small, graph.groups, kept)

    rows = model.proj.weight.reshape(-1, 4, 6)[:, [0, 3]][:, :, [1, 2, 5]]
    assert torch.equal(small.proj.weight, rows.flatten(1))
    assert (small.heads, small.head_dim, small.inner) == (2, 3, 6)
    qkv = next(layer for layer in graph.layers if layer.name == "qkv")
    assert qkv.shape_at({**graph.widths, "qkv": 2, "qkv#within": 3}).out_channels == 18
    assert "root of its length" in graph.group("qkv#within").approximate


def test_of_separate_weights_queries_and_keys_get_narrower_apart_from_values() -> None:
    found = widths(networks.AttentionByHand)

    assert found == {"stem": 12, "q": 3, "q#within": 5, "v#within": 5}


def test_heads_that_share_keys_and_values_stay_but_get_narrower() -> None:
    model = networks.SharedKeys()
    graph = trace(model, EXAMPLE)

    slice_model(model, graph.groups, {"q#within": [1, 2, 4, 5]})

    assert graph.widths == {"stem": 16, "q#within": 6}
    assert (model.head_dim, model.q.out_features, model.k.out_features) == (4, 16, 8)


def test_a_number_follows_a_cut_of_what_is_a_multiple_of_it() -> None:
    model = networks.AttentionByMultiples()
    graph = trace(model, EXAMPLE)

    slice_model(model, graph.groups, {"qkv": [1], "qkv#within": [0, 3]})

    assert graph.widths == {"stem": 10, "qkv": 3, "qkv#within": 4}
    assert (model.heads, model.head_dim, model.qkv.out_channels) == (1, 2, 6)


def test_a_width_within_heads_that_does_not_hold_is_left_out_and_the_heads_stay() -> None:
    class Fixed(networks.Attention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.qkv.out_features != 18 * self.heads:
                raise ValueError("heads are six wide")
            return super().forward(x)

    graph = trace(Fixed(), EXAMPLE)

    assert graph.widths == {"patches": 16, "qkv": 4}
    assert not any("within" in frozen.where for frozen in graph.frozen)


def test_torchs_own_attention_lets_its_trunk_keep_fewer_heads_and_narrower_ones() -> None:
    layer = nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(5, 12), layer, nn.Linear(12, 4))

    graph = trace(model, torch.randn(2, 7, 5))

    assert graph.widths == {"0": 3, "1.linear1": 20, "0#within": 4}
    assert next(layer for layer in graph.layers if layer.name == "2").reads.products == (
        ("0", "0#within", 1),
    )


class Crossing(nn.Module):
    """Torch's own attention, on keys and values of other widths than its queries."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.keys, self.values = (nn.Conv2d(3, n, 4, 4) for n in (12, 8, 6))
        self.mix = nn.MultiheadAttention(12, 3, kdim=8, vdim=6, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = (self.stem, self.keys, self.values)
        q, k, v = (layer(x).flatten(2).transpose(1, 2) for layer in layers)
        q = q + self.mix(q, k, v, need_weights=False)[0]
        return self.head(q.mean(dim=1))  # type: ignore[no-any-return]


def test_torchs_own_attention_is_cut_where_keys_and_values_have_widths_of_their_own() -> None:
    model = Crossing()
    graph = trace(model, EXAMPLE)

    assert graph.widths == {"stem": 3, "keys": 8, "values": 6, "stem#within": 4}
    assert is_right(model, graph)


def test_heads_go_with_what_code_expects_to_be_as_wide() -> None:
    graph = trace(networks.AttentionBySizes(), EXAMPLE)

    (group,) = graph.groups  # the code says that queries are as wide as what they are made from
    positions = {m.parameter: m.positions.shape for m in group.members if m.role == "writes"}

    assert group.channels == 3
    assert positions["stem.weight"] == (3, 4)
    assert positions["qkv_weight"] == (3, 12)


def test_attention_along_channels_is_cut_by_heads() -> None:
    assert widths(networks.CrossCovariance) == {"stem": 3}


def test_heads_that_are_mixed_go_with_the_layers_that_mix_them() -> None:
    assert widths(networks.TalkingHeads) == {"stem": 12, "qkv": 4, "before": 4, "qkv#within": 6}


def test_the_width_of_a_single_head_is_cut_unless_cuts_must_be_exact() -> None:
    graph = trace(networks.SingleHead(), EXAMPLE)

    assert graph.widths == {"stem": 12, "q": 8, "v": 8}
    assert "root of its length" in graph.group("q").approximate
    assert trace(networks.SingleHead(), EXAMPLE, exact=True).widths == {"stem": 12, "v": 8}


class Transposed(networks.SingleHead):
    """Makes queries and keys by convolutions, so that they lie as torch has no kernel for."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Conv1d(12, 8, 1), nn.Conv1d(12, 8, 1)  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2)
        q, k = self.q(x).transpose(1, 2), self.k(x).transpose(1, 2)
        x = x.transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, self.v(x))
        return self.head((x + self.proj(mixed)).mean(dim=1))  # type: ignore[no-any-return]


def test_attention_without_a_kernel_is_cut_as_with_one() -> None:
    model = Transposed()
    graph = trace(model, EXAMPLE)

    assert graph.widths == {"stem": 12, "q": 8, "v": 8}
    assert "root of its length" in graph.group("q").approximate
    assert is_right(model, graph)
    assert trace(model, EXAMPLE, exact=True).widths == {"stem": 12, "v": 8}


def test_the_last_block_of_a_chunk_may_be_shorter() -> None:
    graph = trace(networks.ChunkedUnevenly(), EXAMPLE)

    assert graph.group("stem.0").channels == 4  # of the blocks of 5, 5 and 4
    assert any(f.where == "stem.0" and f.channels == 2 for f in graph.frozen)


def test_a_mask_as_long_as_a_size_goes_with_what_it_meets() -> None:
    assert widths(networks.SizedMask) == {"stem.0": 12}


def test_parts_whose_sizes_an_attribute_tells_have_groups_of_their_own() -> None:
    model = networks.ToldSplit()
    graph = trace(model, EXAMPLE)

    small = cut_at_random(model, graph, share=0.4)

    assert sorted(graph.widths.values()) == [5, 6, 7]
    assert small.widths == (3, 4)


def test_a_size_that_is_the_rest_of_another_one_follows_both() -> None:
    model = networks.ToldRest()
    graph = trace(model, EXAMPLE)

    small = cut_at_random(model, graph, share=0.4)

    assert sorted(graph.widths.values()) == [5, 5, 7]
    assert {name: vars(small)[name] for name in ("width", "worked")} == {"width": 7, "worked": 3}


def test_what_norms_over_channels_touch_can_go_and_is_marked() -> None:
    graph = trace(networks.Normalised(), EXAMPLE)

    marked = {group.name: group.approximate for group in graph.groups}

    assert marked["up"] == ""
    assert "normalised over its channels in norm" in marked["conv"]
    assert "normalised in groups of channels in grouped" in marked["stem"]


def test_a_group_norm_keeps_as_many_channels_as_go_evenly_into_its_groups() -> None:
    assert trace(networks.Normalised(), EXAMPLE).group("stem").multiple == 4


def test_channels_that_norms_mix_stay_if_cuts_must_be_exact() -> None:
    graph = trace(networks.Normalised(), EXAMPLE, exact=True)

    assert graph.widths == {"up": 20}
    assert any(f.where == "stem" and "grouped" in f.reason for f in graph.frozen)


def test_a_module_called_twice_is_two_layers() -> None:
    graph = trace(networks.SharedLayer(), EXAMPLE)
    layers = [layer for layer in graph.layers if layer.shape.has_weights]

    assert [layer.name for layer in layers if "shared" in layer.name] == ["shared.0", "shared.0@2"]
    assert layers[1].shape.size == (12, 12)
    assert layers[2].shape.size == (6, 6)


class Bare(nn.Module):
    """Convolves with parameters of the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.second = nn.Parameter(torch.randn(6, 8, 3, 3))
        self.out = nn.Parameter(torch.randn(6, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(F.conv2d(x, self.first).relu(), self.second).relu()
        return x.mean((2, 3)) @ self.out


def test_layers_made_of_the_networks_own_parameters_are_named_and_priced_by_them() -> None:
    graph = trace(Bare(), EXAMPLE)

    shapes = graph.shapes_at({"first": 4, "second": 2})
    assert graph.widths == {"first": 8, "second": 6}
    assert [frozen.where for frozen in graph.frozen] == ["out"]
    assert [
        (name, shape.in_channels, shape.out_channels)
        for name, shape in shapes.items()
        if shape.has_weights
    ] == [("first", 3, 4), ("second", 4, 2), ("out", 2, 5)]


def test_a_sum_and_what_follows_it_belong_to_the_layer_before_it() -> None:
    shapes = [layer.shape for layer in trace(networks.Residual(), EXAMPLE).layers]

    assert [shape.adds for shape in shapes if shape.kind == "conv"] == [False, False, True]
    assert not any(shape.kind == "add" for shape in shapes)


def test_operators_between_layers_have_the_widths_of_the_channels_they_pass_on() -> None:
    graph = trace(networks.Concatenated(), EXAMPLE)
    (joined,) = (layer for layer in graph.layers if layer.shape.kind == "concat")

    assert joined.tied
    assert set(joined.reads.groups) == {("left.0", 1), ("right.0", 1)}
    assert joined.shape_at({"left.0": 2, "right.0": 3, "both.0": 8}).out_channels == 5


def test_a_gate_and_a_mean_are_operators_of_their_own() -> None:
    graph = trace(networks.Depthwise(), EXAMPLE)
    kinds = [layer.shape.kind for layer in graph.layers]

    assert kinds.count("gate") == 1
    assert kinds.count("mean") >= 1
    assert not any("mul" in name for name in graph.unpriced)


def test_a_norm_that_follows_no_layer_is_an_operator_with_the_activation_behind_it() -> None:
    graph = trace(networks.PreNorm(), EXAMPLE)

    (norm,) = (layer for layer in graph.layers if layer.shape.kind == "norm")

    assert norm.name == "norm/norm"
    assert norm.shape.activation == "relu"


def test_what_nobody_prices_is_listed() -> None:
    graph = trace(networks.SoftmaxOverChannels(), EXAMPLE)

    assert any("softmax" in name for name in graph.unpriced)


def test_norm_and_activation_belong_to_the_layer_before_them() -> None:
    first = trace(networks.Plain(), EXAMPLE).layers[0].shape

    assert (first.norm, first.activation, first.bias) == (True, "relu", False)


def test_inputs_and_outputs_are_never_cut() -> None:
    graph = trace(networks.Plain(), EXAMPLE)

    assert graph.layers[0].reads.groups == ()
    assert graph.layers[-1].writes.groups == ()
    assert any(f.where == "head.2" and "output" in f.reason for f in graph.frozen)


@pytest.mark.parametrize("positions", [(1, 50, 4), (50, 4)])
def test_samples_are_counted_in_the_first_input(positions: tuple[int, ...]) -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place, self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x + self.place(positions)).relu())  # type: ignore[no-any-return]

    graph = trace(Placed(), (torch.randn(1, 50, 6), torch.randn(positions)))

    assert {layer.name: layer.shape.size for layer in graph.layers}["last"] == (50,)


@pytest.mark.parametrize(
    ("example", "samples"),
    [
        (EXAMPLE, len(EXAMPLE)),
        ((torch.tensor(0.5), torch.zeros(3, 2), torch.zeros(7)), 3),
        (([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)], torch.zeros(7)), 2),
        (({"ids": torch.zeros(4, 5)},), 4),
        (("words",), 1),
    ],
)
def test_samples_are_counted_in_whatever_is_given(example: Any, samples: int) -> None:
    assert batch_of(example) == samples


def test_keep_protects_a_module_and_what_lies_inside() -> None:
    graph = trace(networks.Plain(), EXAMPLE, keep=["second"])

    assert graph.widths == {"first.0": 8}
    assert any(f.where == "second.0" and "keep=" in f.reason for f in graph.frozen)


@pytest.mark.parametrize("module", ["norm", "relu", "pool", "po*"])
def test_keep_protects_what_a_module_without_channels_of_its_own_passes_on(module: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
            self.pool, self.second, self.head = (
                nn.MaxPool2d(2),
                nn.Conv2d(8, 6, 3),
                networks.Head(6),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pool(self.relu(self.norm(self.first(x))))
            return self.head(self.second(x))  # type: ignore[no-any-return]

    graph = trace(Named(), EXAMPLE, keep=[module])

    assert graph.widths == {"second": 6}
    assert any(f.where == "first" and "keep=" in f.reason for f in graph.frozen)


def test_keep_must_name_a_module() -> None:
    with pytest.raises(ValueError, match="keep='secnod' matches no module"):
        trace(networks.Plain(), EXAMPLE, keep=["secnod"])


def test_sizes_written_into_code_are_frozen_with_what_went_wrong() -> None:
    graph = trace(networks.HardCoded(), EXAMPLE)

    assert graph.widths == {"free.0": 8}
    assert any(f.where == "stem.0" and "no longer runs" in f.reason for f in graph.frozen)


def test_sizes_written_into_the_code_of_training_are_found_too() -> None:
    graph = trace(networks.FixedAuxiliary(), EXAMPLE)

    assert graph.widths == {"body.0": 8}
    assert any(f.where == "stem.0" and "in training mode" in f.reason for f in graph.frozen)


def test_channels_that_are_dropped_at_random_in_training_can_go() -> None:
    model = networks.Auxiliary()
    model.extra.insert(0, nn.Dropout2d(0.5))

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"stem.0": 8, "body.0": 8}
    assert all("output of the model" in frozen.reason for frozen in graph.frozen)


def test_an_operator_that_mixes_channels_is_named() -> None:
    graph = trace(networks.SoftmaxOverChannels(), EXAMPLE)

    assert graph.widths == {"stem.0": 8, "after.0": 8}
    assert any(f.where == "mixed.0" and "softmax" in f.reason for f in graph.frozen)


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = networks.Auxiliary().train()
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()

    trace(model, EXAMPLE)

    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())


def test_a_model_that_writes_into_what_it_is_given_is_given_the_same_each_time() -> None:
    class Scaled(networks.Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x *= 255
            return super().forward(x)

    example = EXAMPLE.clone()

    graph = trace(Scaled(), example)

    assert graph.widths == trace(networks.Plain(), EXAMPLE).widths
    assert torch.equal(example, EXAMPLE)


def test_a_layer_without_outputs_is_no_obstacle() -> None:
    class WithNothing(networks.Plain):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings(action="ignore"):  # torch's own, that it is empty
                self.nothing = nn.Linear(4, 0)

    assert trace(WithNothing(), EXAMPLE).widths == trace(networks.Plain(), EXAMPLE).widths


def test_a_model_that_does_not_run_says_so() -> None:
    with pytest.raises(DoesNotRun, match="an input of 2x4x12x12: RuntimeError: ") as caught:
        trace(networks.Plain(), torch.randn(2, 4, 12, 12))
    assert caught.value.shapes == ((2, 4, 12, 12),)
    assert isinstance(caught.value.failure, RuntimeError)


def test_a_model_is_traced_in_inference_mode_like_elsewhere() -> None:
    with torch.inference_mode():
        graph = trace(networks.Plain(), EXAMPLE)

    assert graph.widths == trace(networks.Plain(), EXAMPLE).widths


def test_what_a_models_own_train_returns_does_not_matter() -> None:
    class Silent(networks.Plain):
        def train(self, mode: bool = True) -> None:  # type: ignore[override]
            super().train(mode)

    model = Silent()

    assert trace(model, EXAMPLE).widths == trace(networks.Plain(), EXAMPLE).widths
    assert model.training
