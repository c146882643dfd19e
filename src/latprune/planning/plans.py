"""A plan says which channels stay, and what the network is predicted to take without the others."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from latprune.knapsack import relative_gap
from latprune.latency.target import Target
from latprune.planning.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Promise:
    """What a plan was predicted to take on one more target.

    Attributes:
        target: Where the latencies were measured.
        budget: What was asked for.
        budget_ms: The same, in ms.
        baseline_ms: The dense network, measured.
        rest_ms: What no layer's table covers.
        predicted_ms: The pruned network.
    """

    target: Target
    budget: Budget
    budget_ms: float
    baseline_ms: float
    rest_ms: float
    predicted_ms: float

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return {
            **vars(self),
            "target": self.target.to_json(),
            "budget": self.budget.to_json(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Promise:
        """Read what `to_json` gave."""
        read = {
            "target": Target.from_json(fields["target"]),
            "budget": Budget.from_json(fields["budget"]),
        }
        return cls(**{**fields, **read})


@dataclass(frozen=True)
class Plan:
    """Which channels stay, and what that was predicted to give.

    Attributes:
        kept: Per group, every one of the graph's, the channels that stay, ascending.
        target: Where the latencies were measured.
        budget: What was asked for.
        budget_ms: The same, in ms.
        baseline_ms: The dense network, measured.
        rest_ms: What no layer's table covers; part of `predicted_ms`. Below 0 where the layers
            one by one take longer than the whole network.
        predicted_ms: The pruned network.
        value: Saliency kept.
        bound: No network within the budget keeps more.
        dense_value: Saliency of all channels that there were to choose among.
        solver: What chose the widths.
        criterion: What scored the channels.
        price_ms: Saliency that one more ms would buy, at the margin: a tenth of it is what the
            next 0.1 ms buy. NaN where the solver does not know it.
        also: The other targets, where the network was planned for several.
    """

    kept: Mapping[str, tuple[int, ...]]
    target: Target
    budget: Budget
    budget_ms: float
    baseline_ms: float
    rest_ms: float
    predicted_ms: float
    value: float
    bound: float
    dense_value: float
    solver: str
    criterion: str
    price_ms: float = math.nan
    also: tuple[Promise, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<Plan: {sum(self.widths.values())} channels in {len(self.kept)} groups, predicted to "
            f"take {self.predicted_ms:.4g} of {self.baseline_ms:.4g} ms, budget {self.budget}>"
        )

    @property
    def widths(self) -> dict[str, int]:
        """How many channels of each group stay."""
        return {group: len(channels) for group, channels in self.kept.items()}

    @property
    def gap(self) -> float:
        """The share of the bound that the plan is not proven to reach: (bound − value) / bound."""
        return relative_gap(self.value, self.bound)

    def on(self, promise: Promise) -> Plan:
        """Give the same plan as seen from one of its further targets."""
        return replace(self, **vars(promise), price_ms=math.nan, also=())

    def to_json(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return {
            **vars(self),
            "kept": {group: list(channels) for group, channels in self.kept.items()},
            "target": self.target.to_json(),
            "budget": self.budget.to_json(),
            "price_ms": None if math.isnan(self.price_ms) else self.price_ms,
            "also": [promise.to_json() for promise in self.also],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Plan:
        """Read what `to_json` gave, after a trip through JSON text."""
        price_ms = fields.get("price_ms")
        read = {
            "kept": {group: tuple(channels) for group, channels in fields["kept"].items()},
            "target": Target.from_json(fields["target"]),
            "budget": Budget.from_json(fields["budget"]),
            "price_ms": math.nan if price_ms is None else price_ms,
            "also": tuple(Promise.from_json(stored) for stored in fields.get("also", ())),
        }
        return cls(**{**fields, **read})
