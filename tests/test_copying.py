"""Networks that keep what cannot be copied are cut all the same, or the error says what it is."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import latprune as lp
from latprune.modes import copied
from tests import networks
from tests.test_surgery import EXAMPLE, a_plan

if TYPE_CHECKING:
    from collections.abc import Callable


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


class Watched(nn.Module):
    """Has a second head on what a hook keeps of the middle."""

    def __init__(self, register: Callable[[Watched, Any], None]) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.head, self.second = nn.Conv2d(6, 4, 1), nn.Conv2d(8, 2, 1)
        self.seen: dict[str, torch.Tensor] = {}
        register(self, self.stem)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y: torch.Tensor = self.head(self.body(self.stem(x)))
        return y, self.second(self.seen["stem"])


def by_closure(model: Watched, stem: Any) -> None:
    stem.register_forward_hook(lambda _, __, y: model.seen.update(stem=y))


def by_closure_of_a_dict(model: Watched, stem: Any) -> None:
    seen = model.seen

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, y: torch.Tensor) -> None:
            seen[name] = y

        return hook

    stem.register_forward_hook(keep("stem"))


def by_default(model: Watched, stem: Any) -> None:
    stem.register_forward_hook(lambda _, __, y, to=model.seen: to.update(stem=y))


SEEN: dict[str, torch.Tensor] = {}


def by_global(model: Watched, stem: Any) -> None:
    model.seen = SEEN
    stem.register_forward_hook(lambda _, __, y: SEEN.update(stem=y))


def by_another_forward(model: Watched, stem: Any) -> None:
    run = stem.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = run(x)
        model.seen["stem"] = y
        return y

    stem.forward = forward


def by_partial(model: Watched, stem: Any) -> None:
    def keep(name: str, _: nn.Module, __: object, y: torch.Tensor) -> None:
        model.seen[name] = y

    stem.register_forward_hook(partial(keep, "stem"))


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


@pytest.mark.parametrize(
    "register",
    [by_closure, by_closure_of_a_dict, by_default, by_global, by_another_forward, by_partial],
)
def test_a_cut_network_reads_what_its_own_hooks_keep(
    register: Callable[[Watched, Any], None],
) -> None:
    model = Watched(register).eval()
    model(EXAMPLE)  # so that there is something old to be read
    graph = lp.trace(model, EXAMPLE)

    small: Any = lp.cut(model, graph, a_plan(graph))
    other = torch.rand(1, 3, 20, 20)

    assert set(graph.widths) == {"stem", "body"}
    assert torch.equal(small(other)[1], small.second(small.stem(other)))


def test_functions_of_a_copy_share_what_those_of_the_model_share() -> None:
    model = nn.Sequential(nn.Identity(), nn.Identity())
    runs = 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += len(model)

    def told() -> int:
        return runs + 0 * len(model)

    model[0].register_forward_hook(count)
    model.told = told  # type: ignore[assignment]

    twin: Any = copied(model)
    twin(EXAMPLE)

    assert (twin.told(), told()) == (2, 0)
