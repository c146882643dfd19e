"""WHERE things are timed: here, over ssh, or on a device that files are carried to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from torch import Tensor, nn

    from latprune.graph.layers import LayerShape
    from latprune.latency.table import LatencyTable
    from latprune.latency.target import Target
    from latprune.latency.timing import Comparison, Measurement

    Ready: TypeAlias = object
    """A network, ready to be timed; what it is only the device knows that made it ready."""


class CutName(NamedTuple):
    """How a table names a pruned network.

    Attributes:
        graph: The key of the dense network's graph.
        widths: Of the graph's groups.
    """

    graph: str
    widths: Mapping[str, int]


class Device(Protocol):
    """All that must happen on the machine that will run the network."""

    def target(
        self,
        runtime: str = "onnxruntime",
        *,
        precision: str = "fp32",
        batch: int = 1,
        threads: int = 1,
    ) -> Target:
        """Give the target that the device is, with these settings.

        Raises:
            ValueError: For a runtime or precision that it does not offer.
            MissingExtra: If the runtime is not installed here.
            DeviceError: If the device cannot be reached, or lacks something.
        """

    def table(self, target: Target, *, folder: Path | None = None) -> LatencyTable:
        """Open the table that the device's measurements go to.

        Raises:
            DamagedTable: If its file cannot be read.
            StaleTable: If its file belongs to another target.
        """

    def prepare(
        self, model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target
    ) -> Ready:
        """Make a network ready to be timed on the device, as often as it takes."""

    def open_anew(self, network: Ready) -> bool:
        """Put what `prepare` gave elsewhere in memory; False where it stays as it is."""

    def time(
        self,
        shapes: Sequence[LayerShape],
        networks: Sequence[tuple[str, Ready]],
        target: Target,
        *,
        reference: Measurement | None,
        apart: int = 0,
    ) -> Iterator[tuple[LayerShape | str, Measurement]]:
        """Time layers, and then whole networks, each by itself.

        Args:
            shapes: The layers, all different; not `SENTINEL`, which is always timed beside them.
            networks: Pairs of a graph's key and the network.
            target: Names runtime, precision, batch and threads.
            reference: What `SENTINEL` took when the table was begun; None: it begins now.
            apart: Bytes of weights that the layers' network reads from one run of a layer to the
                next. As many are read between two runs here where the layer's weights outweigh
                what it computes with: the caches then hold as much of them as in the network.

        Yields:
            Every shape and every key, as soon as it is known, with what it would have taken at
            the pace of the reference; and `SENTINEL`, if there was none.

        Raises:
            DeviceError: If the device fails; what was yielded before holds.
            JobsPacked: If somebody has to carry the work to the device.
        """

    def compare(
        self,
        dense: Ready,
        small: Ready,
        target: Target,
        *,
        limit_s: float,
        tolerance: float,
        enough: Callable[[Comparison], bool] | None = None,
        cut: CutName | None = None,
    ) -> Comparison:
        """Time two networks in turns, A B A B.

        Args:
            dense: The network that came.
            small: The pruned one.
            target: Names runtime, precision, batch and threads.
            limit_s: No round begins after so long.
            tolerance: The standard error of the ratio, relative, at which the timing ends.
            enough: Decides in its place, on devices that can ask it: those in this process.
            cut: How a table names the pruned network.

        Raises:
            DeviceError: If the device fails.
            JobsPacked: If somebody has to carry the work to the device.
        """
