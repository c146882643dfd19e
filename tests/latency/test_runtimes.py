from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import onnxruntime
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from latprune.errors import MissingExtra, NoCompiler, NoGpu
from latprune.graph.layers import LayerShape
from latprune.latency.devices.here import HERE
from latprune.latency.processors import Cpu
from latprune.latency.runtimes import Runtime, get_runtime
from latprune.latency.runtimes.compile import Compile
from latprune.latency.runtimes.eager import Eager
from latprune.latency.sentinel import SENTINEL
from latprune.latency.target import Target
from tests.latency.synthetic import conv

if TYPE_CHECKING:
    from latprune.latency.timing import Run


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

    def test_the_sentinel_is_timed_beside_every_few_layers(
        self, runtime: Runtime, target: Target
    ) -> None:
        shapes = [conv(8, width) for width in range(4, 84, 4)]

        found = [
            shape for shape, _ in runtime.time_layers([shapes[0], SENTINEL, *shapes[1:]], target)
        ]

        assert [shape for shape in found if shape != SENTINEL] == shapes
        assert found[0] == SENTINEL
        assert found.count(SENTINEL) > 1
        assert [shape for shape, _ in runtime.time_layers([SENTINEL], target)] == [SENTINEL]

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

    def test_a_prepared_network_still_runs_after_it_was_opened_anew(
        self, runtime: Runtime, target: Target
    ) -> None:
        run = runtime.prepare(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8), target)

        assert HERE.open_anew(run) is not self.name.startswith("compile")
        run()

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


class TestOpenVino(RuntimeContract):
    name = "openvino"

    def test_a_signal_that_arrives_after_timing_is_survived(self) -> None:
        # As when a worker of a DataLoader ends. The handler runs on the alternate signal stack,
        # which OpenVINO replaces by one of its own.
        script = """
import faulthandler, signal, subprocess
from latprune.latency.runtimes import get_runtime
from latprune.latency.target import Target
from tests.latency.synthetic import conv

faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
runtime, target = get_runtime("openvino"), Target.here("openvino")
list(runtime.time_layers([conv(8, width) for width in range(4, 44, 4)], target))
subprocess.run(["true"], check=True)
"""
        done = subprocess.run(
            [sys.executable, "-c", script], check=False, capture_output=True, text=True
        )

        assert (done.returncode, done.stderr) == (0, "")


class TestEager(RuntimeContract):
    name = "eager"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
class OnGpu(RuntimeContract):
    """With enough samples to keep a GPU busy: starting a kernel takes as long as a small one."""

    @pytest.fixture
    def target(self) -> Target:
        return Target.here(self.name, precision="fp16", batch=256)


class TestEagerOnGpu(OnGpu):
    name = "eager-cuda"


class TestCompileOnGpu(OnGpu):
    name = "compile-cuda"


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="no ONNX Runtime for GPUs",
)
class TestOnnxRuntimeOnGpu(OnGpu):
    name = "onnxruntime-cuda"


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is None, reason="no TensorRT")
class TestTensorRt(OnGpu):
    name = "tensorrt"


@pytest.mark.skipif(
    "TensorrtExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="no ONNX Runtime for TensorRT",
)
class TestOnnxRuntimeInTensorRt(TestTensorRt):
    name = "onnxruntime-tensorrt"


class Pretended(Cpu):
    """A processor that says itself how long it took, and has to be waited for."""

    suffix = "-pretended"

    def __init__(self) -> None:
        self.waited = 0

    def describe(self) -> str:
        return "a processor"

    def wait(self) -> None:
        self.waited += 1

    def time_ms(self, call: Run) -> float:
        call()
        return 7.0


@pytest.mark.parametrize("kind", [Eager, Compile])
def test_torch_asks_its_processor_for_the_time_and_waits_for_it(
    kind: type[Eager | Compile],
) -> None:
    processor = Pretended()
    runtime = kind(processor)
    target = Target(runtime.device(), runtime.name, runtime.version(), precision="bf16")

    ((_, layer),) = runtime.time_layers([conv(3, 8)], target)
    run = runtime.prepare(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8), target)
    before = processor.waited
    run()

    assert runtime.name.endswith("-pretended")
    assert layer.median_ms == (7.0 if kind is Eager else pytest.approx(0.7))  # calls take 7 ms too
    assert processor.waited == before + 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["eager-cuda", "compile-cuda"])
def test_a_missing_gpu_is_said_before_anything_is_timed(name: str) -> None:
    with pytest.raises(NoGpu, match=r"torch.cuda.is_available\(\) is False"):
        Target.here(name, precision="fp16")


class TestCompile(RuntimeContract):
    name = "compile"

    @pytest.fixture
    def runtime(self) -> Runtime:
        found = get_runtime("compile")
        try:
            found.version()
        except NoCompiler as error:
            pytest.skip(str(error))
        return found

    def test_many_networks_of_one_class_are_all_compiled(
        self, runtime: Runtime, target: Target
    ) -> None:
        def compiled() -> int:
            return int(counters["stats"]["unique_graphs"])

        before, limit = compiled(), 4

        # timm's optimizers, once imported, raise it for all.
        with torch._dynamo.config.patch(recompile_limit=limit):
            for width in range(limit + 2):
                runtime.prepare(nn.Conv2d(3, width + 1, 1), torch.zeros(1, 3, 4, 4), target)()
            assert torch._dynamo.config.recompile_limit == limit

        assert compiled() == before + limit + 2

    def test_a_missing_compiler_is_said_before_anything_is_timed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))

        with pytest.raises(NoCompiler, match=r"apt-get install g\+\+"):
            Target.here("compile")


class Careless(nn.Module):
    """Reads one of its two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y


@pytest.mark.parametrize(
    ("name", "precision"), [("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32")]
)
def test_inputs_that_a_network_makes_no_use_of_are_refused_with_what_to_do(
    name: str, precision: str
) -> None:
    target = Target.here(name, precision=precision)

    with pytest.raises(ValueError, match="reads 1 tensors, and 2 were given: leave out of the ex"):
        get_runtime(name).prepare(Careless(), (torch.randn(1, 3, 8, 8), torch.ones(1, 2)), target)


def test_a_runtime_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(MissingExtra, match=r"pip install 'latprune\[onnxruntime\]'") as caught:
        Target.here("onnxruntime")
    assert caught.value.package == "onnxruntime"
