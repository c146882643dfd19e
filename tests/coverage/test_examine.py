"""A cross-section of the list, one small network per mechanism, is examined whole."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.coverage.examine import examine
from benchmarks.coverage.networks import Network
from benchmarks.coverage.page import outcome

MECHANISMS = {
    "residual sums": Network("test_resnet", "timm", "", 32),
    "concatenation": Network("squeezenet1_1", "torchvision", "", 48),
    "shuffled halves": Network("shufflenet_v2_x0_5", "torchvision", "", 32),
    "depthwise convolution and gates": Network("mobilenet_v3_small", "torchvision", "", 32),
    "inverted residuals": Network("test_efficientnet", "timm", "", 32),
    "group norm": Network("test_efficientnet_gn", "timm", "", 32),
    "standardised weights": Network("test_nfnet", "timm", "", 32),
    "grouped convolution": Network("test_byobnet", "timm", "", 32),
    "layer norm and layer scale": Network("test_convnext", "timm", "", 32),
    "attention": Network("test_vit", "timm", "", 32, options={"img_size": 32}),
    "gated convolution": Network("test_mambaout", "timm", "", 32),
    "merged branches": Network("mobileone_s0", "timm", "", 32, reparameterise=True),
}


def record_of(network: Network, *, onnx: bool = False) -> dict[str, Any]:
    record: dict[str, Any] = {}
    examine(network, record.update, onnx=onnx)
    return record


@pytest.mark.filterwarnings("ignore")  # of the libraries that the networks come from
@pytest.mark.parametrize("network", MECHANISMS.values(), ids=MECHANISMS)
def test_a_network_of_every_mechanism_is_cut_right_trains_and_comes_back(network: Network) -> None:
    record = record_of(network)

    assert record.get("failures", {}) == {}
    assert outcome(record) in ("exact", "structure")
    assert record["trains"]
    assert record["round_trip"]
    assert record["layers_cut"] > 0
    assert 0 < record["macs_prunable"] < 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mechanism", ["residual sums", "attention"])
def test_a_cut_network_is_exported(mechanism: str) -> None:
    assert record_of(MECHANISMS[mechanism], onnx=True)["onnx"] is True


def test_a_network_that_cannot_be_built_says_so_and_stops() -> None:
    record = record_of(Network("test_resnet", "timm", "", 32, options={"nonsense": 1}))

    assert record["stage"] == "build"
    assert "nonsense" in record["failures"]["build"]
    assert outcome(record) == "crash"
