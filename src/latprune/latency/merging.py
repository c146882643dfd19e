"""Several tables of one target become one; nothing that was measured is lost.

Every table is at the pace that the machine had when it was begun, by its sentinel: all are brought
to the quickest of them. Of a layer or network that several tables then hold, the measurement with
the most runs stays; of equal ones the one with the smallest spread, so that the order of the tables
does not matter.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from latprune.errors import StaleTable
from latprune.latency.journal import alone
from latprune.latency.sentinel import SENTINEL
from latprune.latency.table import LatencyTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from latprune.graph.layers import LayerShape
    from latprune.latency.table import Cut
    from latprune.latency.target import Target
    from latprune.latency.timing import Measurement

    Key = TypeVar("Key")


@dataclass(frozen=True)
class Conflict:
    """Something that was measured twice, differently.

    Attributes:
        what: The layer, or the key of a whole network.
        kept: The measurement that stays.
        dropped: The one that does not.
    """

    what: LayerShape | str
    kept: Measurement
    dropped: Measurement

    @property
    def ratio(self) -> float:
        """The larger of both times over the smaller one."""
        times_ms = (self.kept.median_ms, self.dropped.median_ms)
        return max(times_ms) / min(times_ms)


@dataclass(frozen=True, eq=False)
class Merged:
    """Several tables in one.

    Attributes:
        table: In memory.
        paces: Per table the factor that its times were multiplied by; None: it has no sentinel,
            and they stayed.
        conflicts: What several tables held with different times, at one pace.
    """

    table: LatencyTable
    paces: tuple[float | None, ...]
    conflicts: tuple[Conflict, ...]


def merge(first: LatencyTable, *others: LatencyTable) -> Merged:
    """Join tables of one target.

    Args:
        first: A table; what it holds comes first.
        others: Tables of the same target.

    Returns:
        A table in memory, and what had to be chosen between.

    Raises:
        StaleTable: If the tables are not of one target; it names the fields that differ.
    """
    tables = (first, *others)
    for table in others:
        check_same_target(first.target, table.target)
    sentinel, paces = _paces(tables)
    conflicts: list[Conflict] = []
    layers = _join([_at(pace, table) for pace, table in zip(paces, tables, strict=True)], conflicts)
    networks = _join(
        [_at(pace, table.networks) for pace, table in zip(paces, tables, strict=True)], conflicts
    )
    # What is kept of a cut is its ratio to the dense network: no pace changes that.
    cuts = _join_cuts([table.every_cut for table in tables])
    joined = LatencyTable.of(first.target, sentinel | layers, networks=networks, every_cut=cuts)
    return Merged(joined, paces, tuple(conflicts))


def merge_files(paths: Sequence[Path], out: Path) -> Merged:
    """Join the tables in files into one file, which is there in full or not at all.

    Whoever is killed in the middle of it leaves every file as it was. If `out` is one of the files
    and something is added to it meanwhile, that is joined, too; while `measure` is at work on it,
    it is not replaced: what comes would be at the pace of before.

    Args:
        paths: Tables of one target.
        out: The file to write; it may be one of them, and is replaced.

    Raises:
        DamagedTable: If a file cannot be read.
        StaleTable: If the tables are not of one target; it names the fields that differ.
        TableInUse: If `measure` is at work on `out`.
    """
    place = out.resolve()
    while True:
        before = _stamp(place)
        merged = merge(*map(LatencyTable.read, paths))
        with _beside(place) as temporary:
            merged.table.write(temporary)
            with alone(place):
                if _stamp(place) == before:
                    temporary.replace(place)
                    return merged


def check_same_target(first: Target, second: Target) -> None:
    """Refuse two targets that differ.

    Raises:
        StaleTable: It names both, and the fields that differ.
    """
    differ = different_fields(first, second)
    if differ:
        raise StaleTable(
            f"only tables of one target can be joined, and these differ in {_and(differ)}: one is "
            f"of {first.describe()}, another of {second.describe()}. `latprune table diff` "
            "compares them.",
            fields=differ,
        )


def different_fields(first: Target, second: Target) -> list[str]:
    """Give the names of the fields in which two targets differ."""
    one, other = first.to_json(), second.to_json()
    return [name for name in one if one[name] != other[name]]


def _and(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _paces(
    tables: Sequence[LatencyTable],
) -> tuple[dict[LayerShape, Measurement], tuple[float | None, ...]]:
    """The quickest sentinel, if there is any, and what brings every table to its pace."""
    known = [table[SENTINEL] for table in tables if SENTINEL in table]
    if not known:
        return {}, (None,) * len(tables)
    quickest = min(known, key=lambda one: (one.median_ms, *(-worth for worth in _worth(one))))
    own = (table.get(SENTINEL) for table in tables)
    paces = (quickest.median_ms / one.median_ms if one else None for one in own)
    return {SENTINEL: quickest}, tuple(paces)


def _at(pace: float | None, held: Mapping[Key, Measurement]) -> dict[Key, Measurement]:
    return {key: found.scaled(pace or 1.0) for key, found in held.items() if key != SENTINEL}


def _join(
    parts: Sequence[Mapping[Key, Measurement]], conflicts: list[Conflict]
) -> dict[Key, Measurement]:
    joined: dict[Key, Measurement] = {}
    for part in parts:
        for key, found in part.items():
            known = joined.setdefault(key, found)
            if known != found:
                kept, dropped = sorted((known, found), key=_worth, reverse=True)
                joined[key] = kept
                conflicts.append(Conflict(key, kept, dropped))  # type: ignore[arg-type]
    return joined


def _worth(measurement: Measurement) -> tuple[float, ...]:
    return measurement.runs, -measurement.iqr_ms, -measurement.median_ms


def _join_cuts(parts: Sequence[Mapping[str, Sequence[Cut]]]) -> dict[str, list[Cut]]:
    joined: dict[str, list[Cut]] = {}
    for part in parts:
        for key, cuts in part.items():
            known = joined.setdefault(key, [])
            known.extend(cut for cut in cuts if cut not in known)
    return joined


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Lend the name of a file in the same folder; what is left of it is deleted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
