"""Another device over ssh: the words and steps by stand-ins, the whole by a real server."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import latprune as lp
from latprune.errors import DeviceError
from latprune.fitting.care import Care
from latprune.latency.devices.ssh import Address, Ssh
from latprune.latency.layer_timing import model_for
from latprune.latency.timing import Measurement
from tests.latency.synthetic import conv
from tests.sshd import Loopback, free_port, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


REFERENCE = Measurement(1.0, 0.0, 10)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ssh://pi", Address("pi")),
        ("ssh://MyPi", Address("MyPi")),
        ("ssh://Pi@PI:22", Address("Pi@PI", 22)),
        ("ssh://me@pi.local:2222", Address("me@pi.local", 2222)),
        ("ssh://pi/opt/env/bin/python", Address("pi", None, "/opt/env/bin/python")),
        ("ssh://pi/~/env/bin/python", Address("pi", None, "~/env/bin/python")),
        ("ssh://pi/my env/python", Address("pi", None, "'/my env/python'")),
        ("ssh://me@[fe80::1]:22", Address("me@fe80::1", 22)),
    ],
)
def test_an_address_names_user_host_port_and_python(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    "url",
    ["pi", "http://pi", "ssh://", "ssh://pi:port", "ssh://me:secret@pi", "ssh://-oProxyCommand=x"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="a device"):
        Address.parse(url)


def test_only_models_that_can_travel_are_timed_elsewhere() -> None:
    with pytest.raises(ValueError, match="only onnxruntime"):
        Ssh("ssh://pi").target("eager")


def test_a_machine_without_ssh_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(DeviceError, match="OpenSSH client"):
        Ssh("ssh://pi").target()


class Faked:
    """Scripts in the place of `ssh` and `scp`: the device is a folder of this machine."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.script("ssh", 'for last; do :; done; exec sh -c "$last"')
        self.script(
            "scp",
            "while :; do case $1 in -q) shift;; -o|-P) shift 2;; *) break;; esac; done; "
            'for to; do :; done; for one; do [ "$one" = "$to" ] || cp "$one" "${to#*:}"; done',
        )
        patch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")
        patch.setenv("TMPDIR", str(folder))

    def script(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o700)

    @property
    def left(self) -> list[Path]:
        """What lies over there."""
        return list(self.folder.glob("latprune.*"))


@pytest.fixture
def faked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faked:
    return Faked(tmp_path, monkeypatch)


def stand_in(faked: Faked, text: str) -> str:
    """A `python` over there that runs a script of the shell."""
    faked.script("python", text)
    return f"ssh://there{faked.bin}/python"


def test_a_python_that_lacks_onnx_runtime_is_told_how_to_get_it(faked: Faked) -> None:
    url = stand_in(faked, f'exec {sys.executable} -S "$@"')  # -S: without installed libraries

    with Ssh(url) as device, pytest.raises(DeviceError, match="-m pip install numpy onnxruntime"):
        device.target()


def test_what_ssh_says_is_quoted_and_how_to_see_for_oneself(faked: Faked) -> None:
    faked.script("ssh", "echo 'Permission denied (publickey).' >&2; exit 255")

    with pytest.raises(DeviceError, match=r"Permission denied \(publickey\)\..*ssh me@there true"):
        Ssh("ssh://me@there").target()


def test_nothing_is_left_on_the_device(faked: Faked) -> None:
    with Ssh(f"ssh://there{sys.executable}") as device:
        device.target()
        assert len(faked.left) == 1

    assert faked.left == []


def test_what_a_shell_greets_with_is_neither_a_folder_nor_a_result(faked: Faked) -> None:
    faked.script("ssh", 'echo / ; for last; do :; done; sh -c "$last"; code=$?; echo /; exit $code')

    with Ssh(f"ssh://there{sys.executable}") as device:
        assert device.target() == lp.Target.here()
        assert len(faked.left) == 1

    assert faked.left == []


def test_what_was_measured_before_the_connection_died_is_kept(faked: Faked) -> None:
    whole = f'{sys.executable} "$@"'
    url = stand_in(faked, f"exec {whole}")
    shapes = [conv(width, width) for width in (4, 8, 12)]
    device = Ssh(url)
    target = device.target()

    faked.script(
        "ssh", 'for last; do :; done; sh -c "$last" | head -c 1500; echo lost >&2; exit 255'
    )
    timed = device.time(shapes, [], target, reference=REFERENCE)
    found = [next(timed)[0]]
    with pytest.raises(DeviceError, match=r"lost.*What was measured is kept"):
        found += [shape for shape, _ in timed]

    assert 1 <= len(found) < len(shapes)
    assert found == shapes[: len(found)]


def test_a_layer_that_fails_over_there_is_named(
    faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Ssh(f"ssh://there{sys.executable}")
    target = device.target()
    monkeypatch.setattr(
        "latprune.latency.devices.packing.model_for",
        lambda shape, target: b"broken" if shape == conv(4, 4) else model_for(shape, target),
    )

    with device, pytest.raises(DeviceError, match="cannot time conv 4 → 4: InvalidProtobuf"):
        list(device.time([conv(4, 4)], [], target, reference=REFERENCE))


def test_jobs_that_the_device_forgot_are_missed(faked: Faked) -> None:
    device = Ssh(f"ssh://there{sys.executable}")
    target = device.target()
    (faked.left[0] / "runner.py").write_text(
        "import json, sys, zipfile\n"
        "jobs = json.loads(zipfile.ZipFile(sys.argv[1]).read('manifest.json'))\n"
        "header = {'format': 'latprune-results', 'version': 1, 'target': jobs['target']}\n"
        "print(json.dumps(header))\n"
    )

    with device, pytest.raises(DeviceError, match="left 1 of 1 jobs undone"):
        list(device.time([conv(4, 4)], [], target, reference=REFERENCE))


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with serving(tmp_path_factory.mktemp("sshd")) as host, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{host.folder / 'bin'}:{os.environ['PATH']}")
        yield host


def test_a_host_that_nobody_answers_at_is_named(loopback: Loopback) -> None:
    with pytest.raises(DeviceError, match="Connection refused"):
        Ssh(loopback.url(port=free_port())).target()


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)),
    ).eval()


def test_a_network_is_pruned_to_what_it_takes_on_a_real_host(
    loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latprune.fitting.loop.TIMING_S", 0.5)
    monkeypatch.setattr("latprune.fitting.loop.QUICK", Care(timings=2, sure=0.1, own=1))
    monkeypatch.setattr("latprune.report.comparison.CHECK_LIMIT_S", 0.5)
    model, example = tiny(), torch.zeros(1, 3, 32, 32)
    with Ssh(loopback.url()) as device:
        graph = lp.trace(model, example)
        target = device.target()
        table = lp.measure(model, graph, example, target, folder=tmp_path, device=device)
        pruned = lp.prune(model, example, "60%", folder=tmp_path, device=device)
        again = lp.measure(model, graph, example, target, folder=tmp_path, device=device)

    assert target == lp.Target.here()  # the host is this machine
    assert table.network(graph).median_ms > 0
    assert len(again) >= len(table)
    assert pruned.plan.target == target
    assert sum(pruned.plan.widths.values()) < sum(graph.widths.values())
    assert pruned.report.small.latency.median_ms > 0
