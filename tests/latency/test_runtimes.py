from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from latprune.errors import MissingExtra
from latprune.graph.layers import LayerShape
from latprune.latency.runtimes import Runtime, get_runtime
from latprune.latency.runtimes.onnxruntime import read_profile, time_inside
from latprune.latency.target import Target
from tests.latency.synthetic import conv

if TYPE_CHECKING:
    from pathlib import Path


class RuntimeContract:
    """What any runtime must do; a subclass names it."""

    name: str

    @pytest.fixture
    def runtime(self) -> Runtime:
        return get_runtime(self.name)

    @pytest.fixture
    def target(self) -> Target:
        return Target.here(self.name)

    def test_it_bears_its_name_and_has_a_version(self, runtime: Runtime) -> None:
        assert runtime.name == self.name
        assert runtime.version()[0].isdigit()
        assert "fp32" in runtime.precisions

    def test_every_layer_is_timed_once(self, runtime: Runtime, target: Target) -> None:
        shapes = [conv(3, 8), conv(8, 8, groups=8), LayerShape("linear", 8, 4, (1,), bias=True)]
        shapes += [conv(8, width) for width in range(4, 84, 4)]

        found = list(runtime.time_layers(shapes, target))

        assert [shape for shape, _ in found] == shapes
        assert all(measured.runs >= 10 for _, measured in found)

    def test_a_hundred_times_the_work_takes_longer(self, runtime: Runtime, target: Target) -> None:
        narrow, wide = conv(16, 16, size=28), conv(160, 160, size=28)

        found = dict(runtime.time_layers([narrow, wide], target))

        assert found[wide].median_ms > 5 * found[narrow].median_ms

    def test_an_unknown_activation_is_an_error(self, runtime: Runtime, target: Target) -> None:
        shape = replace(conv(4, 4), activation="snake")

        with pytest.raises(ValueError, match="snake"):
            list(runtime.time_layers([shape], target))

    def test_a_prepared_network_runs_and_the_model_stays_as_it_was(
        self, runtime: Runtime, target: Target
    ) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
        model[1].eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}

        run = runtime.prepare(model, torch.randn(1, 3, 8, 8), target)
        run()

        assert [part.training for part in model] == [True, False, True]
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_torchs_threads_are_left_as_they_were(self, runtime: Runtime, target: Target) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            list(runtime.time_layers([conv(4, 4)], target))
            runtime.prepare(nn.Linear(4, 4), torch.zeros(1, 4), target)()
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_several_threads_can_be_asked_for(self, runtime: Runtime, target: Target) -> None:
        found = list(runtime.time_layers([conv(16, 16)], replace(target, threads=2)))

        assert len(found) == 1


class TestOnnxRuntime(RuntimeContract):
    name = "onnxruntime"


class TestEager(RuntimeContract):
    name = "eager"


def test_a_runtime_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(MissingExtra, match=r"pip install 'latprune\[onnxruntime\]'") as caught:
        Target.here("onnxruntime")
    assert caught.value.package == "onnxruntime"


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

    operators, times_ms = read_profile(path)

    assert operators == ["ReorderInput", "Conv"]
    np.testing.assert_allclose(times_ms, [[0.04, 0.08, 0.12], [0.1, 0.2, 0.3]])


def test_conversions_of_the_layout_are_no_part_of_a_layer() -> None:
    times_ms = np.array([[0.2, 0.2], [1.0, 1.5], [0.25, 0.5], [0.3, 0.3]])
    operators = ["ReorderInput", "Conv", "QuickGelu", "ReorderOutput"]

    found = time_inside(operators, times_ms, waits_ms=np.zeros(2))

    assert found.tolist() == [1.25, 2.0]


def test_waiting_for_the_processor_is_no_part_of_a_layer() -> None:
    times_ms = np.array([[0.2, 4.2, 0.2], [1.0, 1.0, 4.0]])

    found = time_inside(["ReorderInput", "Conv"], times_ms, waits_ms=np.array([0.0, 4.0, 3.0]))

    assert found.tolist() == [1.0, 1.0, 1.0]
