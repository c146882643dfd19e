"""A network from a name or a file, and weights into it."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import pickle
import sys
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from latprune.errors import DamagedFile, ModelMismatch, UnknownModel, import_extra
from latprune.tasks.preprocessing import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType

NESTS = ("state_dict", "model_state_dict", "model")  # under which training scripts store weights
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
IMAGENET_CLASSES = 1000


def load_model(spec: str, *, pretrained: bool = False, num_classes: int | None = None) -> nn.Module:
    """Build a classification network.

    Args:
        spec: `timm:NAME`, `torchvision:NAME` or `PATH.py:FACTORY`, where FACTORY is a function
            in that file that returns the network. The file is executed.
        pretrained: Fetch the library's published weights (needs a network connection).
        num_classes: Outputs; None leaves the library's or the factory's default.

    Returns:
        The network, in training mode, on the CPU.

    Raises:
        UnknownModel: If there is no such model, file or factory, if the factory fails or returns
            something else, or if its published weights cannot be had.
        MissingExtra: If the library is not installed.
    """
    source, separator, name = spec.rpartition(":") if ".py:" in spec else spec.partition(":")
    if source == "timm" and name:
        return _from_timm(name, pretrained=pretrained, num_classes=num_classes)
    if source == "torchvision" and name:
        return _from_torchvision(name, pretrained=pretrained, num_classes=num_classes)
    if separator and name and source.endswith(".py"):
        if pretrained:
            raise UnknownModel(f"{spec} has no published weights; give a file of weights instead")
        return _from_file(Path(source), name, num_classes=num_classes)
    raise UnknownModel(
        f"{spec!r} names no model: write timm:NAME, torchvision:NAME or PATH.py:FACTORY"
    )


def load_weights(model: nn.Module, path: Path) -> None:
    """Read weights into a model; every name and shape must fit.

    Args:
        model: Changed in place.
        path: `.safetensors`, or what `torch.save` wrote (read as tensors only: no code in it
            runs). A state dict under `state_dict`, `model_state_dict` or `model`, and names with
            a leading `module.` or `_orig_mod.`, are understood.

    Raises:
        DamagedFile: If there is no such file or it holds no tensors by name.
        ModelMismatch: If names or shapes differ; says which, and how many.
    """
    weights = read_weights(path)
    _check_fit(Path(path), model.state_dict(), weights)
    model.load_state_dict(weights, strict=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a file, as `load_weights` does.

    Raises:
        DamagedFile: If there is no such file or it holds no tensors by name.
    """
    path = Path(path)
    weights = _unwrapped(_read(path))
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise DamagedFile(f"{path} holds no weights by name: save model.state_dict() there")
    return weights


def _from_timm(name: str, *, pretrained: bool, num_classes: int | None) -> nn.Module:
    timm = import_extra("timm", "train")
    if not timm.is_model(name):
        raise _unknown(f"timm has no model {name!r}", name, timm.list_models())
    classes = {} if num_classes is None else {"num_classes": num_classes}
    with naming_what_failed(f"timm:{name}", pretrained=pretrained):
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **classes)
    return model.train()


def _from_torchvision(name: str, *, pretrained: bool, num_classes: int | None) -> nn.Module:
    models = import_extra("torchvision.models", "train")
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(f"torchvision has no classification model {name!r}", name, known)
    if pretrained and num_classes not in (None, IMAGENET_CLASSES):
        raise UnknownModel(
            f"torchvision publishes weights of {name} for {IMAGENET_CLASSES} classes, not "
            f"{num_classes}: leave out one of the two, or take the model from timm"
        )
    classes = {} if num_classes is None else {"num_classes": num_classes}
    with naming_what_failed(f"torchvision:{name}", pretrained=pretrained), _quiet_about_init():
        weights = PUBLISHED if pretrained else None
        model: nn.Module = models.get_model(name, weights=weights, **classes)
    return model.train()


def _from_file(path: Path, name: str, *, num_classes: int | None) -> nn.Module:
    with _importable(path.parent):
        factory = _factory(path, name)
        classes = {} if num_classes is None else {"num_classes": num_classes}
        if classes and not _takes(factory, "num_classes"):
            raise UnknownModel(
                f"{path}:{name} takes no num_classes, and {num_classes} classes were asked for: "
                f"leave that out (--classes), or give the function such an argument"
            )
        with naming_what_failed(f"{path}:{name}"):
            model = factory(**classes)
    if not isinstance(model, nn.Module):
        raise UnknownModel(
            f"{path}:{name} returned {type(model).__name__}; a factory returns a torch.nn.Module"
        )
    return model.train()


