from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from latprune.graph.layers import Kind, LayerShape
from latprune.latency.onnx_layers import CONTEXT, layer_model
from latprune.latency.onnx_sessions import ProfiledSession, read_profile
from latprune.latency.profiled import Profile, kernels_inside, time_inside
from tests.latency.synthetic import conv

if TYPE_CHECKING:
    from pathlib import Path


def test_a_profile_gives_every_kernel_a_row_and_every_run_a_column(tmp_path: Path) -> None:
    def kernel(name: str, operator: str, micros: int) -> dict[str, object]:
        args = {"op_name": operator}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": micros, "args": args}

    events: list[dict[str, object]] = [{"cat": "Session", "name": "model_run", "dur": 999}]
    for run in (1, 2, 3):
        events.append(kernel("reorder", "ReorderInput", 40 * run))
        events.append({"cat": "Node", "name": "conv_fence_before", "dur": 7, "args": {}})
        events.append(kernel("conv", "Conv", 100 * run))
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))

    names, operators, times_ms = read_profile(path)

    assert names == ["reorder", "conv"]
    assert operators == ["ReorderInput", "Conv"]
    np.testing.assert_allclose(times_ms, [[0.04, 0.08, 0.12], [0.1, 0.2, 0.3]])


def test_conversions_of_the_layout_at_either_end_are_no_part_of_a_layer() -> None:
    times_ms = np.array([[0.2, 0.2], [1.0, 1.5], [0.25, 0.5], [0.3, 0.3]])
    operators = ["ReorderInput", "Conv", "QuickGelu", "ReorderOutput"]

    found = time_inside(Profile("abcd", operators, times_ms), waits_ms=np.zeros(2))

    assert found.tolist() == [1.25, 2.0]


def test_neighbours_are_no_part_of_a_layer_but_conversions_between_them_are() -> None:
    times_ms = np.array([[8.0], [0.1], [0.25], [0.125], [4.0], [2.0]])
    operators = ["Conv", "ReorderOutput", "Mul", "ReorderInput", "Conv", "ReorderOutput"]
    names = ["context_0_nchwc", "a", "v1", "b", "context_2_nchwc", "c"]

    found = time_inside(Profile(names, operators, times_ms), waits_ms=np.zeros(1))

    assert found.tolist() == [0.1 + 0.25 + 0.125]


def test_waiting_for_the_processor_is_no_part_of_a_layer() -> None:
    times_ms = np.array([[0.2, 4.2, 0.2, 0.2], [1.0, 1.0, 4.0, 1.0]])
    operators = ["ReorderInput", "Conv"]
    waits_ms = np.array([0.0, 4.0, 3.0, 5.0])  # the last one outside of any kernel

    found = time_inside(Profile("ab", operators, times_ms), waits_ms=waits_ms)

    assert found.tolist() == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("kind", "operator"),
    [
        ("conv", "Conv"),
        ("add", "Add"),
        ("gate", "Mul"),
        ("norm", "Conv"),
        ("activation", "Sigmoid"),
        ("concat", "Concat"),
    ],
)
def test_what_onnx_runtime_makes_of_a_layer_is_found_between_its_neighbours(
    kind: Kind, operator: str
) -> None:
    shape = LayerShape(kind, 32, 32, (28, 28), norm=kind == "norm")
    if kind == "conv":
        shape = replace(conv(32, 32, size=28), adds=True)
    if kind == "activation":
        shape = replace(shape, activation="sigmoid")
    session = ProfiledSession(layer_model(shape, batch=1), threads=1)
    session.run()
    profile = session.profile()

    inside = kernels_inside(profile)

    found = [profile.operators[kernel] for kernel in inside]
    assert found.count(operator) == 1
    assert {operator} <= set(found) <= {operator, "ReorderInput", "ReorderOutput"}
    assert not any(profile.names[kernel].startswith(CONTEXT) for kernel in inside)
    assert 0 < time_inside(profile, waits_ms=np.zeros(1)).item() < profile.times_ms.sum()
