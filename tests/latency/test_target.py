from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from latprune.latency.runtimes import get_runtime
from latprune.latency.target import Target

HERE = Target.here("eager")


def test_here_names_this_machine_and_the_runtimes_own_version() -> None:
    target = Target.here("onnxruntime", threads=2)

    assert target.device == HERE.device != ""
    assert target.runtime_version == get_runtime("onnxruntime").version()
    assert (target.precision, target.batch, target.threads) == ("fp32", 1, 2)


@pytest.mark.parametrize("name", [field.name for field in fields(Target)])
def test_a_change_of_any_field_changes_the_fingerprint(name: str) -> None:
    value = getattr(HERE, name)
    change: Any = {name: value + 1 if isinstance(value, int) else f"{value}x"}
    other = replace(HERE, **change)

    assert other.fingerprint != HERE.fingerprint
    assert other.describe() != HERE.describe()


def test_the_fingerprint_is_twelve_hexadecimal_digits() -> None:
    assert len(HERE.fingerprint) == 12
    int(HERE.fingerprint, 16)


def test_a_target_survives_a_trip_through_json_text() -> None:
    assert Target.from_json(json.loads(json.dumps(HERE.to_json()))) == HERE


@pytest.mark.parametrize(
    "change", [{"batch": "1"}, {"device": 3}, {"colour": "red"}], ids=["text", "number", "unknown"]
)
def test_a_damaged_target_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="target"):
        Target.from_json({**HERE.to_json(), **change})


def test_a_precision_that_the_runtime_lacks_is_refused_with_those_it_offers() -> None:
    with pytest.raises(ValueError, match="'int8' here; it offers fp32"):
        Target.here("eager", precision="int8")


def test_an_unknown_runtime_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="'tflite'; known: compile, compile-cuda, eager"):
        Target.here("tflite")


@pytest.mark.parametrize("name", ["batch", "threads"])
def test_nothing_runs_on_less_than_one(name: str) -> None:
    change: Any = {name: 0}

    with pytest.raises(ValueError, match="at least 1"):
        replace(HERE, **change)
