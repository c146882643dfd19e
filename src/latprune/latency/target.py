"""The machine, runtime and setting that a latency belongs to; without them it means nothing."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Target:
    """What a latency was, or shall be, measured on.

    Attributes:
        device: Model of the processor, its cores and a digest of its instruction sets; or model
            of the GPU, its memory and its compute capability.
        runtime: Name of the runtime, as `get_runtime` knows it.
        runtime_version: Of the runtime's library.
        precision: Of weights and activations, e.g. `fp32`.
        batch: Samples per run.
        threads: That the runtime may use.
    """

    device: str
    runtime: str
    runtime_version: str
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.threads < 1:
            raise ValueError(f"batch and threads are at least 1: {self}")

    @classmethod
    def here(
        cls,
        runtime: str = "onnxruntime",
        *,
        precision: str = "fp32",
        batch: int = 1,
        threads: int = 1,
    ) -> Target:
        """Give the target that this process runs on.

        Args:
            runtime: One of the runtimes that `get_runtime` knows.
            precision: One that the runtime offers.
            batch: Samples per run.
            threads: That the runtime may use.

        Raises:
            ValueError: For an unknown runtime, or a precision that it does not offer here.
            MissingExtra: If the runtime's library is not installed.
            NoCompiler: If the runtime needs a C++ compiler, and there is none.
            NoGpu: If the runtime needs a GPU, and there is none.
        """
        from latprune.latency.runtimes import get_runtime

        chosen = get_runtime(runtime)
        if precision not in chosen.precisions:
            offered = ", ".join(chosen.precisions)
            raise ValueError(
                f"{runtime} does not offer the precision {precision!r} here; it offers {offered}"
            )
        return cls(
            device=chosen.device(),
            runtime=chosen.name,
            runtime_version=chosen.version(),
            precision=precision,
            batch=batch,
            threads=threads,
        )

    @cached_property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that differ whenever any field does."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def minds_neighbours(self) -> bool:
        """Whether a layer's kernel depends on what its shape says of its neighbours."""
        return self.runtime == "openvino" and self.precision == "int8"

    @property
    def setting(self) -> str:
        """How networks run there, for people."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        runtime = f"{self.runtime} {self.runtime_version}"
        return f"{runtime}, {self.precision}, batch {self.batch}, {threads}"

    def describe(self) -> str:
        """Give one line for people."""
        return f"{self.setting}, on {self.device}"

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Target:
        """Read what `to_json` gave.

        Raises:
            ValueError: If fields are missing, unknown or of another type.
        """
        known = {field.name for field in fields(cls)}
        if set(stored) != known:
            raise ValueError(f"a target has the fields {sorted(known)}, not {sorted(stored)}")
        for name in known:
            expected = int if name in ("batch", "threads") else str
            if not isinstance(stored[name], expected):
                raise ValueError(f"the target's {name} is not of type {expected.__name__}")
        return cls(**stored)


@cache
def processor() -> str:
    """Name this machine's processor: model, cores, and a digest of its instruction sets.

    The digest tells machines apart that bear one model name, as virtual ones do.
    """
    described = _cpuinfo()
    model = described.get("model name") or _sysctl() or platform.processor() or platform.machine()
    flags = described.get("flags") or described.get("Features") or platform.machine()
    digest = hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:6]
    vector = next((name for name in _VECTOR_SETS if name in flags.split()), platform.machine())
    return f"{' '.join(model.split())}, {os.cpu_count()} cores, {vector} ({digest})"


@cache
def instruction_sets() -> frozenset[str]:
    """Name this processor's instruction sets as Linux does; empty where they are not known."""
    described = _cpuinfo()
    return frozenset((described.get("flags") or described.get("Features") or "").split())


_VECTOR_SETS = ("amx_tile", "avx512f", "avx2", "avx", "sve2", "sve", "asimd", "sse4_2")


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _sysctl() -> str:
    if platform.system() != "Darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    said = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return said.stdout.strip()
