"""What hides its operators is traced as it was written, or refused with what to do."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from latprune.errors import UntraceableModel
from latprune.graph.tracing import trace
from tests.graph.test_tracing import EXAMPLE
from tests.networks import Plain


def test_a_compiled_part_is_traced_as_it_was_written() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 3, 1))
    model.set_submodule("1", torch.compile(model[1], backend="eager"))  # type: ignore[arg-type]

    assert list(trace(model, EXAMPLE).widths.values()) == [8, 6]


def test_torchscript_is_refused_with_what_to_do() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(Plain().eval(), EXAMPLE)  # type: ignore[no-untyped-call]

    with pytest.raises(UntraceableModel, match="trace the model that it was made from"):
        trace(scripted, EXAMPLE)


def test_a_lazy_module_without_weights_is_refused_with_what_to_do() -> None:
    with pytest.raises(UntraceableModel, match=r"0 is a lazy module .* run the model once"):
        trace(nn.Sequential(nn.LazyConv2d(8, 3), nn.Conv2d(8, 3, 1)), EXAMPLE)
