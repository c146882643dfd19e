"""A network's widths as variables and its layers' costs as tables over them.

Every channel group is a variable, and groups that are tied are one. An axis that several share,
such as the input of a layer behind a concatenation, is an auxiliary variable: the sum of their
channels, or the product where those of one lie within each of another's. Long sums are chains of
partial sums, shared between layers that read the same beginning, so that every table is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latprune.errors import ProblemTooDense
from latprune.knapsack import Problem, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from latprune.graph.groups import Branch, PruningGraph
    from latprune.graph.layers import Layer, Width

    Cost = Callable[[Layer, np.ndarray, np.ndarray], np.ndarray]

# Terms of a sum: pairs (group or two that cross, channels of the axis per channel or pair of them).
Terms = tuple[tuple[tuple[str, ...], int], ...]

# One table that says which widths add up to which sum.
MOST_TABLE_MIB = 512.0


@dataclass(frozen=True, eq=False)
class Framing:
    """A network as variables and tables; a budget and values make it a `Problem`.

    Attributes:
        grouped: Per variable, the first ones, what every option is for its group, or its tied
            groups, by name: int [options]. In the graph's order.
        channels: Per variable an int array [options], ascending: the width of a group or of
            several tied ones together, or the sum or product that an auxiliary variable stands for.
        tables: Costs, and 0 or inf where widths must add up or multiply.
    """

    grouped: tuple[Mapping[str, np.ndarray], ...]
    channels: tuple[np.ndarray, ...]
    tables: tuple[Table, ...]

    def problem(
        self,
        values: Mapping[str, np.ndarray],
        *,
        budget_ms: float,
        further_ms: Sequence[float] = (),
    ) -> Problem:
        """Give what a solver solves.

        Args:
            values: Per group, what each number of channels is worth: [channels + 1].
            budget_ms: For the layers alone.
            further_ms: The same for targets 1, 2, ….
        """
        auxiliary = self.channels[len(self.grouped) :]
        return Problem(
            values=[
                *(
                    np.sum([values[name][widths] for name, widths in groups.items()], axis=0)
                    for groups in self.grouped
                ),
                *(np.zeros(len(sums)) for sums in auxiliary),
            ],
            tables=self.tables,
            budget_ms=budget_ms,
            further_ms=further_ms,
            widths=[*self.channels[: len(self.grouped)], *(None for _ in auxiliary)],
        )

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of all groups, variable by variable."""
        return tuple(name for groups in self.grouped for name in groups)

    @property
    def dense(self) -> tuple[int, ...]:
        """The picks that keep everything."""
        return tuple(len(options) - 1 for options in self.channels)

    def widths(self, picks: Sequence[int]) -> dict[str, int]:
        """Give the groups' widths at these picks."""
        return {
            name: int(widths[pick])
            for groups, pick in zip(self.grouped, picks, strict=False)
            for name, widths in groups.items()
        }


def frame(
    graph: PruningGraph,
    options: Mapping[str, np.ndarray],
    cost: Cost,
    *,
    further: Sequence[Cost] = (),
) -> Framing:
    """Make every layer a table over the widths that it reads and writes.

    Args:
        graph: The layers and the channel groups that their widths follow.
        options: Per group the widths allowed, ascending; 0 in all groups of a branch that can go.
            Those of tied groups go together, one by one.
        cost: Gives a layer's milliseconds [in widths, out widths] at int arrays of channels read
            and written, all above 0; inf where a layer cannot have both. Layers of the same shape
            cost the same.
        further: The same for targets 1, 2, ….

    Raises:
        ProblemTooDense: If a concatenation can be so many channels wide that the table of its
            sums would be too large.
    """
    axes = _Axes(graph, options)
    prices = [_priced_once(cost) for cost in (cost, *further)]
    removable = [branch for branch in graph.branches if not options[branch.groups[0]][0]]
    branch_of = {layer: axes.variable_of[b.groups[0]] for b in removable for layer in b.layers}
    layers = [
        _layer(layer, axes, price, goes_with=branch_of.get(layer.name))._replace(target=target)
        for target, price in enumerate(prices)
        for layer in graph.layers
    ]
    return Framing(
        grouped=tuple(axes.grouped),
        channels=tuple(axes.channels),
        tables=(*layers, *axes.sums, *_together(removable, axes)),
    )


def _priced_once(cost: Cost) -> Cost:
    """Remember prices: networks repeat their blocks."""
    known: dict[tuple[object, ...], np.ndarray] = {}

    def price(layer: Layer, reads: np.ndarray, writes: np.ndarray) -> np.ndarray:
        moving = bool(layer.reads.names), bool(layer.writes.names), layer.tied
        key = (layer.shape, moving, reads.tobytes(), writes.tobytes())
        if key not in known:
            known[key] = cost(layer, reads, writes)
        return known[key]

    return price


def _layer(layer: Layer, axes: _Axes, cost: Cost, *, goes_with: int | None) -> Table:
    """Price a layer at every option of the variables on its axes.

    Args:
        layer: The layer.
        axes: Give the variables.
        cost: Prices it.
        goes_with: The group, as a variable, whose 0 means that the layer is not run.
    """
    read_by, reads = axes.on(layer.reads)
    written_by, writes = axes.on(layer.writes)
    prices = np.full((len(reads), len(writes)), np.inf)
    possible = np.ix_(reads >= axes.least(layer.reads), writes >= axes.least(layer.writes))
    prices[possible] = cost(layer, reads[possible[0].ravel()], writes[possible[1].ravel()])
    if read_by is not None and read_by == written_by:
        # Only equal options meet; a depthwise layer has no price at others.
        table = Table((read_by,), prices.diagonal())
    else:
        scope = tuple(v for v in (read_by, written_by) if v is not None)
        written = None if written_by is None else -1
        table = Table(scope, prices.reshape([len(axes.channels[v]) for v in scope]), written)
    return table if goes_with is None else _unless_removed(table, goes_with, axes)


