"""Problems as `latprune.framing.frame` makes them, in files of a few hundred kilobytes.

A file is a numpy archive without pickled objects. Values and costs are float32 and equal tables are
there once; of a table that says which widths add up there is only what it adds up. `about` is JSON
text and says where the numbers come from.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latprune.knapsack import Choice, Problem, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDER = Path(__file__).resolve().parent / "problems"
NO_VARIABLE = -1


def stored_problems(pattern: str = "*") -> list[Path]:
    return sorted(FOLDER.glob(f"{pattern}.npz"))


def load_problem(path: Path, share: float) -> Problem:
    """Read a problem; its budget is a share of what the dense network's layers cost."""
    with np.load(path, allow_pickle=False) as stored:
        problem = _problem(stored)
    return replace(problem, budget_ms=share * dense(problem).cost_ms)


def load_about(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as stored:
        about: dict[str, Any] = json.loads(str(stored["about"]))
    return about


def save_problem(path: Path, problem: Problem, about: Mapping[str, Any]) -> None:
    """Write a problem, without its budget.

    Raises:
        ValueError: If it would not be read back: it has more than layers and plain sums of two.
    """
    groups = [widths for widths in problem.widths if widths is not None]
    layers = [table for table in problem.tables if not _adds_up(table)]
    sums = [table.scope[:2] for table in problem.tables if _adds_up(table)]
    costs = {_key(table): table.cost_ms.ravel() for table in layers}
    arrays = {
        "about": np.array(json.dumps(dict(about))),
        "options": np.array([len(widths) for widths in groups]),
        "widths": np.concatenate(groups).astype(np.int32),
        "values": np.concatenate(problem.values[: len(groups)]).astype(np.float32),
        "sums": np.array(sums, dtype=np.int32).reshape(-1, 2),
        "scopes": np.array([_padded(table.scope) for table in layers], dtype=np.int32),
        "writes": np.array([table.writes is not None for table in layers]),
        "which": np.array([list(costs).index(_key(table)) for table in layers]),
        "costs": np.concatenate(list(costs.values())).astype(np.float32),
    }
    if not alike(_problem(arrays), problem):
        raise ValueError(f"{path.name}: only layers and plain sums of two can be kept in a file")
    np.savez_compressed(path, allow_pickle=False, **arrays)


def dense(problem: Problem) -> Choice:
    """Keep everything, whatever the budget."""
    return Choice.of(problem, [options - 1 for options in problem.sizes])


def alike(one: Problem, other: Problem) -> bool:
    """Whether two problems differ in nothing but the budget, in single precision."""
    pairs = [
        *zip(one.values, other.values, strict=False),
        *((a.cost_ms, b.cost_ms) for a, b in zip(one.tables, other.tables, strict=False)),
    ]
    return (
        [(table.scope, table.writes, table.target) for table in one.tables]
        == [(table.scope, table.writes, table.target) for table in other.tables]
        and [None if w is None else w.tolist() for w in one.widths]
        == [None if w is None else w.tolist() for w in other.widths]
        and all(np.array_equal(a.astype(np.float32), b.astype(np.float32)) for a, b in pairs)
    )


def _problem(stored: Mapping[str, np.ndarray]) -> Problem:
    """Make the problem that arrays describe; everything fits its budget."""
    ends = np.cumsum(stored["options"])[:-1]
    groups = np.split(stored["widths"], ends)
    values = np.split(stored["values"], ends)
    widths, ties = list(groups), []
    for first, second in stored["sums"].tolist():
        totals = np.add.outer(widths[first], widths[second])
        sums = np.unique(totals)
        allowed = np.where(totals[:, :, None] == sums, 0.0, np.inf)
        ties.append(Table((first, second, len(widths)), allowed))
        widths.append(sums)
        values.append(np.zeros(len(sums)))
    return Problem(
        values=values,
        tables=[*_layers(stored, [len(options) for options in widths]), *ties],
        budget_ms=math.inf,
        widths=[*groups, *(None for _ in ties)],
    )


def _layers(stored: Mapping[str, np.ndarray], sizes: Sequence[int]) -> list[Table]:
    """Give the tables of layers; `which` numbers the different ones in the order of `costs`."""
    scopes = [tuple(v for v in scope if v != NO_VARIABLE) for scope in stored["scopes"].tolist()]
    shapes = [tuple(sizes[v] for v in scope) for scope in scopes]
    shape_of = dict(zip(stored["which"].tolist(), shapes, strict=True))
    ends = list(itertools.accumulate(math.prod(shape_of[n]) for n in range(len(shape_of))))
    costs = np.split(stored["costs"], ends[:-1])
    return [
        Table(scope, costs[number].reshape(shape), writes=-1 if writes else None)
        for scope, shape, number, writes in zip(
            scopes, shapes, stored["which"].tolist(), stored["writes"].tolist(), strict=True
        )
    ]


def _adds_up(table: Table) -> bool:
    """Whether a table only says which widths add up to which."""
    return len(table.scope) == 3 and not table.cost_ms[np.isfinite(table.cost_ms)].any()


def _key(table: Table) -> tuple[tuple[int, ...], bytes]:
    return table.cost_ms.shape, table.cost_ms.tobytes()


def _padded(scope: Sequence[int]) -> tuple[int, int]:
    first, second = (*scope, NO_VARIABLE, NO_VARIABLE)[:2]
    return first, second
