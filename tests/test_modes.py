"""Labels follow the network to its device, whatever they are made of."""

from __future__ import annotations

from typing import NamedTuple

import torch

from latprune.modes import moved

META = torch.device("meta")


class Pair(NamedTuple):
    boxes: torch.Tensor
    name: str


def test_tensors_are_moved_out_of_whatever_holds_them() -> None:
    here = torch.ones(2)
    there = moved([{"a": here}, (here, "b"), Pair(here, "c"), None], META)

    assert there[0]["a"].device == there[1][0].device == there[2].boxes.device == META
    assert isinstance(there[2], Pair)
    assert (there[1][1], there[2].name, there[3]) == ("b", "c", None)
    assert here.device.type == "cpu"


def test_what_is_there_already_is_not_copied() -> None:
    here = torch.ones(2)

    assert moved({"a": here}, here.device)["a"] is here
