"""Runtimes for GPUs where there is none: ONNX Runtime's on its CPU provider, TensorRT's on a fake.

That they are right on a GPU is shown by their contract in test_runtimes, on a machine with one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import latprune as lp
from latprune.errors import CannotBuild, MissingExtra
from latprune.latency.runtimes import get_runtime
from latprune.latency.runtimes.onnxruntime_gpu import IN_TENSORRT, OnnxRuntimeGpu, Provider
from tests.latency import fake_tensorrt
from tests.latency.synthetic import conv
from tests.latency.test_runtimes import RuntimeContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latprune.latency.runtimes import Runtime

ON_THE_CPU = OnnxRuntimeGpu("onnxruntime-here", Provider("CPUExecutionProvider", "cpu", others=()))
FP16 = lp.Target("a GPU", "tensorrt", "11.0.0", precision="fp16")


class TestOnnxRuntimeOnAProvider(RuntimeContract):
    """All but the provider and its memory are as on a GPU."""

    name = ON_THE_CPU.name

    @pytest.fixture
    def runtime(self) -> Runtime:
        return ON_THE_CPU

    @pytest.fixture
    def target(self) -> lp.Target:
        return lp.Target("this CPU", self.name, ON_THE_CPU.version())

    def test_fp16_is_computed_in_fp16(
        self, target: lp.Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        half, read = replace(target, precision="fp16"), list[str]()
        bind = onnxruntime.IOBinding.bind_ortvalue_input

        def note(binding: Any, name: str, value: Any) -> None:
            read.append(value.data_type())
            bind(binding, name, value)

        monkeypatch.setattr(onnxruntime.IOBinding, "bind_ortvalue_input", note)
        (_, layer), *_ = ON_THE_CPU.time_layers([conv(8, 8)], half)
        ON_THE_CPU.prepare(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8), half)()

        assert layer.median_ms > 0
        assert set(read) == {"tensor(float16)"}


def test_a_provider_that_is_not_installed_is_said_before_anything_is_timed() -> None:
    runtime: Any = get_runtime("onnxruntime-cuda")

    with pytest.raises(lp.NoProvider, match="pip install onnxruntime-gpu") as caught:
        runtime.version()

    assert caught.value.provider == "CUDAExecutionProvider"
    assert "CPUExecutionProvider" in caught.value.usable


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_load_is_never_replaced_in_silence() -> None:
    runtime, target = get_runtime("onnxruntime-cuda"), replace(FP16, precision="fp32")

    with pytest.raises(lp.NoProvider, match="CUDAExecutionProvider"):
        runtime.prepare(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8), target)


class Stream:
    cuda_stream = 0

    def synchronize(self) -> None: ...


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    from latprune.latency.runtimes import tensorrt

    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setattr(tensorrt, "GPU", "cpu")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    tensorrt._logger.cache_clear()
    yield tensorrt.RUNTIME
    tensorrt._logger.cache_clear()
    fake_tensorrt.built.clear()
    fake_tensorrt.executed.clear()


def test_reformatting_between_a_layers_kernels_counts_and_at_its_ends_does_not(
    tensorrt: Runtime,
) -> None:
    shapes = [conv(8, 8), conv(8, 12)]

    found = dict(tensorrt.time_layers(shapes, FP16))

    assert [found[shape].median_ms for shape in shapes] == [3.5, 3.5]


def test_the_provider_of_onnx_runtime_takes_tensorrts_times_of_layers(
    tensorrt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)

    ((_, layer),) = IN_TENSORRT.time_layers([conv(8, 8)], FP16)

    assert layer.median_ms == 3.5
    assert IN_TENSORRT.version() == f"{onnxruntime.__version__}, TensorRT 11.0.0"


def test_a_layer_may_read_and_write_the_layouts_of_its_neighbours(tensorrt: Runtime) -> None:
    list(tensorrt.time_layers([conv(8, 8)], FP16))

    (network,) = fake_tensorrt.built
    formats = 1 << fake_tensorrt.TensorFormat.LINEAR | 1 << fake_tensorrt.TensorFormat.HWC8
    assert network.flags == 1 << fake_tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    for tensor in (*network.inputs, *network.outputs):
        assert tensor.allowed_formats == formats
        assert fake_tensorrt.nptype(tensor.dtype) is np.float16


def test_a_network_is_built_in_its_precision_and_reads_the_example_as_it_lies(
    tensorrt: Runtime,
) -> None:
    model, example = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)

    run: Any = tensorrt.prepare(model, example, FP16)
    run()

    (network,), (context,) = fake_tensorrt.built, fake_tensorrt.executed
    (read,) = network.inputs
    assert (read.shape, fake_tensorrt.nptype(read.dtype)) == ((2, 3, 8, 8), np.float16)
    assert read.allowed_formats == 1 << fake_tensorrt.TensorFormat.LINEAR
    memory = run.__self__._memory[read.name]
    assert context.addresses[read.name] == memory.data_ptr()
    assert torch.equal(memory[: example.numel()], example.half().flatten())
    assert model.weight.dtype == torch.float32


def test_what_tensorrt_cannot_read_or_execute_is_an_error_with_its_reasons(
    tensorrt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fake_tensorrt.OnnxParser, "num_errors", 1)
        patch.setattr(fake_tensorrt.OnnxParser, "get_error", lambda self, index: "no importer")
        patch.setattr(fake_tensorrt.OnnxParser, "parse_from_file", lambda self, path: False)
        with pytest.raises(CannotBuild, match="no importer"):
            tensorrt.prepare(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8), FP16)

    monkeypatch.setattr(fake_tensorrt.Builder, "unable", True)
    with pytest.raises(CannotBuild, match="no way to execute it"):
        tensorrt.prepare(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8), FP16)


def test_tensorrt_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    runtime: Any = get_runtime("tensorrt")

    with pytest.raises(MissingExtra, match=r"pip install 'latprune\[tensorrt\]'"):
        runtime.version()
