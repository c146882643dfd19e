"""Networks that keep what cannot be copied are cut all the same, or the error says what it is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import latprune as lp
from latprune.modes import copied
from tests import networks
from tests.test_surgery import EXAMPLE, a_plan


class Holding(networks.Plain):
    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held


class Holder:
    """Has a lock, as caches and queues do, and something else."""

    def __init__(self) -> None:
        self.lock, self.seen = threading.Lock(), torch.zeros(3)


class Ordered(nn.Module):
    """Calls its layers by a list of its own, and counts in a hook; one of them keeps a lock."""

    def __init__(self) -> None:
        super().__init__()
        self.order = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)]
        self.first, self.last = self.order
        self.first.lock = threading.Lock()  # type: ignore[assignment]
        self.count = 0
        self.last.register_forward_hook(self.counted)

    def counted(self, *_: object) -> None:
        self.count += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.order:
            x = layer(x)
        return x


class Refusing(nn.Identity):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise TypeError("there is but one of me")


def test_a_network_with_a_lock_and_an_open_file_is_cut() -> None:
    with Path(__file__).open(encoding="utf-8") as file:
        model = Holding({"lock": threading.Lock(), "files": [file]}).eval()
        graph = lp.trace(model, EXAMPLE)

        small: Any = lp.cut(model, graph, a_plan(graph))

    assert small.held["files"][0] is file
    assert small.held is not model.held


def test_what_lies_beside_a_lock_is_copied() -> None:
    model = Holding(Holder())

    twin: Any = copied(model)

    assert twin.held.lock is model.held.lock
    assert twin.held.seen is not model.held.seen
    assert all(a is not b for a, b in zip(twin.parameters(), model.parameters(), strict=True))


def test_a_copy_runs_its_own_layers_and_hooks_where_one_keeps_a_lock() -> None:
    model = Ordered()

    twin = copied(model)
    twin(EXAMPLE)

    assert twin.order[0] is twin.first is not model.first
    assert (twin.count, model.count) == (1, 0)
    assert lp.trace(model.eval(), EXAMPLE).widths == {"first": 8}


def test_what_leads_in_circles_to_a_lock_is_copied() -> None:
    first, second = Holder(), Holder()
    first.seen, second.seen = second, first  # type: ignore[assignment]
    second.lock = first.lock

    twin: Any = copied(Holding([second, first]))

    assert twin.held[0].seen is twin.held[1] is not first
    assert twin.held[1].lock is first.lock


def test_a_copy_draws_for_itself() -> None:
    model = Holding([threading.Lock(), torch.Generator().manual_seed(3)])
    before = model.held[1].get_state()

    twin: Any = copied(model)
    torch.rand(3, generator=twin.held[1])

    assert torch.equal(model.held[1].get_state(), before)


def test_a_module_that_refuses_is_named() -> None:
    model = nn.Sequential(networks.Plain(), nn.Sequential(Refusing()))

    with pytest.raises(lp.CannotCopy, match=r"1\.0, a Refusing, .* there is but one of me"):
        lp.trace(model, EXAMPLE)
