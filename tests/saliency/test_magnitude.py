"""`magnitude` adds up absolute weights by the channel that they write."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from latprune.errors import NotFinite
from latprune.graph.groups import ChannelGroup, Member, PruningGraph
from latprune.saliency import magnitude
from latprune.testing import small_network


@torch.no_grad()
def test_all_layers_that_write_a_channel_count_and_biases_do_not() -> None:
    model, graph = small_network()
    scores = magnitude(model, graph).scores

    for channel in range(8):
        written = model.stem.weight[channel].abs().sum() + model.outer.weight[channel].abs().sum()
        assert scores["stem"][channel] == pytest.approx(float(written), rel=1e-5)
    for channel in range(4):
        written = model.inner.weight[channel].abs().sum()
        assert scores["inner"][channel] == pytest.approx(float(written), rel=1e-5)


def test_a_transposed_convolution_writes_along_its_second_axis() -> None:
    layer = nn.ConvTranspose2d(2, 6, 3)
    positions = np.array([[0, 3], [1, 4], [2, 5]])
    group = ChannelGroup("0", 3, (Member("0.weight", 1, positions, "writes"),))
    scores = magnitude(nn.Sequential(layer), PruningGraph((), (group,))).scores["0"]

    weight = layer.weight.detach().abs().numpy()
    expected = [weight[:, [c, c + 3]].sum() for c in range(3)]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_weight_that_is_not_finite_is_an_error_that_names_the_group() -> None:
    model, graph = small_network()
    with torch.no_grad():
        model.inner.weight[0, 0, 0, 0] = torch.nan

    with pytest.raises(NotFinite, match="inner"):
        magnitude(model, graph)
