"""Networks by name or file, and weights that fit or are refused."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from latprune.errors import DamagedFile, ModelMismatch, UnknownModel
from latprune.tasks.models import load_model, load_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FACTORY = """
from torch import nn
from neighbour import WIDTH

def small(num_classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, num_classes))

def wrong():
    return "not a network"

def broken():
    raise RuntimeError("out of ideas")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 12")
    path = tmp_path / "nets.py"
    path.write_text(FACTORY)
    return path


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("spec", "head"), [("timm:resnet10t", "fc"), ("torchvision:resnet18", "fc")]
)
def test_a_named_model_has_the_classes_asked_for(spec: str, head: str) -> None:
    layer = load_model(spec, num_classes=7).get_submodule(head)

    assert isinstance(layer, nn.Linear)
    assert layer.out_features == 7


def test_a_factory_builds_with_its_neighbours_and_the_classes_asked_for(file: Path) -> None:
    assert load_model(f"{file}:small")(torch.zeros(2, 3, 2, 2)).shape == (2, 4)
    assert load_model(f"{file}:small", num_classes=9)(torch.zeros(2, 3, 2, 2)).shape == (2, 9)


def test_classes_for_a_factory_that_takes_none_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def network():\n    return None\n", encoding="utf-8")

    with pytest.raises(UnknownModel, match="takes no num_classes, and 9 classes were asked for"):
        load_model(f"{tmp_path / 'net.py'}:network", num_classes=9)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet5O", "no model 'resnet5O'; did you mean resnet50"),
        ("torchvision:mobilenetv2", "no classification model .* did you mean mobilenet_v2"),
        ("resnet50", "names no model: write timm:NAME, torchvision:NAME or PATH.py:FACTORY"),
        ("nowhere.py:net", "no file nowhere.py"),
        ("{file}:smal", "no function 'smal'; did you mean small"),
        ("{file}:wrong", "returned str; a factory returns"),
        ("{file}:broken", "RuntimeError: out of ideas"),
    ],
)
def test_a_spec_that_leads_nowhere_says_what_would(file: Path, spec: str, message: str) -> None:
    with pytest.raises(UnknownModel, match=message):
        load_model(spec.format(file=file))


def test_a_file_that_does_not_import_is_named_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nothing_like_this")
    with pytest.raises(UnknownModel, match=r"bad\.py fails: ModuleNotFoundError"):
        load_model(f"{tmp_path / 'bad.py'}:net")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"epoch": 3, "state_dict": weights},
        lambda weights: {"model": {f"module.{k}": v for k, v in weights.items()}},
        lambda weights: {f"_orig_mod.{k}": v for k, v in weights.items()},
        lambda weights: OrderedDict(
            (k, v) for k, v in weights.items() if not k.endswith("num_batches_tracked")
        ),
    ],
    ids=["plain", "nested", "data parallel", "compiled", "old"],
)
def test_weights_are_found_however_they_were_saved(
    tmp_path: Path, wrap: Callable[[dict[str, Any]], Any]
) -> None:
    source, target = network(), network()
    torch.save(wrap(source.state_dict()), tmp_path / "weights.pth")

    load_weights(target, tmp_path / "weights.pth")

    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_half_precision_safetensors_are_widened(tmp_path: Path) -> None:
    source, target = network(), network()
    halves = {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}
    save_file(halves, tmp_path / "weights.safetensors")

    load_weights(target, tmp_path / "weights.safetensors")

    assert torch.equal(target.state_dict()["3.weight"], halves["3.weight"].float())


def test_weights_of_another_model_are_refused_by_name_and_leave_the_model(tmp_path: Path) -> None:
    weights = network().state_dict()
    weights["extra"] = weights.pop("0.weight")
    weights["3.weight"] = torch.zeros(5, 5)
    torch.save(weights, tmp_path / "weights.pt")
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}

    with pytest.raises(ModelMismatch) as refusal:
        load_weights(target, tmp_path / "weights.pt")

    assert "1 missing (0.weight), 1 unexpected (extra), 1 of another shape" in str(refusal.value)
    assert "3.weight is [5, 5] there and [2, 4] in the model" in str(refusal.value)
    assert "--classes" not in str(refusal.value)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_weights_for_other_outputs_are_refused_with_what_to_do(tmp_path: Path) -> None:
    weights = network().state_dict()
    weights["3.weight"], weights["3.bias"] = torch.zeros(7, 4), torch.zeros(7)
    torch.save(weights, tmp_path / "weights.pt")

    with pytest.raises(ModelMismatch, match=r"outputs, build it with as many: --classes 7$"):
        load_weights(network(), tmp_path / "weights.pt")


class Payload:
    """Something that only unpickling code could bring back."""


def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": Payload()}, tmp_path / "weights.pt")
    with pytest.raises(DamagedFile, match="tensors alone"):
        load_weights(network(), tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_of_garbage_is_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"garbage" * 20)
    with pytest.raises(DamagedFile, match="cannot be read"):
        load_weights(network(), tmp_path / name)


def test_a_file_without_weights_by_name_is_damaged(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "weights.pt")
    with pytest.raises(DamagedFile, match="no weights by name"):
        load_weights(network(), tmp_path / "weights.pt")


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"no file of weights .*gone\.pth"):
        load_weights(network(), tmp_path / "gone.pth")


@pytest.mark.parametrize("kind", [torch.int32, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    model = nn.Linear(2, 2)
    torch.save({name: one.to(kind) for name, one in model.state_dict().items()}, tmp_path / "w.pt")

    with pytest.raises(ModelMismatch, match="2 of no real numbers"):
        load_weights(model, tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello", "holds no weights that torch.save wrote"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html></html>", "is a web page"),
        (b"PK\x03\x04 and no more", "is cut off"),
    ],
)
def test_what_lies_where_weights_should_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "w.pt").write_bytes(content)

    with pytest.raises(DamagedFile, match=said):
        load_weights(nn.Linear(2, 2), tmp_path / "w.pt")
