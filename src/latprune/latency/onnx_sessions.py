"""Sessions of ONNX Runtime, and its own node profile.

Needs numpy and ONNX Runtime alone, so that it runs on devices that have no torch.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.errors import import_extra
from latprune.latency.onnx_layers import warm_by
from latprune.latency.profiled import Profile, random_input

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTRA = "onnxruntime"
_KERNEL = "_kernel_time"  # what an event's name ends in if it is a kernel's run


def open_session(
    model: Path | bytes,
    *,
    threads: int = 1,
    profile: Path | None = None,
    providers: Sequence[str | tuple[str, dict[str, str]]] = ("CPUExecutionProvider",),
) -> Any:
    """Open a session, on the CPU if not told otherwise.

    Args:
        model: A file, or a serialised model.
        threads: For the work inside an operator; operators run one after another.
        profile: Prefix of the file that the node profile goes to; None: no profile.
        providers: That execute it, the preferred one first; or with options of its own.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        MissingExtra: If ONNX Runtime is not installed.
    """
    runtime = import_extra("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Without it the idle threads of one session burn the processor that the next one needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    source = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(source, options, providers=list(providers))


class ProfiledSession:
    """A model on the CPU whose kernels are timed; see `Profiled`."""

    def __init__(self, model: bytes, *, threads: int) -> None:
        folder = tempfile.mkdtemp()
        # Also where the model turns out to be broken, or nobody asks for the profile.
        self._clean = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        prefix = Path(folder) / "profile"
        self._session = open_session(model, threads=threads, profile=prefix)
        self.warm = warm_by(self._session.get_modelmeta().custom_metadata_map)
        self._feeds = {
            wanted.name: random_input(wanted.shape) for wanted in self._session.get_inputs()
        }

    def run(self) -> None:
        """Run once, always on the same data."""
        self._session.run(None, self._feeds)

    def profile(self) -> Profile:
        """End the session and give the times of all its runs."""
        try:
            return read_profile(Path(self._session.end_profiling()))
        finally:
            self._clean()


def read_profile(path: Path) -> Profile:
    """Read the kernels of a node profile.

    Args:
        path: The file that a session wrote.

    """
    operators: dict[str, str] = {}
    times_ms: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            name = event["name"].removesuffix(_KERNEL)
            operators[name] = event["args"]["op_name"]
            times_ms[name].append(event["dur"] / 1e3)
    runs = np.array(list(times_ms.values()))
    return Profile(list(operators), list(operators.values()), runs)
