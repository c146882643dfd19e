"""What PyTorch computes on: this machine's processor, or an NVIDIA GPU."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from latprune.errors import NoGpu
from latprune.latency.layer_modules import cast, dtype_of
from latprune.latency.memory import keep_memory, torch_version
from latprune.latency.target import processor
from latprune.latency.timing import clock_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from latprune.latency.target import Target
    from latprune.latency.timing import Clock, Run

    Inputs = tuple[Tensor, ...]


class Processor(Protocol):
    """What modules are put on, run and timed.

    Attributes:
        suffix: Of the names of runtimes that compute on it.
        precisions: That it offers, as in `Target.precision`.
        channels_last: Whether images are to lie with their channels last in eager PyTorch.
        compile_options: What `torch.compile` is given.
    """

    suffix: str
    precisions: tuple[str, ...]
    channels_last: bool
    compile_options: Mapping[str, Any]

    def describe(self) -> str:
        """Name it; see `Target.device`.

        Raises:
            NoGpu: If it is a GPU, and PyTorch finds none.
        """

    def version(self) -> str:
        """Give the versions of torch and of what computes for it."""

    def clock(self, threads: int) -> Clock:
        """Give the clock for networks that run on so many threads."""

    def put(
        self, module: nn.Module, inputs: Inputs, target: Target, *, channels_last: bool
    ) -> tuple[nn.Module, Inputs]:
        """Give a copy of a network in evaluation mode, and its inputs, ready to run there.

        Args:
            module: The network.
            inputs: Its inputs, anywhere.
            target: Names the precision.
            channels_last: Whether images are laid out with their channels last.
        """

    def ready(self, threads: int) -> AbstractContextManager[None]:
        """Give the settings under which modules run."""

    def wait(self) -> None:
        """Return when everything that was begun has ended."""

    def time_ms(self, call: Run) -> float:
        """Run once and give the time it took, in milliseconds."""

    def apart(self, asked: int) -> int:
        """Give how many of so many bytes to read between two runs of a layer: all, or none."""


class Cpu:
    """The processor of this machine."""

    suffix = ""
    precisions: tuple[str, ...] = ("fp32", "bf16")
    channels_last = False
    compile_options: Mapping[str, Any] = {}

    def describe(self) -> str:
        """Name the processor."""
        return processor()

    def version(self) -> str:
        """Give torch's version, and say that memory is kept, where it is."""
        return torch_version()

    def clock(self, threads: int) -> Clock:
        """Give the clock that leaves out the waiting for a processor, where there is one."""
        return clock_for(threads)

    def put(
        self, module: nn.Module, inputs: Inputs, target: Target, *, channels_last: bool
    ) -> tuple[nn.Module, Inputs]:
        """Copy a network; see `Processor`."""
        keep_memory()
        small, given = cast(module, inputs, dtype_of(target))
        return with_channels_last(small, given) if channels_last else (small, given)

    @contextmanager
    def ready(self, threads: int) -> Iterator[None]:
        """Let torch use so many threads; afterwards as many as before."""
        before = torch.get_num_threads()
        if before != threads:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            if before != threads:
                torch.set_num_threads(before)

    def wait(self) -> None:
        """Return at once: what was called has ended."""

    def time_ms(self, call: Run) -> float:
        """Run once and give the time that passed."""
        begin = time.perf_counter()
        call()
        return (time.perf_counter() - begin) * 1e3

    def apart(self, asked: int) -> int:
        """Read all of it."""
        return asked


class Cuda:
    """The NVIDIA GPU that PyTorch uses by default: the first that `CUDA_VISIBLE_DEVICES` leaves.

    Images lie with their channels last, as tensor cores read them, and cuDNN tries its algorithms
    for every size, as under `torch.backends.cudnn.benchmark = True`.
    """

    suffix = "-cuda"
    precisions: tuple[str, ...] = ("fp32", "fp16", "bf16")
    channels_last = True
    # Kernels are recorded once and started together: otherwise starting them is what takes time.
    compile_options: Mapping[str, Any] = {"mode": "reduce-overhead"}

    def describe(self) -> str:
        """Name the GPU and what it can compute."""
        if not torch.cuda.is_available():
            raise NoGpu
        major, minor = torch.cuda.get_device_capability()
        memory_gib = torch.cuda.get_device_properties().total_memory / 2**30
        name = torch.cuda.get_device_name()
        return f"{name}, {memory_gib:.0f} GiB, compute capability {major}.{minor}"

    def version(self) -> str:
        """Give the versions of torch, CUDA and cuDNN."""
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        return f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}"

    def clock(self, threads: int) -> Clock:
        """Give the clock of the time that passes: a thread that waits for a GPU may sleep."""
        del threads
        return time.perf_counter

    def put(
        self, module: nn.Module, inputs: Inputs, target: Target, *, channels_last: bool
    ) -> tuple[nn.Module, Inputs]:
        """Copy a network; see `Processor`."""
        small, given = cast(module, inputs, dtype_of(target))
        small, given = small.cuda(), tuple(tensor.cuda() for tensor in given)
        return with_channels_last(small, given) if channels_last else (small, given)

    @contextmanager
    def ready(self, threads: int) -> Iterator[None]:
        """Let cuDNN try its algorithms."""
        del threads
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
            yield

    def wait(self) -> None:
        """Return when the GPU has nothing left to do."""
        torch.cuda.synchronize()

    def time_ms(self, call: Run) -> float:
        """Run once and give the time by the GPU's clock, from rest until it has ended."""
        begin, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    def apart(self, asked: int) -> int:
        """Read nothing: that would fill the caches of this machine's processor."""
        del asked
        return 0


CPU, CUDA = Cpu(), Cuda()


def with_channels_last(module: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """Lay out the images of a network, and its weights, with their channels last."""
    images = tuple(
        tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        for tensor in inputs
    )
    return module.to(memory_format=torch.channels_last), images
