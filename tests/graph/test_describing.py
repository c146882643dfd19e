"""`describe` tells groups, members, what is frozen, and how much of the work can go."""

from __future__ import annotations

from latprune.graph.tracing import trace
from tests import networks
from tests.graph.test_tracing import EXAMPLE


def test_every_group_and_every_frozen_place_is_named_with_its_reason() -> None:
    graph = trace(networks.HardCoded(), EXAMPLE)

    text = graph.describe()

    assert all(f"{group.name}: {group.channels} channels" in text for group in graph.groups)
    assert all(f.where in text and f.reason in text for f in graph.frozen)


def test_members_and_the_numbers_that_count_a_group_are_listed() -> None:
    text = trace(networks.Attention(), EXAMPLE).describe()

    assert "  reads proj.weight, axis 1, 6 entries each" in text
    assert "  counted by the model: heads" in text
    assert "qkv#within: 6 channels within each of qkv; approximate: " in text


def test_the_share_of_work_is_of_layers_that_touch_a_group() -> None:
    graph = trace(networks.Plain(), EXAMPLE, keep=["first"])
    # 12 x 12 places: 3 -> 8 channels stays, 8 -> 16 and the head's 16 -> 5 do not
    free, fixed = 144 * 9 * 8 * 16 + 16 * 5, 144 * 9 * 3 * 8

    text = graph.describe()

    assert f"2 of 3 convolutions and linear layers, {free / (free + fixed):.1%}" in text


def test_what_norms_make_approximate_is_said() -> None:
    text = trace(networks.Normalised(), EXAMPLE).describe()

    assert "stem: 16 channels, in multiples of 4; approximate: normalised in groups" in text
