"""Which networks can be cut, how much of them, and is what remains right? Writes docs/coverage.md.

    python -m benchmarks.coverage [--only 'timm:*net*',...] [--again] [--jobs 1] [--limit-s 180]
                                  [--limit-gib 8] [--json FILE]
    python -m benchmarks.coverage --markdown [--page FILE]

Every network of `networks.toml` is built with random weights, traced, cut by 30 % of every group at
random, and judged in a process of its own (`examine`, `judge`). The result file grows network by
network; an interrupted run goes on with those that it does not hold, and those that it holds from
other code of the graph. Networks of a library that is not installed are left out, and it is named.
`--markdown` runs nothing: it writes the page from the result file.

Exits 1 if a bar is missed: no network is cut wrongly and none crashes; 95 % are exact, at least in
structure; of 90 % at least nine tenths of the convolutions and linear layers can be cut; none takes
more than 30 s to trace.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import platform
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date
from fnmatch import fnmatchcase
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import latprune as lp
from benchmarks.coverage.examine import examine
from benchmarks.coverage.libraries import LIBRARIES, is_here
from benchmarks.coverage.networks import Network, networks
from benchmarks.coverage.page import bars, line, page
from benchmarks.coverage.processes import Limits, kill_all, record_of, start_server

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "coverage.json"
PAGE = ROOT / "docs" / "coverage.md"
PRELOAD = ("benchmarks.coverage.examine", "timm", "torchvision", "onnx", "onnxruntime")
DECIDE_NOTHING = ("page.py", "__main__.py", "describing.py")  # they only tell what was found
INTERRUPTED = 130  # as shells say it
PATIENCE = 6  # the machine may be busy with other things
BESIDE = ("torch", "onnx", "onnxruntime")  # the libraries of the networks

Record = dict[str, Any]


def main() -> int:
    arguments = _arguments()
    if not arguments.markdown:
        chosen = [n for n in networks() if _is_chosen(n, arguments.only.split(","))]
        absent = _absent(n.library for n in chosen)
        chosen = [n for n in chosen if n.library not in absent]
        try:
            _examine_all(chosen, arguments)
        except KeyboardInterrupt:
            print("stopped; the same command goes on with the others", file=sys.stderr)
            return INTERRUPTED
    document = _read(arguments.json)
    if not document["networks"]:
        print(f"{arguments.json} holds no network yet: run python -m benchmarks.coverage")
        return 1
    if arguments.markdown:
        listed = [network.key for network in networks()]
        arguments.page.write_text(page(document, listed=listed, code=code_digest()))
        print(f"wrote {arguments.page}")
    missed = [text for text, held in bars(document["networks"].values()) if not held]
    print("\n".join(f"MISSED {text}" for text in missed) or "every bar is held")
    return 1 if missed else 0


def _examine_all(chosen: Sequence[Network], arguments: argparse.Namespace) -> None:
    code = code_digest()
    known = {} if arguments.again else _read(arguments.json)["networks"]
    due = _across([n for n in chosen if known.get(n.key, {}).get("code") != code])
    due.sort(key=lambda network: network.key in known)  # what nobody has seen yet comes first
    print(f"{len(due)} of {len(chosen)} networks to examine", flush=True)
    limits = Limits(
        cpu_s=arguments.limit_s, clock_s=PATIENCE * arguments.limit_s, gib=arguments.limit_gib
    )
    start_server(PRELOAD)
    pool = ThreadPoolExecutor(arguments.jobs)
    try:
        running = {pool.submit(_examined, network, limits): network for network in due}
        for future in as_completed(running):
            network, record = running[future], future.result()
            _add(arguments.json, network.key, {**record, "code": code})
            print(line(network.key, record), flush=True)
    except KeyboardInterrupt:
        kill_all()
        raise
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C ends the list, not only a network of it


def _across(chosen: Sequence[Network]) -> list[Network]:
    """One network of every family first, then another one: what is stopped has seen them all."""
    seen: Counter[tuple[str, str]] = Counter()
    turns = []
    for network in chosen:
        family = network.library, network.family
        turns.append(seen[family])
        seen[family] += 1
    return [network for _, network in sorted(zip(turns, chosen, strict=True), key=itemgetter(0))]


def _examined(network: Network, limits: Limits) -> Record:
    found = record_of(examine, network, limits=limits, preload=PRELOAD)
    fixed = {"family": network.family, "size": network.size, "task": network.task}
    found["failures"] = {
        stage: re.sub(rf"{re.escape(gettempdir())}/\w+/", "", text)  # a name of this run alone
        for stage, text in found.get("failures", {}).items()
    }
    allowed = {"limit_s": limits.cpu_s, "limit_gib": limits.gib}
    return {**fixed, **allowed, "date": date.today().isoformat(), **found}


def code_digest() -> str:
    """Give a short name for the code that decides how a network is cut and judged.

    What the code does counts, its layout, comments and docstrings do not.
    """
    folders = (ROOT / "src/latprune/graph", ROOT / "benchmarks/coverage")
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    files.append(ROOT / "src/latprune/surgery.py")
    counted = [file for file in files if file.name not in DECIDE_NOTHING]
    text = "".join(f"{file.name} {_statements(file.read_text())}" for file in counted)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _statements(source: str) -> str:
    """Give a file's statements without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            texts = [
                n for n in body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
            ]
            node.body = [n for n in body if n not in texts]  # type: ignore[attr-defined]  # checked
    return ast.dump(tree)


def _absent(libraries: Iterable[str]) -> set[str]:
    """Give the libraries that are not installed, and say so."""
    absent = {library for library in libraries if not is_here(library)}
    if absent:
        names = " ".join(sorted(absent))
        print(f"left out, not installed: networks of {names}; pip install {names}", flush=True)
    return absent


def _is_chosen(network: Network, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(network.key, pattern.strip()) for pattern in patterns)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"networks": {}}
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _add(path: Path, key: str, record: Record) -> None:
    """Put a record into the file, in the order of the list; whole or not at all."""
    before = _read(path)
    records = {**before["networks"], key: record}
    order = [network.key for network in networks() if network.key in records]
    document = {
        "command": "python -m benchmarks.coverage",
        "versions": {
            **before.get("versions", {}),
            "latprune": lp.__version__,
            **{name: version(name) for name in (*BESIDE, *LIBRARIES) if is_here(name)},
            "python": platform.python_version(),
        },
        "networks": {key: records[key] for key in order},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="*", help="patterns of names, separated by commas")
    parser.add_argument("--again", action="store_true", help="also what the file holds already")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time, a thread each")
    parser.add_argument("--limit-s", type=float, default=180, help="of computing, for one network")
    parser.add_argument("--limit-gib", type=float, default=8, help="memory for one network")
    parser.add_argument("--json", type=Path, default=RESULTS, help="the result file")
    parser.add_argument("--markdown", action="store_true", help="write the page, run nothing")
    parser.add_argument("--page", type=Path, default=PAGE)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
