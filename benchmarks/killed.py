"""Kill the measuring again and again: is anything lost, doubled, or planned differently?

    python -m benchmarks.killed [--network resnet18] [--kills 20] [--seed 0] [--json FILE]

A process measures a network (ONNX Runtime, batch 1, one thread, 3 x 64 x 64) and is killed
(SIGKILL) at a random time after it began to measure; every second time not before it has written a
line since then. Another process goes on with the same file. When one comes to its end before the
last kill, the next begins another table. Every finished table is judged. Beside them stand the
tables of two runs that nobody killed: every run finds other times, therefore other steps and a
somewhat other plan, killed or not, so that how much saliency those plans keep is reported, and is
no bar.

Exits 1 if a bar is missed: after a kill every whole line of the file is still there, at its place;
no layer and no network is in a finished table twice; a fresh process that goes on with it finds
nothing left to measure, and plans exactly what the process did that finished it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision

import latprune as lp
from benchmarks._result import origin, verdict, write
from latprune.latency.table_files import table_path

BUDGET = lp.Budget(fraction=0.6)
SIZE = (3, 64, 64)
BEGINS = "measuring"


def main() -> int:
    arguments = _arguments()
    if arguments.child is not None:
        return child(arguments.network, arguments.child)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unbroken = [run_unbroken(arguments.network, folder / f"unbroken{n}") for n in range(2)]
        for whole in unbroken:
            print(f"unbroken: {whole.line}", flush=True)
        between_s = unbroken[0].seconds / arguments.kills
        tables = run_broken(arguments.network, arguments.kills, arguments.seed, folder, between_s)
    for broken in tables:
        print(f"killed {len(broken.kills)} times: {broken.line}")
    missed = [problem for table in (*unbroken, *tables) for problem in table.missed()]
    seconds = time.perf_counter() - begin
    write(arguments.json, _document(arguments, unbroken, tables, missed, seconds))
    return verdict(missed)


def child(network: str, folder: Path) -> int:
    """Measure and plan, in a process that may be killed."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(network, weights=None).eval()
    example = torch.randn(1, *SIZE)
    graph = lp.trace(model, example)
    print(BEGINS, flush=True)
    table = lp.measure(model, graph, example, lp.Target.here("onnxruntime"), folder=folder)
    plan = lp.plan(graph, table, lp.magnitude(model, graph), BUDGET)
    kept = plan.value / plan.dense_value
    found = {"widths": plan.widths, "predicted_ms": plan.predicted_ms, "saliency": kept}
    print(json.dumps(found), flush=True)
    return 0


@dataclass
class Finished:
    """A table that was measured to its end.

    Attributes:
        content: Of its file.
        more: What a fresh process added to it; nothing, if nothing was lost.
        plan: What the process that finished it planned, and what a fresh one does.
        seconds: From the start of measuring; of a broken run, of its last process.
        kills: Per kill when it came, what lines it left whole and how many bytes half written.
        damage: Kills after which lines had gone or changed.
    """

    content: bytes
    more: bytes
    plan: dict[str, Any]
    fresh_plan: dict[str, Any]
    seconds: float
    kills: list[dict[str, Any]] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    @property
    def entries(self) -> Counter[str]:
        """How often each layer or network is in the file."""
        found = (json.loads(line) for line in self.content.decode().splitlines()[1:])
        return Counter(json.dumps(one.get("shape", one.get("network"))) for one in found)

    @property
    def line(self) -> str:
        return (
            f"{len(self.entries)} measurements, {self.plan['saliency']:.2%} of the saliency kept "
            f"in {self.plan['predicted_ms']:.3f} ms"
        )

    def missed(self) -> list[str]:
        doubled = [entry for entry, count in self.entries.items() if count > 1]
        problems = [*self.damage, *(f"measured twice: {entry}" for entry in doubled)]
        if self.more:
            problems.append(f"a fresh process measures {len(self.more.splitlines())} more")
        if self.plan != self.fresh_plan:
            problems.append("a fresh process plans otherwise from the same file")
        return problems

    def to_json(self) -> dict[str, Any]:
        same = self.plan == self.fresh_plan
        facts = {"measurements": len(self.entries), "same_plan_from_a_fresh_process": same}
        return {**facts, **self.plan, "last_process_s": round(self.seconds, 2), "kills": self.kills}


