"""The loop ends within the budget on the clock, though the layers' sum does not predict it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import latprune as lp
from latprune.fitting import AIM, _decided
from latprune.latency.timing import Comparison, Measurement
from tests.networks import ConvNorm, Head
from tests.synthetic import Synthetic

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = torch.zeros(1, 3, 16, 16)


class Network(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            ConvNorm(3, 32), ConvNorm(32, 64), ConvNorm(64, 64), ConvNorm(64, 48), Head(48)
        )


def fitted(
    runtime: Synthetic, budget: lp.Budget, folder: Path, patch: pytest.MonkeyPatch
) -> lp.Fitted:
    runtime.install(patch)
    model = Network().eval()
    graph = lp.trace(model, EXAMPLE)
    table = lp.measure(model, graph, EXAMPLE, lp.Target.here("synthetic"), folder=folder)
    return lp.fit(model, graph, EXAMPLE, table, lp.magnitude(model, graph), budget, folder=folder)


@pytest.mark.parametrize("fraction", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("runtime", [Synthetic(), Synthetic(whole=1.3), Synthetic(rest_ms=0.2)])
def test_a_share_of_the_dense_time_is_met_and_used(
    runtime: Synthetic, fraction: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fitted(runtime, lp.Budget(fraction=fraction), tmp_path, monkeypatch)

    assert 0.9 <= found.used <= 1  # five widths make coarse steps
    assert found.comparison.ratio == pytest.approx(fraction * found.used)


def test_milliseconds_are_met_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Synthetic(whole=0.8, rest_ms=0.1)
    dense_ms = runtime.network_ms(Network(), EXAMPLE)

    found = fitted(runtime, lp.Budget(ms=0.6 * dense_ms), tmp_path, monkeypatch)

    assert 0.9 <= found.comparison.small.median_ms / (0.6 * dense_ms) <= 1


def test_a_network_that_fits_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fitted(Synthetic(), lp.Budget(fraction=1.5), tmp_path, monkeypatch)

    assert found.is_dense
    assert found.rounds == 1


def test_an_impossible_budget_names_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lp.BudgetTooSmall) as caught:
        fitted(Synthetic(rest_ms=0.5), lp.Budget(ms=0.4), tmp_path, monkeypatch)

    assert caught.value.floor_ms > 0.5


def test_a_slower_network_is_never_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Perverse(Synthetic):
        """Whatever is cut makes the network a little slower."""

        def network_ms(self, model: nn.Module, example: torch.Tensor) -> float:  # type: ignore[override]
            dense_ms = super().network_ms(Network(), example)
            return dense_ms * (1.0 if super().network_ms(model, example) == dense_ms else 1.001)

    found = fitted(Perverse(), lp.Budget(fraction=0.99), tmp_path, monkeypatch)

    assert found.is_dense
    assert found.comparison.ratio == 1


def compared(used: float, *, spread: float, rounds: int) -> Comparison:
    """A comparison of networks, the budget being half of the dense one."""
    small = Measurement(5.0 * used, 0.1, rounds)
    error = 0.93 * spread / rounds**0.5
    return Comparison(Measurement(10.0, 0.1, rounds), small, 0.5 * used, 0.5 * spread, 0.5 * error)


@pytest.mark.parametrize(
    ("used", "spread", "rounds", "clear"),
    [
        (AIM, 0.001, 10, True),  # near, and well known
        (AIM, 0.1, 10, False),  # near, as far as one can say
        (AIM - 0.05, 0.03, 10, True),  # far, beyond doubt
        (AIM - 0.015, 0.05, 10, False),  # perhaps far
        (AIM - 0.015, 0.05, 10_000, True),  # far, after many rounds
    ],
)
def test_a_network_is_timed_until_it_is_clear_whether_it_is_near(
    used: float, spread: float, rounds: int, clear: bool
) -> None:
    found = compared(used, spread=spread, rounds=rounds)

    assert _decided(lp.Budget(fraction=0.5), found) is clear