def _unless_removed(table: Table, group: int, axes: _Axes) -> Table:
    """Let a layer cost nothing where a group has no channels."""
    if group in table.scope:
        scope, cost_ms = table.scope, table.cost_ms.copy()
    else:
        scope = (group, *table.scope)
        shape = (len(axes.channels[group]), *table.cost_ms.shape)
        cost_ms = np.broadcast_to(table.cost_ms, shape).copy()
    np.moveaxis(cost_ms, scope.index(group), 0)[0] = 0.0
    return Table(scope, cost_ms, table.writes)


def _together(branches: Sequence[Branch], axes: _Axes) -> Iterator[Table]:
    """Let all groups of a branch have no channels, or none of them."""
    for branch in branches:
        first, *others = (axes.variable_of[group] for group in branch.groups)
        for other in others:
            gone = (axes.channels[variable] == 0 for variable in (first, other))
            alike = np.equal.outer(*gone)
            yield Table((first, other), np.where(alike, 0.0, np.inf))


class _Axes:
    """Gives axes their variables, and makes auxiliary ones where groups share an axis."""

    def __init__(self, graph: PruningGraph, options: Mapping[str, np.ndarray]) -> None:
        self._widths = {g.name: np.asarray(options[g.name], np.int64) for g in graph.groups}
        tied = {group: tie.groups for tie in graph.ties for group in tie.groups}
        together = dict.fromkeys(tied.get(name, (name,)) for name in self._widths)
        self.grouped = [{name: self._widths[name] for name in names} for names in together]
        self.variable_of = {name: v for v, groups in enumerate(self.grouped) for name in groups}
        self.channels: list[np.ndarray] = [
            np.sum([*groups.values()], axis=0) for groups in self.grouped
        ]
        # Of tied groups some may have no channels; another group's 0 is a removed branch.
        self._least = {
            name: int(widths[0] if name in tied else widths[widths > 0][0])
            for name, widths in self._widths.items()
        }
        self.sums: list[Table] = []
        self._made: dict[Terms | tuple[str, ...], int] = {}

    def on(self, width: Width) -> tuple[int | None, np.ndarray]:
        """Give an axis's variable and its channels at each option; no variable if it is fixed."""
        terms = self._terms(width)
        if not terms:
            return None, np.array([width.fixed], dtype=np.int64)
        variable, channels = self._part(terms)
        return variable, width.fixed + channels

    def least(self, width: Width) -> int:
        """Give the fewest channels that an axis has while the layer is run."""
        return width.at(self._least)

    def _terms(self, width: Width) -> Terms:
        """Count each group once, in the graph's order, so that equal sums start alike."""
        counts: dict[tuple[str, ...], int] = {}
        for groups, count in width.terms:
            counts[groups] = counts.get(groups, 0) + count
        return tuple(sorted(counts.items(), key=lambda term: self._variable(term[0])))

    def _variable(self, groups: tuple[str, ...]) -> int:
        """Give the variable of a group, or of the product of two."""
        own = {self.variable_of[name] for name in groups}
        if len(own) == 1:
            return own.pop()
        if groups not in self._made:
            one, two = ((self.variable_of[name], self._widths[name]) for name in groups)
            self._made[groups] = self._combine(one, two, np.multiply.outer)
        return self._made[groups]

    def _count(self, groups: tuple[str, ...]) -> np.ndarray:
        """Give the channels of a group, or the pairs of two, at each option of their variable."""
        if groups in self._made:
            return self.channels[self._made[groups]]
        product: np.ndarray = np.prod([self._widths[name] for name in groups], axis=0)
        return product

    def _part(self, terms: Terms) -> tuple[int, np.ndarray]:
        """Give the variable of a partial sum and its channels at each option."""
        variable = self._variable(terms[-1][0])
        before = tuple(term for term in terms if self._variable(term[0]) != variable)
        own = sum(count * self._count(groups) for groups, count in terms[len(before) :])
        if not before:
            return variable, np.asarray(own)
        if terms not in self._made:
            last = variable, np.asarray(own)
            self._made[terms] = self._combine(self._part(before), last, np.add.outer)
        variable = self._made[terms]
        return variable, self.channels[variable]

    def _combine(
        self,
        first: tuple[int, np.ndarray],
        second: tuple[int, np.ndarray],
        every: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> int:
        """Make the variable that stands for a sum or a product of two."""
        totals = every(first[1], second[1])
        found = np.unique(totals)
        needed_mib = totals.size * found.size * np.dtype(np.float64).itemsize / 2**20
        if needed_mib > MOST_TABLE_MIB:
            raise ProblemTooDense(needed_mib, MOST_TABLE_MIB)
        variable = len(self.channels)
        self.channels.append(found)
        allowed = np.where(totals[:, :, None] == found, 0.0, np.inf)
        self.sums.append(Table((first[0], second[0], variable), allowed))
        return variable
