"""Criteria by their names, for options and configurations."""

from __future__ import annotations

from itertools import tee
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from latprune.distances import Curved, distillation
from latprune.errors import or_meant
from latprune.saliency.branches import IMAGES, enough, price_branches
from latprune.saliency.fisher import fisher
from latprune.saliency.gauss_newton import gauss_newton
from latprune.saliency.magnitude import magnitude
from latprune.saliency.probe import probe
from latprune.saliency.relative import relative
from latprune.saliency.taylor import taylor
from latprune.saliency.taylor_squared import taylor_squared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from torch import Tensor, nn

    from latprune.distances import Distil
    from latprune.graph.groups import PruningGraph
    from latprune.progress import Progress
    from latprune.saliency.scores import Saliency

CriterionName = Literal[
    "taylor",
    "taylor_squared",
    "fisher",
    "gauss_newton",
    "probe",
    "magnitude",
    "relative_taylor",
    "relative_taylor_squared",
    "relative_fisher",
    "relative_gauss_newton",
    "relative_magnitude",
]
RELATIVE = "relative_"
OF_ANSWERS: CriterionName = "relative_gauss_newton"
OF_LOSS: CriterionName = "relative_fisher"
WITHOUT_DATA: CriterionName = "relative_magnitude"


class Criterion(Protocol):
    """Scores channels on data."""

    def __call__(
        self,
        model: nn.Module,
        graph: PruningGraph,
        batches: Iterable[Any],
        loss: Callable[[Any, Any], Tensor],
        /,
        *,
        progress: Progress | None = None,
    ) -> Saliency:
        """Give the scores."""
        ...


BY_LOSS: Mapping[str, Criterion] = {
    "taylor": taylor,
    "taylor_squared": taylor_squared,
    "fisher": fisher,
    "probe": probe,
}
BY_ANSWERS = "gauss_newton"


def names() -> tuple[CriterionName, ...]:
    """Give the names of all criteria, the paper's first."""
    return get_args(CriterionName)


def check_name(criterion: str) -> None:
    """Make sure that there is such a criterion.

    Raises:
        ValueError: If there is not; it says which there are.
    """
    if criterion not in names():
        raise ValueError(
            f"criterion is {', '.join(names())} or a function, not "
            f"{criterion!r}{or_meant(criterion, names())}"
        )


def default(*, by_answers: bool = True, has_data: bool = True) -> CriterionName:
    """Give the name of the criterion for who names none.

    Args:
        by_answers: Whether it is known how the network's answers are compared: they are logits,
            or `distil` is `Curved`. Else only the loss knows what they are.
        has_data: Whether there are pictures.
    """
    if not has_data:
        return WITHOUT_DATA
    return OF_ANSWERS if by_answers else OF_LOSS


def absolute(criterion: str) -> str:
    """Give the name of the criterion that scores channels, where widths are valued `relative`."""
    return criterion.removeprefix(RELATIVE)


def values_branches(criterion: object) -> bool:
    """Tell whether a criterion is one by which it is measured what whole branches are worth.

    Sums of scores just add up: by them networks lost branches that they could not do without.
    """
    return isinstance(criterion, str) and absolute(criterion) != criterion


def needs_data(criterion: str) -> bool:
    """Tell whether a criterion scores on pictures."""
    return absolute(criterion) in (*BY_LOSS, BY_ANSWERS)


def scored(
    criterion: str,
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[Any] | None,
    loss: Callable[[Any, Any], Tensor],
    *,
    distil: Distil | None = None,
    progress: Progress | None = None,
) -> Saliency:
    """Score channels by the criterion of a name.

    Args:
        criterion: One of `names()`; `relative_` before a name is `relative` of what it scores,
            with branches that can go priced (`price_branches`) where there are batches.
        model: See the criteria.
        graph: See the criteria.
        batches: Of (inputs, labels); without them channels are scored by `magnitude`.
        loss: Gives a scalar for (outputs, labels).
        distil: See `price_branches`; `gauss_newton` scores by it, too, if it is `Curved`, else by
            a classifier's logits.
        progress: Is told of every batch, or width.

    Raises:
        ValueError: If there is no such criterion.
    """
    check_name(criterion)
    name = absolute(criterion)
    judging: list[tuple[Tensor, Any]] = []
    if batches is not None and name != criterion and graph.branches:
        batches, judges = tee(batches)  # all batches score, as they come
        judging = enough(judges, IMAGES)
        del judges  # it would keep whatever scores
    if batches is None or not needs_data(name):
        found = magnitude(model, graph)
    elif name == BY_ANSWERS:
        curved = distil if isinstance(distil, Curved) else distillation
        found = gauss_newton(model, graph, batches, distil=curved, progress=progress)
    else:
        found = BY_LOSS[name](model, graph, batches, loss, progress=progress)
    if name == criterion:
        return found
    valued = relative(found, graph)
    if not judging:
        return valued
    return price_branches(valued, model, graph, judging, loss, distil=distil, progress=progress)
