"""The list of networks is whole, and so is what stands for each of them."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import pytest
import timm
import torchvision
from benchmarks.coverage import __main__ as command
from benchmarks.coverage import networks as listing
from benchmarks.coverage.networks import networks


def test_every_network_is_one_that_its_library_offers() -> None:
    offered = {
        "timm": set(timm.list_models()),
        "torchvision": set(torchvision.models.list_models()),
    }

    listed = [network for network in networks() if network.library in offered]
    assert [n.key for n in listed if n.name not in offered[n.library]] == []


@pytest.mark.parametrize("name", [n.name for n in networks() if n.library == "transformers"])
def test_networks_of_transformers_are_built_from_their_options(name: str) -> None:
    (network,) = (n for n in networks() if n.name == name)

    model = network.build()

    assert type(model).__name__ == name
    assert not model.training


def test_networks_of_a_library_that_is_not_installed_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examined = []

    def note(_work: object, network: listing.Network, **_limits: object) -> dict[str, object]:
        examined.append(network.key)
        return {"groups": 0}

    monkeypatch.setattr(command, "record_of", note)
    absent = ("ultralytics", "segmentation_models_pytorch")
    monkeypatch.setattr(command, "is_here", lambda library: library not in absent)

    run(monkeypatch, "--json", tmp_path / "c.json", "--only", "*:unet,ultralytics:*,timm:lcnet_050")

    assert examined == ["timm:lcnet_050"]
    assert "pip install segmentation_models_pytorch ultralytics" in capsys.readouterr().out


def test_at_least_120_networks_are_of_timm() -> None:
    assert len({n.name for n in networks() if n.library == "timm"}) >= 120


def test_a_network_that_is_listed_twice_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = '[[family]]\nname = "A"\nlibrary = "timm"\nsize = 8\nnetworks = ["x"]\n'
    (tmp_path / "twice.toml").write_text(family * 2)
    monkeypatch.setattr(listing, "LIST", tmp_path / "twice.toml")

    with pytest.raises(ValueError, match="timm:x"):
        networks()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["benchmarks.coverage", *map(str, arguments)])
    monkeypatch.setattr(command, "start_server", lambda _preload: None)
    return command.main()


def test_a_run_goes_on_where_another_one_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined = []

    def note(_work: object, network: listing.Network, **_limits: object) -> dict[str, object]:
        examined.append(network.name)
        return {"groups": 0}

    monkeypatch.setattr(command, "record_of", note)
    results = tmp_path / "coverage.json"

    run(monkeypatch, "--json", results, "--only", "timm:resnet18d,timm:repvgg_a0")
    run(monkeypatch, "--json", results, "--only", "timm:resnet18d,timm:lcnet_050")

    assert examined == ["resnet18d", "repvgg_a0", "lcnet_050"]
    assert set(json.loads(results.read_text())["networks"]) == {
        "timm:resnet18d",
        "timm:repvgg_a0",
        "timm:lcnet_050",
    }


def test_places_of_one_run_are_left_out_of_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(tempfile.gettempdir()) / "tmp_a1" / "network.onnx"
    found = {"groups": 0, "failures": {"onnx": f"it computes from {place} else"}}
    monkeypatch.setattr(command, "record_of", lambda *_, **__: dict(found))
    results = tmp_path / "coverage.json"

    run(monkeypatch, "--json", results, "--only", "timm:lcnet_050")

    said = json.loads(results.read_text())["networks"]["timm:lcnet_050"]["failures"]
    assert said == {"onnx": "it computes from network.onnx else"}


def test_an_interrupted_run_ends_with_one_line_and_examines_no_further_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examined = []

    def interrupt(_work: object, network: listing.Network, **_limits: object) -> dict[str, object]:
        examined.append(network.name)
        time.sleep(0.05)  # so that the list is far from done when its first network is
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "record_of", interrupt)

    assert run(monkeypatch, "--json", tmp_path / "coverage.json") == command.INTERRUPTED

    assert capsys.readouterr().err == "stopped; the same command goes on with the others\n"
    assert len(examined) < len(networks())


def test_every_family_has_its_turn_before_any_has_its_second() -> None:
    order = command._across(networks())

    families = {(network.library, network.family) for network in order}
    assert {(n.library, n.family) for n in order[: len(families)]} == families
    assert sorted(n.key for n in order) == sorted(n.key for n in networks())


def test_a_comment_or_a_docstring_is_no_other_code() -> None:
    plain = command._statements("def cut(x):\n    return x - 1\n")

    assert (
        command._statements('"""Cut."""\n\ndef cut(x):\n    "Cut x."\n    return x - 1  # !\n')
        == plain
    )
    assert command._statements("def cut(x):\n    return x - 2\n") != plain


def test_what_other_code_found_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined = []

    def note(_work: object, network: listing.Network, **_limits: object) -> dict[str, object]:
        examined.append(network.name)
        return {"groups": 0}

    monkeypatch.setattr(command, "record_of", note)
    for digest in ("old", "old", "new"):
        monkeypatch.setattr(command, "code_digest", lambda digest=digest: digest)
        run(monkeypatch, "--json", tmp_path / "coverage.json", "--only", "timm:lcnet_050")

    assert examined == ["lcnet_050", "lcnet_050"]
