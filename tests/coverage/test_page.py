"""The page says what the records hold, and the bars what was missed."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.coverage.page import bars, outcome, page

GOOD: dict[str, Any] = {
    "family": "ResNet",
    "date": "2026-01-02",
    "code": "abc",
    "forward_s": 0.5,
    "trace_s": 1.5,
    "groups": 3,
    "macs_prunable": 0.75,
    "layers": 20,
    "layers_cut": 19,
    "holds": "exact",
    "trains": True,
    "round_trip": True,
    "onnx": True,
    "frozen": [{"reason": "a | b", "where": "x", "places": 1, "channels": 5}],
}
VERSIONS = {"torch": "1.2.3"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "exact"),
        ({"holds": "structure"}, "structure"),
        ({"holds": "wrong"}, "wrong"),
        ({"failures": {"onnx": "no"}}, "exact"),
        ({"failures": {"trace": "UntraceableModel: no"}}, "crash"),
        ({"failures": {"judge": "MemoryError: no message"}}, "unfinished"),
    ],
)
def test_an_outcome_is_one_word(changes: dict[str, Any], expected: str) -> None:
    assert outcome({**GOOD, **changes}) == expected


def test_a_network_without_groups_is_whole_and_one_that_was_stopped_unfinished() -> None:
    assert outcome({"groups": 0, "frozen": []}) == "whole"
    assert outcome({"stage": "trace", "stopped": "after 9 s"}) == "unfinished"
    assert outcome({"stage": "onnx", "holds": "exact", "stopped": "after 9 s"}) == "exact"


def written(records: dict[str, Any], *also_listed: str) -> str:
    document = {"versions": VERSIONS, "networks": records}
    return page(document, listed=[*records, *also_listed])


def held(records: list[dict[str, Any]]) -> list[bool]:
    return [is_held for _, is_held in bars(records)]


def test_each_bar_is_missed_by_what_it_forbids() -> None:
    nineteen = [GOOD] * 19

    assert held([GOOD]) == [True] * 5
    assert held([*nineteen, {**GOOD, "holds": "wrong"}]) == [False, True, True, True, True]
    assert held([*nineteen, {"failures": {"cut": "no"}}]) == [True, False, True, True, True]
    assert held([*nineteen[:9], {"groups": 0}]) == [True, True, False, True, True]
    assert held([{**GOOD, "trace_s": 31.0}]) == [True, True, True, True, False]
    assert held([GOOD] * 8 + [{**GOOD, "layers_cut": 17}] * 2) == [True, True, True, False, True]


def test_the_page_shows_every_network_and_what_failed() -> None:
    records = {
        "timm:good": GOOD,
        "timm:bad": {**GOOD, "holds": "wrong", "why": "outputs change by 1"},
    }

    text = written(records)

    assert "| good | exact | 95% | 75% | yes | yes | yes | 1.5 s, 3x |" in text
    assert "- `timm:bad` outputs change by 1" in text
    assert "- **missed**: no network is cut wrongly: 1 of 2 are" in text
    assert "a \\| b" in text
    assert "torch 1.2.3" in text
    assert "Of the 1 that are cut right, 1 train, 1 come back" in text


def test_the_page_names_what_was_not_examined() -> None:
    assert "1 were not examined yet, and count nowhere here: `timm:other`" in written(
        {"timm:good": GOOD}, "timm:other"
    )
    assert "not examined" not in written({"timm:good": GOOD})


def test_records_of_several_states_of_the_code_are_said_to_be() -> None:
    mixed = {"timm:one": GOOD, "timm:two": {**GOOD, "code": "def"}}

    assert "2 states of the code" in written(mixed)
    one = {"timm:one": GOOD}
    assert "states of the code" not in written(one)