def _takes(factory: Callable[..., Any], argument: str) -> bool:
    """Whether a function can be called with an argument of a name; of some nobody can tell."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(one.name == argument or one.kind is one.VAR_KEYWORD for one in parameters)


def _factory(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise UnknownModel(f"there is no file {path}")
    with naming_what_failed(str(path)):
        module = _imported(path)
    factory = getattr(module, name, None)
    if not callable(factory):
        offered = [key for key, value in vars(module).items() if callable(value)]
        raise _unknown(f"{path} has no function {name!r}", name, offered)
    found: Callable[..., Any] = factory
    return found


def _imported(path: Path) -> ModuleType:
    name = f"latprune_factory_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it has a .py suffix
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a factory's file import its neighbours, as it could if it were run as a script."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


@contextmanager
def naming_what_failed(what: str, *, pretrained: bool = False) -> Iterator[None]:
    """Turn whatever a stranger's code raises into an `UnknownModel` that says what failed."""
    try:
        yield
    except Exception as error:
        advice = "; give a file of weights instead of fetching them" if pretrained else ""
        raise UnknownModel(f"{what} fails: {type(error).__name__}: {error}{advice}") from error


@contextmanager
def _quiet_about_init() -> Iterator[None]:
    with warnings.catch_warnings():
        # GoogLeNet and Inception announce that a future release will initialise otherwise.
        warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
        yield


def _unknown(sentence: str, name: str, known: Sequence[str]) -> UnknownModel:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return UnknownModel(sentence + (f"; did you mean {', '.join(near)}?" if near else ""))


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DamagedFile(f"there is no file of weights {path}")
    if why := _no_weights(path):
        raise DamagedFile(f"{path} {why}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedFile(
            f"{path} cannot be read as tensors alone. Save model.state_dict() instead of the "
            f"whole model, best as .safetensors"
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise DamagedFile(f"{path} cannot be read: {error}") from error
    except Exception as error:  # bytes that are no pickle can mean anything to what reads pickles
        raise DamagedFile(f"{path} holds no weights that torch.save wrote: {error!r}") from error


def _no_weights(path: Path) -> str:
    """Say what lies where weights should, if that can be told; else nothing."""
    with path.open("rb") as file:
        begin = file.read(256)
    if not begin:
        return "is empty: copy or save it again"
    if begin.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself: run git lfs pull"
    if begin.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not a file of weights: download the file that it links to"
    if begin.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "is cut off before its end: copy or download it again"
    return ""


def _unwrapped(stored: Any) -> dict[str, Any]:
    """Give the state dict inside what a training script saved."""
    for nest in NESTS:
        if isinstance(stored, dict) and isinstance(stored.get(nest), dict):
            stored = stored[nest]
    if not isinstance(stored, dict):
        return {}
    weights = {str(name): value for name, value in stored.items()}
    for wrapper in WRAPPERS:
        if weights and all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): value for name, value in weights.items()}
    return weights


def _check_fit(path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    # Files older than PyTorch 0.4.1 lack this counter, and torch fills it in.
    missing = [n for n in wanted if n not in found and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in found if n not in wanted]
    others = [n for n in wanted if n in found and found[n].shape != wanted[n].shape]
    misshaped = [
        f"{n} is {list(found[n].shape)} there and {list(wanted[n].shape)} in the model"
        for n in others
    ]
    whole = [
        f"{n} is {found[n].dtype}"
        for n in wanted
        if n in found and wanted[n].is_floating_point() and not found[n].is_floating_point()
    ]
    complaints = [
        f"{len(names)} {what} ({'; '.join(names[:3])}{'; …' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshaped),
            ("of no real numbers", whole),
        )
        if names
    ]
    if complaints:
        raise ModelMismatch(
            f"{path} holds the weights of another model than this one of {len(wanted)} tensors: "
            f"{', '.join(complaints)}{_how_many_outputs([(found[n], wanted[n]) for n in others])}"
        )


def _how_many_outputs(others: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Say what to do where weights of another shape are those of other outputs; else nothing."""
    outputs = {len(there) if there.dim() else 0 for there, _ in others}
    if (
        len(outputs) != 1
        or 0 in outputs
        or any(there.shape[1:] != here.shape[1:] for there, here in others)
    ):
        return ""
    count = outputs.pop()
    return f". If these are its outputs, build it with as many: --classes {count}"
