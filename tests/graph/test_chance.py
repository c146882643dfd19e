"""Networks that draw random numbers in evaluation are cut like others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latprune.graph.tracing import trace
from tests.graph.test_tracing import EXAMPLE
from tests.networks import Head


class Drawing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), Head(6)
        self.strength = nn.Parameter(torch.full((8, 1, 1), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.noisy(self.stem(x)).relu()).relu())  # type: ignore[no-any-return]

    def noisy(self, x: torch.Tensor) -> torch.Tensor:
        """As StyleGAN's generator does."""
        return x + self.strength * torch.randn(len(x), 1, *x.shape[2:], device=x.device)


class Sampling(Drawing):
    """As a variational autoencoder does."""

    def noisy(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x) * (x / 2).exp()


class Dropping(Drawing):
    """As Monte Carlo dropout does."""

    def noisy(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(F.dropout2d(x, 0.2, training=True), 0.2, training=True)


@pytest.mark.parametrize("network", [Drawing, Sampling, Dropping])
def test_a_network_that_draws_is_cut_and_the_callers_numbers_stay(network: type[Drawing]) -> None:
    before = torch.get_rng_state()
    model = network()
    torch.set_rng_state(before)

    graph = trace(model, EXAMPLE)

    assert graph.widths == {"stem": 8, "body": 6}
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_wrong_beside_random_numbers_is_still_found() -> None:
    class Mistaken(Sampling):
        def noisy(self, x: torch.Tensor) -> torch.Tensor:
            return super().noisy(x) * len(self.stem.weight)

    graph = trace(Mistaken(), EXAMPLE)

    assert graph.widths == {"body": 6}
    assert any("it draws random numbers" in frozen.reason for frozen in graph.frozen)


def test_generators_of_accelerators_that_the_model_is_not_on_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)

    trace(Sampling(), EXAMPLE, branches=True)

    assert not seeded


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_callers_numbers_stay_where_the_model_is_on_a_gpu() -> None:
    torch.cuda.manual_seed(1)
    before = torch.cuda.get_rng_state()

    graph = trace(Sampling().cuda(), EXAMPLE.cuda())

    assert graph.widths == {"stem": 8, "body": 6}
    assert torch.equal(before, torch.cuda.get_rng_state())
