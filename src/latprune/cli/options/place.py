"""Options that say what will run the network: a runtime and its settings, and the device."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from latprune.cli.options.usage import usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latprune.latency.devices import Device
    from latprune.latency.target import Target
    from latprune.planning import Budget

PRECISIONS = ("fp32", "fp16", "bf16", "int8")

Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        help="What will run the network: onnxruntime, openvino, eager or compile; on an NVIDIA GPU "
        "onnxruntime-cuda, onnxruntime-tensorrt, tensorrt, eager-cuda or compile-cuda.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="The network will run in: fp32; int8 in onnxruntime and openvino; bf16 in openvino, "
        "eager and compile; on a GPU fp16, and bf16 in eager-cuda and compile-cuda.",
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Samples per run.")]
PlannedBatch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Samples per run; by default the plan's.")
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="That the runtime may use.")]
Also = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="SETTINGS=BUDGET",
        help="A further budget, with other settings, that the same network must meet: "
        "'openvino=12ms' or 'int8, 2 threads=50%'. Settings between commas: a runtime, a "
        "precision, a number of threads; the others are those above. May be repeated.",
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="ssh://[USER@]HOST[:PORT][/PYTHON]",
        help="Time on another device, with its python3 or the one named; it needs numpy and "
        "onnxruntime, and ssh must not ask for a password.",
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option("--table", metavar="FILE", help="The table of a device that is not this one."),
]
Pack = Annotated[
    Path | None,
    typer.Option(
        "--pack",
        metavar="JOBS.zip",
        help="Write what that table lacks to a file, to be timed on the device by hand.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What will run the network, on whatever device."""

    heading: ClassVar[str] = "What runs it"

    runtime: Runtime = "onnxruntime"
    precision: Precision = "fp32"
    batch: Batch = 1
    threads: Threads = 1

    @classmethod
    def of(cls, target: Target) -> Setting:
        """Give the settings of a target."""
        return cls(
            runtime=target.runtime,
            precision=target.precision,
            batch=target.batch,
            threads=target.threads,
        )

    def on(self, device: Device, *, option: str | None = None) -> Target:
        """Read what the network will run on.

        Args:
            device: That runs it.
            option: What the settings come from, where they are not options themselves.

        Raises:
            BadParameter: If the device offers no such runtime or precision.
        """
        with usage(option or ("--runtime" if self.precision == "fp32" else "--precision")):
            return self._on(device)

    def _on(self, device: Device) -> Target:
        return device.target(
            self.runtime, precision=self.precision, batch=self.batch, threads=self.threads
        )

    def _with(self, settings: str) -> Setting:
        """Give the settings with some of them changed: `openvino, int8, 2 threads`."""
        from latprune.latency.runtimes import runtime_names

        changed = self
        for word in map(str.strip, settings.split(",")):
            if threads := re.fullmatch(r"([1-9]\d*) threads?", word):
                changed = replace(changed, threads=int(threads[1]))
            elif word in runtime_names():
                changed = replace(changed, runtime=word)
            elif word in PRECISIONS:
                changed = replace(changed, precision=word)
            else:
                raise ValueError(
                    f"{word!r} is no runtime ({', '.join(runtime_names())}), no precision "
                    f"({', '.join(PRECISIONS)}) and no number of threads (2 threads)"
                )
        return changed


@dataclass(frozen=True, kw_only=True)
class Settings(Setting):
    """What will run the network, under further settings too."""

    also: Also = None

    def further(self, device: Device) -> dict[Target, Budget]:
        """Read `--also`: targets that differ from the first one, and their budgets.

        Raises:
            BadParameter: If one cannot be read, cannot be had on the device, or comes twice.
        """
        from latprune.planning import Budget

        found: dict[Target, Budget] = {}
        known = {self._on(device)} if self.also else set()
        with usage("--also"):
            for text in self.also or ():
                settings, equals, budget = text.rpartition("=")
                if not equals:
                    raise ValueError(f"a further budget reads like openvino=12ms, not {text!r}")
                target = self._with(settings)._on(device)
                if target in known:
                    raise ValueError(
                        f"{text!r}: {target.describe()} has a budget already; name another "
                        f"runtime, precision or number of threads"
                    )
                known.add(target)
                found[target] = Budget.parse(budget)
        return found


@dataclass(frozen=True, kw_only=True)
class Carried:
    """The device: this one, one that ssh reaches, or one that files are carried to."""

    heading: ClassVar[str] = "Another device"

    on: On = None
    table: TableFile = None
    pack: Pack = None

    @property
    def is_by_hand(self) -> bool:
        """Whether files are carried to the device."""
        return self.table is not None or self.pack is not None

    def check_targets(self, also: Sequence[str] | None) -> None:
        """See that a device with several budgets times them all by itself.

        Raises:
            BadParameter: If files are carried to it.
        """
        if also and self.is_by_hand:
            sentence = "files are carried to a device for one target: reach it by --on"
            raise typer.BadParameter(sentence, param_hint="--also")

    def needs_table(self) -> None:
        """See that a device was measured before anything is planned for it.

        Raises:
            BadParameter: If it was not.
        """
        if self.pack is not None and self.table is None:
            sentence = "measure the device first: latprune measure --pack; then give its --table"
            raise typer.BadParameter(sentence, param_hint="--pack")
