"""What of TensorRT's module latprune calls, as TensorRT documents it; it computes nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import onnx

__version__ = "11.0.0"

KERNELS = {
    "Reformatting CopyNode for Input Tensor 0 to v0": 5.0,
    "v0": 2.0,
    "Reformatting CopyNode inside": 0.5,
    "v1": 1.0,
    "Reformatting CopyNode for Output Tensor 0 to v1": 5.0,
}
"""What every run reports, in milliseconds."""

built: list[Network] = []
executed: list[Context] = []


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None: ...


class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 1


class TensorFormat:
    LINEAR, HWC8, HWC = 0, 2, 8


class TensorIOMode:
    INPUT, OUTPUT = "input", "output"


class IProfiler:
    def __init__(self) -> None: ...

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class Tensor:
    def __init__(self, value: Any, mode: str) -> None:
        kind = value.type.tensor_type
        self.name, self.mode, self.dtype = value.name, mode, kind.elem_type
        self.shape = tuple(axis.dim_value for axis in kind.shape.dim)
        self.allowed_formats = 1 << TensorFormat.LINEAR


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


class OnnxParser:
    def __init__(self, network: Network, logger: Logger) -> None:
        self._network = network

    num_errors = 0

    def get_error(self, index: int) -> str:
        raise IndexError(index)

    def parse(self, model: bytes) -> bool:
        return self._read(onnx.load_from_string(model))

    def parse_from_file(self, path: str) -> bool:
        return self._read(onnx.load(path))

    def _read(self, model: onnx.ModelProto) -> bool:
        graph = onnx.shape_inference.infer_shapes(model).graph
        self._network.inputs = [Tensor(value, TensorIOMode.INPUT) for value in graph.input]
        self._network.outputs = [Tensor(value, TensorIOMode.OUTPUT) for value in graph.output]
        return True


class Builder:
    unable: ClassVar[bool] = False

    def __init__(self, logger: Logger) -> None: ...

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> object:
        return object()

    def build_serialized_network(self, network: Network, config: object) -> Network | None:
        built.append(network)
        return None if self.unable else network


class Context:
    def __init__(self) -> None:
        self.profiler: IProfiler | None = None
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        executed.append(self)
        if self.profiler is not None:
            for name, ms in KERNELS.items():
                self.profiler.report_layer_time(name, ms)
        return True


class Engine:
    def __init__(self, network: Network) -> None:
        self._tensors = {one.name: one for one in (*network.inputs, *network.outputs)}

    num_io_tensors = property(lambda self: len(self._tensors))

    def create_execution_context(self) -> Context:
        return Context()

    def get_tensor_name(self, index: int) -> str:
        return str(list(self._tensors)[index])

    def get_tensor_mode(self, name: str) -> str:
        return self._tensors[name].mode

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def get_tensor_dtype(self, name: str) -> int:
        return int(self._tensors[name].dtype)


class Runtime:
    def __init__(self, logger: Logger) -> None: ...

    def deserialize_cuda_engine(self, plan: Network) -> Engine:
        return Engine(plan)


def nptype(dtype: int) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(dtype).type