def run_unbroken(network: str, folder: Path) -> Finished:
    finished = _finish(network, folder)[1]
    assert finished is not None  # there was no kill
    return finished


def run_broken(
    network: str, kills: int, seed: int, folder: Path, between_s: float
) -> list[Finished]:
    """Kill so many times, `between_s` seconds of measuring apart in the mean."""
    chance = random.Random(seed)
    tables: list[Finished] = []
    made = 0
    while made < kills:
        place = folder / f"broken{len(tables)}"
        known, damage, seen = [], [], b""
        finished = None
        while finished is None:
            after_s = chance.uniform(0, 2 * between_s) if made < kills else None
            aimed = made % 2 == 1
            survived, finished = _finish(network, place, after_s=after_s, aimed=aimed)
            whole = survived[: survived.rfind(b"\n") + 1]
            if not survived.startswith(seen):
                damage.append(f"after kill {made} lines had gone or changed")
            seen = whole
            if finished is None:
                made += 1
                torn = len(survived) - len(whole)
                lines = whole.count(b"\n")
                known.append({"after_s": after_s, "aimed": aimed, "lines": lines, "torn": torn})
                print(f"kill {made}: {known[-1]}", flush=True)
        finished.kills, finished.damage = known, damage
        tables.append(finished)
    return tables


def _finish(
    network: str, folder: Path, *, after_s: float | None = None, aimed: bool = False
) -> tuple[bytes, Finished | None]:
    """Measure on; give the file as it is then and, unless a kill came before, the whole of it."""
    process = _start(network, folder)
    assert process.stdout is not None
    if process.stdout.readline().strip() != BEGINS:
        raise RuntimeError("the process ended before it measured")
    begin = time.perf_counter()
    try:
        said, _ = process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        if aimed:
            _wait_for_a_line(process, folder)
        process.kill()
        process.communicate()
        return _content(folder), None
    seconds = time.perf_counter() - begin
    if process.returncode != 0:
        raise RuntimeError(f"the process failed with {process.returncode}")
    content = _content(folder)
    fresh = _start(network, folder).communicate()[0].splitlines()[-1]
    more = _content(folder)[len(content) :]
    return content, Finished(content, more, json.loads(said), json.loads(fresh), seconds)


def _wait_for_a_line(process: subprocess.Popen[str], folder: Path) -> None:
    before = len(_content(folder))
    while process.poll() is None and len(_content(folder)) == before:
        time.sleep(1e-4)


def _start(network: str, folder: Path) -> subprocess.Popen[str]:
    command = ["-m", "benchmarks.killed", "--network", network, "--child", str(folder)]
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)


def _content(folder: Path) -> bytes:
    path = table_path(lp.Target.here("onnxruntime"), folder=folder)
    return path.read_bytes() if path.exists() else b""


def _document(
    arguments: argparse.Namespace,
    unbroken: list[Finished],
    tables: list[Finished],
    missed: list[str],
    seconds: float,
) -> dict[str, Any]:
    return {
        **origin("killed", "torch", "torchvision"),
        "network": arguments.network,
        "input": "x".join(map(str, SIZE)),
        "budget": str(BUDGET),
        "target": lp.Target.here("onnxruntime").to_json(),
        "seed": arguments.seed,
        "seconds": round(seconds, 1),
        "kills": sum(len(broken.kills) for broken in tables),
        "missed": missed,
        "unbroken": [whole.to_json() for whole in unbroken],
        "broken": [broken.to_json() for broken in tables],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="resnet18", help="of torchvision")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
