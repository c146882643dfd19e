"""Write files of jobs, with the modules of latprune that a device needs to time them.

Nothing of latprune exists twice: the very sources that time here travel in the file, found by
following their imports.
"""

from __future__ import annotations

import ast
import hashlib
import io
import lzma
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from latprune.errors import DeviceError
from latprune.files import replacing
from latprune.graph.layers import LayerShape
from latprune.latency.devices.jobs import MANIFEST, Job, Manifest
from latprune.latency.layer_timing import model_for
from latprune.latency.runtimes.onnxruntime import RUNTIME
from latprune.latency.sentinel import SENTINEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement

RUNNER = "runner.py"
_SOURCE = Path(__file__).parents[2]
_ENTRY = "latprune.latency.devices.runner"
_LAUNCH = Path(__file__).with_name("launch.py")


class Network(NamedTuple):
    """A whole network as files.

    Attributes:
        model: The name of its ONNX file, by content.
        inputs: The names of what it reads, by content.
        files: Their contents, by name.
    """

    model: str
    inputs: tuple[str, ...]
    files: Mapping[str, bytes]


def check_portable(target: Target) -> None:
    """See that models can travel to a target.

    Raises:
        ValueError: If its runtime runs no serialised models, or lacks the precision.
    """
    if target.runtime != RUNTIME.name:
        raise ValueError(
            f"only {RUNTIME.name} can be timed on another device, not {target.runtime}"
        )
    if target.precision not in RUNTIME.precisions:
        offered = ", ".join(RUNTIME.precisions)
        raise ValueError(
            f"{RUNTIME.name} does not offer the precision {target.precision!r}; it offers {offered}"
        )


def manifest_of(
    jobs: Sequence[Job],
    target: Target,
    *,
    is_known: bool,
    reference: Measurement | None = None,
    then: Sequence[str] = (),
    apart: int = 0,
) -> Manifest:
    """List jobs; see `Manifest`."""
    sentinel = layer_job(SENTINEL, target)
    return Manifest(target, is_known, tuple(jobs), sentinel, reference, tuple(then), apart)


def layer_job(shape: LayerShape, target: Target) -> Job:
    """Describe the timing of a layer."""
    described = {"shape": shape.to_json(), "batch": target.batch, "precision": target.precision}
    return Job({"shape": shape.to_json()}, (_name(repr(described).encode(), ".onnx.xz"),))


def pack_network(model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target) -> Network:
    """Export a whole network with its inputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        RUNTIME.write_network(model, example, target, path)
        if any(other != path for other in Path(folder).iterdir()):
            raise DeviceError("a network of more than 2 GB does not fit into a file of jobs")
        exported = path.read_bytes()
    inputs = example if isinstance(example, tuple) else (example,)
    files = {_name(exported, ".onnx"): exported}
    names = []
    for tensor in inputs:
        content = io.BytesIO()
        np.save(content, np.ascontiguousarray(tensor.detach().cpu().numpy()))
        names.append(_name(content.getvalue(), ".npy"))
        files[names[-1]] = content.getvalue()
    return Network(next(iter(files)), tuple(names), files)


def write_jobs(path: Path, manifest: Manifest, networks: Iterable[Network] = ()) -> None:
    """Write a file of jobs.

    Args:
        path: The file; an old one is replaced once all is written.
        manifest: What to time.
        networks: Those that are to travel in this file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {name: content for one in networks for name, content in one.files.items()}
    with (
        replacing(path) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        packed.writestr(MANIFEST, manifest.to_text())
        for name, text in sources().items():
            packed.writestr(name, text)
        for name, content in files.items():
            packed.writestr(name, content)
        for name, content in _layer_files(manifest):
            # Layers' weights repeat a quarter of a MB: farther apart than deflate looks, and near
            # enough for the quickest preset that looks as far.
            small = lzma.compress(content, preset=1)
            packed.writestr(name, small, compress_type=zipfile.ZIP_STORED)


def check_runner(folder: Path) -> None:
    """See that no file of somebody else's has the name of what is started on the device.

    Raises:
        DeviceError: If one has.
    """
    path, begin = folder / RUNNER, _LAUNCH.read_bytes().splitlines()[0]
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(begin)):
        raise DeviceError(
            f"{path} is not latprune's, and would be replaced by what is started on the device: "
            f"pack to another folder, such as {folder / 'jobs' / 'jobs.zip'}"
        )


def write_runner(folder: Path) -> Path:
    """Write what is started on the device.

    Raises:
        DeviceError: If a file of somebody else's has its name.
    """
    check_runner(folder)
    path = folder / RUNNER
    path.write_text(_LAUNCH.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def sources() -> dict[str, str]:
    """Give the modules that time on a device, by their paths in the file of jobs.

    The package itself is empty there: of the rest of latprune nothing is there to give.
    """
    found = {"latprune/__init__.py": ""}
    waiting = [_ENTRY]
    while waiting:
        path = _path_of(waiting.pop())
        name = (Path("latprune") / path.relative_to(_SOURCE)).as_posix()
        if name not in found:
            found[name] = path.read_text(encoding="utf-8")
            waiting += _imported(found[name])
    return found


def _path_of(module: str) -> Path:
    path = _SOURCE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imported(source: str) -> Iterator[str]:
    """The modules of latprune that a module imports when it is imported, and their packages."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("latprune."):
            parts = str(node.module).split(".")
            yield from (".".join(parts[:end]) for end in range(2, len(parts) + 1))


def _layer_files(manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    layers = [job for job in manifest.jobs if job.is_layer]
    paced = any(job.is_paced for job in manifest.jobs)
    for job in [manifest.sentinel, *layers] if paced else layers:
        shape = LayerShape.from_json(job.entry["shape"])
        yield job.models[0], model_for(shape, manifest.target)


def _name(content: bytes, ending: str) -> str:
    return hashlib.sha256(content).hexdigest()[:16] + ending
