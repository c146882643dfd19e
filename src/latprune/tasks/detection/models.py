"""A detector from a name or a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latprune.errors import ModelMismatch, UnknownModel, import_extra
from latprune.tasks.detection.detector import Detector
from latprune.tasks.detection.ssd512 import ssd512_resnet50
from latprune.tasks.models import load_model, naming_what_failed, read_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

TORCHVISION = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
OWN: dict[str, Callable[..., nn.Module]] = {"ssd512_resnet50": ssd512_resnet50}
EXTRA, BODY = "extra.", "body."
CLASS_HEAD = "head.classification_head."


def load_detector(
    spec: str, *, pretrained: bool = False, num_classes: int | None = None
) -> Detector:
    """Build a detector.

    Args:
        spec: `torchvision:ssd300_vgg16`, `torchvision:ssdlite320_mobilenet_v3_large`,
            `latprune:ssd512_resnet50`, or `PATH.py:FACTORY`, where FACTORY is a function in that
            file that returns torchvision's `SSD`. The file is executed.
        pretrained: Fetch torchvision's published weights (needs a network connection): the
            detector's, but for what tells its classes where they are others than COCO's, or, for
            our own, the backbone's.
        num_classes: With the background; None leaves the library's or the factory's default.

    Raises:
        UnknownModel: If there is no such detector, or its published weights cannot be had.
        ModelMismatch: If a factory returns something else than an SSD.
        MissingExtra: If torchvision is not installed.
    """
    source, _, name = spec.partition(":")
    classes = {} if num_classes is None else {"num_classes": num_classes}
    if ".py:" in spec:
        return Detector.of(load_model(spec, pretrained=pretrained, num_classes=num_classes))
    if source == "torchvision" and name in TORCHVISION:
        with naming_what_failed(spec, pretrained=pretrained):
            return Detector.of(_from_torchvision(name, pretrained=pretrained, **classes))
    if source == "latprune" and name in OWN:
        with naming_what_failed(spec, pretrained=pretrained):
            return Detector.of(OWN[name](pretrained_backbone=pretrained, **classes))
    known = [*(f"torchvision:{n}" for n in TORCHVISION), *(f"latprune:{n}" for n in OWN)]
    raise UnknownModel(
        f"{spec!r} names no detector: write {', '.join(known)}, or PATH.py:FACTORY, a function "
        f"that returns torchvision's SSD"
    )


def load_backbone(detector: Detector, path: Path) -> None:
    """Read a classifier's weights into a detector's backbone.

    Args:
        detector: Its backbone is changed in place. Parameters named `extra.…` stay as they are;
            the others are named as in the file, or all `body.` and then as in the file.
        path: As for `load_weights`; what only the classifier has is left out.

    Raises:
        DamagedFile: If the file cannot be read.
        ModelMismatch: If a parameter of the backbone is missing there or has another shape.
    """
    backbone = detector.network.backbone
    wanted = {n: t for n, t in backbone.state_dict().items() if not n.startswith(EXTRA)}
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    prefix = BODY if all(name.startswith(BODY) for name in needed) else ""
    found = {f"{prefix}{name}": tensor for name, tensor in read_weights(path).items()}
    unfit = [n for n in needed if n not in found or found[n].shape != wanted[n].shape]
    if unfit:
        raise ModelMismatch(
            f"{path} holds the weights of another backbone: {len(unfit)} of {len(needed)} tensors "
            f"are missing there or have another shape ({', '.join(unfit[:3])})"
        )
    backbone.load_state_dict({name: found[name] for name in needed}, strict=False)


def _from_torchvision(name: str, *, pretrained: bool, **classes: int) -> nn.Module:
    """Build torchvision's detector: the same network whichever weights it begins with.

    torchvision itself gives one with a pretrained backbone other widths, and parameters that are
    not trained, so that no file of its weights could be loaded without fetching those again.
    """
    build = getattr(import_extra("torchvision.models.detection", "train"), name)
    model: nn.Module = build(weights=None, weights_backbone=None, **classes)
    if pretrained:
        published, own = build(weights="DEFAULT").state_dict(), model.state_dict()
        new = {
            each: own[each]
            for each, tensor in published.items()
            if each.startswith(CLASS_HEAD) and own[each].shape != tensor.shape
        }
        model.load_state_dict(published | new)
    return model
