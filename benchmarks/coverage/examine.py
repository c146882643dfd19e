"""Examine one network: trace it, cut 30 % of every group at random, and try all that one would do.

What is found is handed out stage by stage, so that a process that is stopped has said how far it
came. What fails is a finding, too: its message stands in the record, and later stages go on as far
as they can.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import latprune as lp
from benchmarks.coverage.judge import judge
from benchmarks.coverage.training import trains
from latprune.graph.verifying import random_kept
from latprune.report.counting import network_macs, parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.coverage.networks import Network
    from benchmarks.coverage.processes import Record, Tell
    from latprune.graph.groups import PruningGraph

SHARE = 0.3
MOST_REASONS, LONGEST_REASON = 12, 240


def examine(network: Network, tell: Tell, *, onnx: bool = True) -> None:
    """Examine a network.

    Args:
        network: Which one.
        tell: Takes what was found so far, in pieces; a later piece replaces what it repeats.
        onnx: Whether to export the cut network, too.
    """
    torch.manual_seed(0)
    failures: dict[str, str] = {}
    stage = _Stages(tell, failures)
    with stage("build"):
        model, example = network.build(), network.example()
        tell({"parameters": parameters(model), "forward_s": _forward_s(model, example)})
    if failures:
        return
    with stage("trace"):
        begin = time.process_time()
        graph = lp.trace(model, example)
        tell({"trace_s": round(time.process_time() - begin, 2), **_described(graph)})
    if failures or not graph.groups:
        return
    plan = _at_random(graph)
    with stage("cut"):
        small = lp.cut(model, graph, plan)
        tell({"parameters_left": parameters(small), **_layers_cut(model, small)})
    if failures:
        return
    with stage("judge"):
        verdict = judge(model, lambda m: lp.cut(m, graph, plan), example, watch=network.watch)
        tell({"holds": verdict.holds, "difference": verdict.difference, "why": verdict.why})
    with stage("train"):
        tell({"trains": trains(lp.cut(model, graph, plan), example, network.task)})
    with stage("round trip"), tempfile.TemporaryDirectory() as folder:
        tell({"round_trip": _round_trip(small, network, graph, plan, example, Path(folder))})
    if onnx:
        with stage("onnx"), tempfile.TemporaryDirectory() as folder:
            lp.export_onnx(small, example, Path(folder) / "network.onnx")
            tell({"onnx": True})


class _Stages:
    """Says which stage runs, and keeps what a stage fails with."""

    def __init__(self, tell: Tell, failures: dict[str, str]) -> None:
        self._tell, self._failures = tell, failures

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._tell({"stage": name})
        try:
            yield
        except (Exception, MemoryError) as error:  # whatever fails is the finding
            self._failures[name] = _in_one_line(error)
            self._tell({"failures": dict(self._failures)})


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:LONGEST_REASON]}"


def _forward_s(model: nn.Module, example: torch.Tensor) -> float:
    with torch.no_grad():
        model(example)
        begin = time.process_time()
        model(example)
    return round(time.process_time() - begin, 3)


def _described(graph: PruningGraph) -> Record:
    """What the graph says of itself: groups, MACs that could go, and what is frozen, by reason."""
    narrowest = {group.name: group.multiple for group in graph.groups}
    for tie in graph.ties:
        narrowest.update(zip(tie.groups, tie.widths[0].tolist(), strict=True))
    dense = network_macs(graph, graph.widths)
    reasons: dict[str, list[tuple[str, int]]] = {}
    for frozen in graph.frozen:
        # The same reason in another module is the same reason.
        reason = re.sub(r" in [\w.]+$", "", frozen.reason)
        reasons.setdefault(reason[:LONGEST_REASON], []).append((frozen.where, frozen.channels))
    largest = sorted(reasons.items(), key=lambda item: -sum(count for _, count in item[1]))
    return {
        "groups": len(graph.groups),
        "channels": sum(graph.widths.values()),
        "macs": dense,
        "macs_prunable": 1 - network_macs(graph, narrowest) / dense if dense else 0.0,
        "frozen": [
            {
                "reason": reason,
                "where": places[0][0],
                "places": len(places),
                "channels": sum(count for _, count in places),
            }
            for reason, places in largest[:MOST_REASONS]
        ],
    }


def _at_random(graph: PruningGraph) -> lp.Plan:
    """A plan that keeps a random 70 % of every group; its times are nobody's."""
    kept = random_kept(graph.groups, share=SHARE, seed=1, ties=graph.ties)
    return lp.Plan(
        kept={name: tuple(channels) for name, channels in kept.items()},
        target=lp.Target("none", "none", "none"),
        budget=lp.Budget(fraction=1.0),
        budget_ms=0.0,
        baseline_ms=0.0,
        rest_ms=0.0,
        predicted_ms=0.0,
        value=0.0,
        bound=0.0,
        dense_value=0.0,
        solver="random",
        criterion="none",
    )


def _layers_cut(dense: nn.Module, small: nn.Module) -> Record:
    """How many convolutions and linear layers lost weights: read off their sizes, not the graph."""
    sizes = dict(_layer_sizes(dense))
    left = dict(_layer_sizes(small))
    shrunk = Counter(left[name] < size for name, size in sizes.items())
    return {
        "layers": len(sizes),
        "layers_cut": shrunk[True],
        "layers_whole": [name for name, size in sizes.items() if left[name] == size][:MOST_REASONS],
    }


def _layer_sizes(model: nn.Module) -> Iterator[tuple[str, int]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            yield name, module.weight.numel()
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            yield f"{name}.in_proj_weight", module.in_proj_weight.numel()


def _round_trip(
    small: nn.Module,
    network: Network,
    graph: PruningGraph,
    plan: lp.Plan,
    example: torch.Tensor,
    folder: Path,
) -> bool:
    """Save, load into a network built anew, and say whether weights and outputs are bit-equal."""
    path = folder / "small.safetensors"
    lp.save(small, path, graph=graph, plan=plan)
    torch.manual_seed(1)
    again = lp.load(path, network.build()).eval()
    stored, read = small.state_dict(), again.state_dict()
    same = stored.keys() == read.keys() and all(torch.equal(stored[k], read[k]) for k in stored)
    with torch.no_grad():
        expected, found = (_flat(model(example)) for model in (small.eval(), again))
    return same and len(expected) == len(found) and all(map(torch.equal, expected, found))


def _flat(output: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
