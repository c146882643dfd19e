"""How the networks of each library are built, with random weights and without asking a network.

torchvision, timm and transformers are there wherever the tests run. The others are asked for by
name: `pip install ultralytics segmentation-models-pytorch`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    Options = Mapping[str, Any]

Library = Literal[
    "torchvision", "timm", "transformers", "segmentation_models_pytorch", "ultralytics"
]
LIBRARIES: tuple[Library, ...] = get_args(Library)


def is_here(library: str) -> bool:
    """Tell whether a library is installed."""
    return find_spec(library) is not None


def _torchvision(name: str, options: Options) -> nn.Module:
    import torchvision

    # TOML has no null, and the backbone's weights are to be none.
    told = {option: None if value == "" else value for option, value in options.items()}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **told)
    return model


def _timm(name: str, options: Options) -> nn.Module:
    from timm import create_model

    model: nn.Module = create_model(name, pretrained=False, **options)
    return model


def _transformers(name: str, options: Options) -> nn.Module:
    """Build a model class of transformers; the options are its configuration's."""
    import transformers

    of_that_name = getattr(transformers, name)
    model: nn.Module = of_that_name(of_that_name.config_class(**options))
    return model


def _segmentation_models(name: str, options: Options) -> nn.Module:
    import segmentation_models_pytorch

    model: nn.Module = segmentation_models_pytorch.create_model(
        name, encoder_weights=None, **options
    )
    return model


def _ultralytics(name: str, options: Options) -> nn.Module:
    """Build the network of a YAML file of ultralytics, with a head that gives what ships."""
    from ultralytics import YOLO

    model: Any = YOLO(f"{name}.yaml").model
    head = model.model[-1]
    if hasattr(head, "export"):  # maps that only the loss reads are no output then
        head.export, head.format = True, "onnx"
    for attribute, value in options.items():
        setattr(head, attribute, value)
    built: nn.Module = model
    return built


BUILDERS: Mapping[Library, Callable[[str, Options], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
    "segmentation_models_pytorch": _segmentation_models,
    "ultralytics": _ultralytics,
}
