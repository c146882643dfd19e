"""Follow channels through runs of a model: in evaluation mode, and in training mode if need be."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from latprune.errors import DoesNotRun, UntraceableModel
from latprune.graph.branching import Shown
from latprune.graph.crossing import SUFFIX
from latprune.graph.groups import Frozen
from latprune.graph.hidden import hidden_layers
from latprune.graph.labels import LabelMode
from latprune.graph.reading import ReadGraph
from latprune.graph.results import batch_of, tensors_in
from latprune.graph.rules import RULES, unknown
from latprune.modes import drawing_apart, train_without_dropout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from latprune.graph.trails import Training


class Followed(NamedTuple):
    """What a run of the model showed.

    Attributes:
        mode: The labels.
        read: The groups and layers that these are.
        shown: The labels of what modules returned.
        ends: Modules behind which nothing is cut, in evaluation and in training mode.
        idle: Modules that did not run, and where layers run that the model does not know.
        pair: Inputs with which training mode shows more than evaluation does, if it does.
    """

    mode: LabelMode
    read: ReadGraph
    shown: Shown
    ends: tuple[frozenset[str], frozenset[str]]
    idle: list[Frozen]
    pair: tuple[Any, ...]


def follow(
    working: nn.Module,
    inputs: tuple[Any, ...],
    *,
    training: Training,
    keep: Sequence[str],
    exact: bool,
    loose: bool = False,
    within: bool = False,
) -> Followed:
    """Follow the labels through runs of a model.

    Raises:
        UntraceableModel: If the model does not run (`DoesNotRun`), or returns no tensor.
    """
    mode = LabelMode(
        working,
        rules=RULES,
        default=unknown,
        batch=batch_of(inputs),
        loose=loose,
        within=within,
    )
    shown = Shown(mode, working)
    try:
        with shown.watching():
            result = mode.run(*inputs)
    except Exception as error:
        raise DoesNotRun(_shapes(inputs), error) from error
    if not any(True for _ in tensors_in(result)):
        raise UntraceableModel(
            f"the model returns no tensor, but {type(result).__name__}: latprune cannot tell what "
            f"must stay. Wrap it in a module whose forward returns its outputs."
        )
    trained = Shown(mode, working)
    idle, pair = _run_in_training(mode, working, training, trained)
    idle += hidden_layers(working, mode.strangers)
    mode.freeze_unread()
    for pattern in keep:
        _protect(pattern, mode, working, (shown, trained))
    if exact:
        for label, why in mode.classes.approximations().items():
            mode.classes.freeze(np.array([label]), why)
    ends = frozenset(shown.ends()), frozenset(trained.ends())
    return Followed(mode, ReadGraph(mode, suffix=SUFFIX * within), shown, ends, idle, pair)


def check_keep(model: nn.Module, keep: Sequence[str]) -> None:
    """Refuse a name or pattern that matches no module.

    Raises:
        ValueError: If there is one.
    """
    names = [name for name, _ in model.named_modules()]
    for pattern in keep:
        if not any(_is_kept(name, pattern) for name in names):
            near = get_close_matches(pattern, names, n=3)
            meant = f"; did you mean {', '.join(near)}?" if near else ""
            raise ValueError(f"keep={pattern!r} matches no module of the model{meant}")


def _run_in_training(
    mode: LabelMode, working: nn.Module, training: Training, shown: Shown
) -> tuple[list[Frozen], tuple[Any, ...]]:
    """Run once more in training mode if that does something else; say what still does not run.

    Returns:
        Modules with parameters that stay unseen, and the inputs with which training mode shows more
        than evaluation does; nothing if it does not.
    """
    pair: tuple[Any, ...] = ()
    reason = "it runs neither in evaluation nor in training mode"
    if training.differs(mode.trail):
        mode.seen.recording = False
        train_without_dropout(working)  # its noise would meet every channel that it draws for
        try:
            with drawing_apart(working), shown.watching():
                mode.run(*training.inputs)
            pair = training.inputs
        except Exception as error:  # whatever a stranger's forward raises is the finding
            reason = f"not run: training mode fails with {type(error).__name__}: {error}"
        working.eval()
    names = {name for name, p in working.named_parameters() if p.is_floating_point()}
    owners = dict.fromkeys(name.rpartition(".")[0] for name in sorted(names - mode.used))
    return [Frozen(owner or "model", 0, reason) for owner in owners], pair


def _shapes(inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in tree_leaves(inputs) if isinstance(t, torch.Tensor)]


def _protect(pattern: str, mode: LabelMode, working: nn.Module, shown: Sequence[Shown]) -> None:
    """Freeze what modules write; where they write nothing, as norms do, what they pass on."""
    labels = [
        labels
        for parameter, _, labels, role in mode.parameters()
        if role in ("writes", "through") and _is_kept(parameter.rpartition(".")[0], pattern)
    ]
    if not labels:
        modules = [name for name, _ in working.named_modules() if _is_kept(name, pattern)]
        labels = [on for run in shown for name in modules for on in run.returned(name)]
    for kept in labels:
        mode.classes.freeze(kept, "protected by keep=")


def _is_kept(module: str, pattern: str) -> bool:
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*")
