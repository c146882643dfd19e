"""What gradual pruning adds to a training step, and what it saves: python -m benchmarks.overhead.

    python -m benchmarks.overhead [--network resnet18 …] [--rounds 15] [--json FILE]

Two copies of a network take training steps (forward, backward, SGD with momentum) in turns, A B A
B, on one thread: A as it is, B watched by `prune_in_steps`, so that every step scores its channels;
then B masked to 71 % of its latency by `soft=True`, which scores otherwise and lifts its masks in
every step; then B after it was cut in five steps to 50 % of the dense network's latency in ONNX
Runtime. Medians of the ratio B ÷ A, in the thread's own CPU time, and what each of the five cuts
took by itself, planning included. Images and labels are random: they do not change the time.

A busy machine spreads whole steps by more than scoring adds. Scoring happens within the
optimizer's step, so that this is also timed by itself, with and without, in turns, more often.

Exits 1 if scoring, timed so, adds more than 5 % to a step of any network.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import torchvision

import latprune as lp
from benchmarks._result import origin, verdict, write
from latprune.latency.timing import Comparison, clock_for, summarise, time_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

LIMIT = 0.05
NEVER = 10**9
CUTS = 5
# Images of a batch, and their height and width.
NETWORKS = {"resnet18": (16, 64), "mobilenet_v2": (16, 64), "resnet50": (8, 96)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measured(name, arguments.rounds) for name in arguments.network}
    target = lp.Target.here("onnxruntime").to_json()
    made = origin("overhead", "torch")
    write(arguments.json, {**made, "limit": LIMIT, "target": target, "networks": found})
    over = [name for name, one in found.items() if one["added_by_scoring"] > LIMIT]
    return verdict([f"{name}: scoring costs too much" for name in over])


def measured(name: str, rounds: int) -> dict[str, Any]:
    """Time a network's steps beside those of a copy that is scored, masked or cut."""
    torch.manual_seed(0)
    size, side = NETWORKS[name]
    images, labels = torch.randn(size, 3, side, side), torch.randint(10, (size,))
    dense = torchvision.models.get_model(name, weights=None, num_classes=10)
    graph = lp.trace(dense, images[:1])
    table = lp.measure(dense, graph, images[:1], lp.Target.here("onnxruntime"))

    def loop(**options: Any) -> Loop:
        model = copy.deepcopy(dense)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        train = partial(step, model, optimizer, images, labels)
        if not options:
            return Loop(train, optimizer)
        pruning = lp.prune_in_steps(model, graph, table, "50%", optimizer=optimizer, **options)
        return Loop(train, optimizer, pruning)

    plain, scored = loop(), loop(every=NEVER)
    masked, small = loop(every=1, steps=2, soft=True), loop(every=1, steps=CUTS)
    masked.train_and_prune()
    result: dict[str, Any] = {"input": f"{size}x3x{side}x{side}"}
    result["planning_and_cutting_ms"] = small.cut_ms()
    for what, other in {"scoring": scored, "masked": masked, "cut": small}.items():
        calls = [plain.train, other.train if other is masked else other.train_and_prune]
        clock = clock_for(1)
        times = time_interleaved(calls, clock=clock, warmup_s=0, min_rounds=rounds, limit_s=0)
        compared = Comparison.of(*times)
        result[what] = compared.to_json()
        print(
            f"{name} {what}: {compared.dense.median_ms:.1f} and {compared.small.median_ms:.1f} ms "
            f"a step, ratio {compared.ratio:.4f} (IQR {compared.ratio_iqr:.4f})",
            flush=True,
        )
    calls = [plain.optimizer.step, scored.optimizer.step]
    times = time_interleaved(calls, clock=clock_for(1), min_rounds=10 * rounds, limit_s=0)
    without, with_scoring = map(summarise, times)
    result["optimizer_step"] = {"plain": without.to_json(), "scored": with_scoring.to_json()}
    scoring_ms = with_scoring.median_ms - without.median_ms
    result["added_by_scoring"] = scoring_ms / result["scoring"]["dense"]["median_ms"]
    print(f"{name} scoring alone: {scoring_ms:.2f} ms, {result['added_by_scoring']:.2%} of a step")
    return result


@dataclass(frozen=True, eq=False)
class Loop:
    """A training loop, watched by a pruning or not."""

    train: Callable[[], None]
    optimizer: torch.optim.Optimizer
    pruning: lp.GradualPruning | None = None

    def train_and_prune(self) -> None:
        self.train()
        if self.pruning is not None:
            self.pruning.step()

    def cut_ms(self) -> list[float]:
        """Take all cuts; give what each took beside the training."""
        taken_ms = []
        while self.pruning is not None and not self.pruning.done:
            self.train()
            begin = time.thread_time()
            self.pruning.step()
            taken_ms.append((time.thread_time() - begin) * 1e3)
        return taken_ms


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> None:
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own omission
    optimizer.step()


if __name__ == "__main__":
    sys.exit(main())
