"""Facts come back from JSON as they were, or are refused."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latprune.gradual.facts import KIND, decoded, encoded

KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.just(KIND)
FACTS = st.recursive(
    KEYS | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.lists(st.integers()).map(Counter)
    ),
)


@given(FACTS)
def test_facts_come_back_as_they_were(fact: Any) -> None:
    again = decoded(json.loads(json.dumps(encoded(fact))))

    assert again == fact
    assert type(again) is type(fact)


def test_a_schedule_with_milestones_goes_on_falling() -> None:
    def schedule() -> torch.optim.lr_scheduler.MultiStepLR:
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        falling = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4], gamma=0.1)
        optimizer.step()
        return falling

    first, second = schedule(), schedule()
    first.step()
    second.load_state_dict(decoded(json.loads(json.dumps(encoded(first.state_dict())))))
    for _ in range(4):
        first.step()
        second.step()

    assert second.get_last_lr() == first.get_last_lr() == pytest.approx([0.01])


@pytest.mark.parametrize("fact", [torch.ones(2), {1, 2}, object()])
def test_what_would_not_come_back_is_refused(fact: object) -> None:
    with pytest.raises(TypeError, match=r"the facts\['best'\]\[1\] is a .*, which is not kept"):
        encoded({"best": [0, fact]})
