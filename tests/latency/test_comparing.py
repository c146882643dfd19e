"""Another speed of the whole machine is told from layers that disagree."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latprune.latency.comparing import Pair, Ratios, diff, most_different
from latprune.latency.table import LatencyTable
from latprune.latency.timing import Measurement
from tests.latency.synthetic import TARGET, Processor, conv

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = [conv(8, width, kernel=kernel) for kernel in (1, 3) for width in range(1, 31)]


def table_of(change: Callable[[int], float]) -> LatencyTable:
    """What the processor takes, each layer slowed down by a factor of its own."""
    table = LatencyTable(TARGET)
    for index, shape in enumerate(SHAPES):
        table.add(shape, Measurement(Processor().ms(shape) * change(index), 0.0, 10))
    return table


@given(st.floats(0.1, 10))
def test_a_machine_that_is_slower_as_a_whole_has_one_ratio(factor: float) -> None:
    found = diff(table_of(lambda _: 1.0), table_of(lambda _: factor))

    ratios = Ratios.of(found.layers)
    assert ratios.median == pytest.approx(factor)
    assert ratios.total == pytest.approx(factor)
    assert ratios.spread == pytest.approx(0, abs=1e-9)
    assert found.by_kind.keys() == {"conv"}


def test_layers_in_one_table_alone_are_counted_and_not_compared() -> None:
    one, other = LatencyTable(TARGET), LatencyTable(replace(TARGET, threads=2))
    for table, widths in ((one, (1, 2, 3)), (other, (3, 4))):
        for width in widths:
            table.add(conv(8, width), Measurement(1.0, 0.0, 1))

    found = diff(one, other)

    assert [pair.what for pair in found.layers] == [conv(8, 3)]
    assert (found.only_first, found.only_second) == (2, 1)
    assert found.to_json()["different"] == ["threads"]


@pytest.mark.parametrize("finer_first", [True, False])
def test_layers_that_one_table_tells_apart_are_each_compared(finer_first: bool) -> None:
    by_neighbours = LatencyTable(replace(TARGET, runtime="openvino", precision="int8"))
    alone = LatencyTable(replace(TARGET, runtime="openvino"))
    variants = [conv(8, 3), replace(conv(8, 3), rectified=True)]
    for shape in (*variants, conv(8, 4)):
        by_neighbours.add(shape, Measurement(1.0, 0.0, 1))
    alone.add(conv(8, 3), Measurement(2.0, 0.0, 1))

    tables = (by_neighbours, alone) if finer_first else (alone, by_neighbours)
    found = diff(*tables)

    assert [pair.what for pair in found.layers] == variants
    assert (found.only_first, found.only_second) == ((1, 0) if finer_first else (0, 1))


def test_tables_without_a_common_layer_have_no_ratio() -> None:
    found = diff(LatencyTable(TARGET), table_of(lambda _: 1.0))

    assert found.to_json()["ratios"] is None
    with pytest.raises(ValueError, match="no pairs"):
        Ratios.of(found.layers)


def test_the_most_different_layer_is_far_from_what_all_share() -> None:
    slower = table_of(lambda index: 4.0 if index == 7 else 8.0)

    found = most_different(diff(table_of(lambda _: 1.0), slower).layers)

    assert found[0].what == SHAPES[7]
    assert most_different([]) == []


def test_a_ratio_is_second_over_first() -> None:
    pair = Pair(SHAPES[0], Measurement(2.0, 0.0, 1), Measurement(3.0, 0.0, 1))

    assert pair.ratio == 1.5
    assert Ratios.of([pair]).total == 1.5
