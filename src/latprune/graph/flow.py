"""Which results a network needs for what: one run of it, read off autograd's graph.

Autograd keeps, for every operator, which operators made its inputs, in-place ones included. So it
says what a result is made of, and what else would be left without a use.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from latprune.graph.results import tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

Node = Any  # an operator in autograd's graph, which has no public type


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """A module's only call.

    Attributes:
        order: How many modules had finished before it.
        source: Its input, where that is one tensor, and no keyword holds another.
        result: Its output, where that is one tensor.
        makers: The operators that made what it returned.
    """

    order: int
    source: torch.Tensor | None
    result: torch.Tensor | None
    makers: frozenset[Node]


@dataclass(frozen=True, eq=False)
class Flow:
    """One run of a network.

    Attributes:
        users: Per operator those that use its result; the network's outputs count as one, `None`.
        calls: The modules that ran exactly once, by name.
    """

    users: dict[Node, list[Node]]
    calls: dict[str, ModuleCall]
    _parameters: dict[int, str] = field(repr=False)

    @classmethod
    def of(cls, model: nn.Module, inputs: tuple[Any, ...]) -> Flow:
        """Run a model, in the mode that it is in.

        Raises:
            Exception: Whatever a stranger's forward raises, here because gradients are asked for.
        """
        floating = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
        asked = [parameter.requires_grad for parameter in floating]
        with torch.enable_grad(), _calls_of(model) as calls:
            for parameter in floating:
                parameter.requires_grad_(True)
            result = model(*tree_map(_followed, inputs))
        parameters = {id(parameter): name for name, parameter in model.named_parameters()}
        flow = cls(_users(result), calls, parameters)
        for parameter, before in zip(floating, asked, strict=True):
            parameter.requires_grad_(before)
        return flow

    def sums(self) -> Iterator[tuple[Node, Node, Node]]:
        """Give every sum of two results, and either of them first: (sum, one, the other)."""
        for node in self.users:
            if _kind(node) == "AddBackward0" and len(node.next_functions) == 2:
                (one, _), (other, _) = node.next_functions
                if one is not None and other is not None and one is not other:
                    yield node, one, other
                    yield node, other, one

    def only_for(self, result: Node, use: Node) -> set[Node]:
        """Give the operators whose results end in this one, if it has but this use; else none."""
        if self.users[result] != [use]:
            return set()
        found: set[Node] = {result}
        waiting = [result]
        while waiting:
            for node, _ in waiting.pop().next_functions:
                if node is not None and node not in found and found.issuperset(self.users[node]):
                    found.add(node)
                    waiting.append(node)
        return found

    def parameters_in(self, nodes: set[Node]) -> set[str]:
        """Give the parameters that only these operators use."""
        variables = (node.variable for node in nodes if _kind(node) == "AccumulateGrad")
        return {self._parameters[id(v)] for v in variables if id(v) in self._parameters}

    def is_parameter(self, node: Node) -> bool:
        """Whether what this gives is a parameter as it is."""
        return _kind(node) == "AccumulateGrad" and id(node.variable) in self._parameters


def _kind(node: Node) -> str:
    return "" if node is None else str(type(node).__name__)


def _followed(leaf: Any) -> Any:
    """Let autograd see what is done to an input, and leave the caller's alone."""
    if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
        return leaf.detach().clone().requires_grad_(True).clone()
    return leaf


def _users(result: Any) -> dict[Node, list[Node]]:
    users: dict[Node, list[Node]] = defaultdict(list)
    waiting: list[Node] = []
    for tensor in tensors_in(result):
        if tensor.grad_fn is not None:
            users[tensor.grad_fn].append(None)
            waiting.append(tensor.grad_fn)
    known = set(waiting)
    while waiting:
        node = waiting.pop()
        for source, _ in node.next_functions:
            if source is None:
                continue
            users[source].append(node)
            if source not in known:
                known.add(source)
                waiting.append(source)
    return dict(users)


@contextmanager
def _calls_of(model: nn.Module) -> Iterator[dict[str, ModuleCall]]:
    """Give the calls of modules; after the context, those that were called once."""
    calls: dict[str, ModuleCall] = {}
    again: set[str] = set()
    finished = 0

    def hook(name: str) -> Any:
        def remember(_module: nn.Module, inputs: Any, keywords: Any, output: Any) -> None:
            nonlocal finished
            again.update({name} & calls.keys())
            single = isinstance(output, torch.Tensor)
            calls[name] = ModuleCall(
                order=finished,
                source=_only_tensor(inputs, keywords),
                result=output if single else None,
                makers=frozenset(tensor.grad_fn for tensor in tensors_in(output)),
            )
            finished += 1

        return remember

    hooks = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in model.named_modules()
    ]
    try:
        yield calls
    finally:
        for handle in hooks:
            handle.remove()
        for name in again:
            del calls[name]


def _only_tensor(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> torch.Tensor | None:
    """Give a call's input where it is the only one, by position, and no keyword holds a tensor."""
    alone = len(inputs) == 1 and not any(True for _ in tensors_in(keywords))
    return inputs[0] if alone and isinstance(inputs[0], torch.Tensor) else None
