"""The rules of the house: who may import whom, what is public, what never enters the repository."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import latprune
from latprune import public

SOURCE = Path(latprune.__file__).parent

# A stage imports only from stages above it.
STAGES = [
    "errors",
    "progress",
    "files",
    "claims",
    "closures",
    "copying",
    "modes",
    "states",
    "samples",
    "outputs",
    "distances",
    "graph",
    "latency",
    "saliency",
    "knapsack",
    "framing",
    "planning",
    "surgery",
    "fitting",
    "tuning",
    "batches",
    "answers",
    "reranking",
    "trial",
    "scoring",
    "bench",
    "gradual",
    "callbacks",
    "export",
    "report",
    "tasks",
    "pipeline",
    "gradually",
    "demo",
    "cli",
]
# The front door and what is behind it, the back door, and the tests'.
OUTSIDE = {"__init__", "public", "__main__", "testing"}

EXTRAS = [
    "PIL",
    "accelerate",
    "datasets",
    "faster_coco_eval",
    "highspy",
    "hypothesis",
    "lightning",
    "matplotlib",
    "pandas",
    "pyarrow",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pytest",
    "rich",
    "scipy",
    "sklearn",
    "timm",
    "torchmetrics",
    "torchvision",
    "transformers",
    "typer",
]


def stage_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_stages(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(source_of(file))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[1] for name in names if name.startswith("latprune.")}


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: file.stem)
def test_a_stage_imports_only_from_stages_above_it(file: Path) -> None:
    if (stage := stage_of(file)) in OUTSIDE:
        return

    above = STAGES[: STAGES.index(stage) + 1]

    assert imported_stages(file) <= set(above)


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: file.stem)
def test_no_file_imports_all_of_latprune_for_a_part_of_it(file: Path) -> None:
    asked = {
        alias.name
        for node in ast.walk(ast.parse(source_of(file)))
        if isinstance(node, ast.ImportFrom) and node.module == "latprune"
        for alias in node.names
    }

    assert asked <= {"__version__"}


def test_public_names_are_listed_once_and_in_order() -> None:
    listed = public.__all__
    present = {
        name
        for name, value in vars(public).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }

    assert list(listed) == sorted(set(listed))
    # A function may share its name with its module; then the function is what is public.
    assert present == {name for name in listed if not name.startswith("_")}


@pytest.mark.parametrize("name", latprune.__all__)
def test_a_public_name_says_what_it_is(name: str) -> None:
    public = getattr(latprune, name)
    functions = [member for _, member in inspect.getmembers(public) if is_own_method(member)]

    assert (inspect.getdoc(public) or "").strip()
    assert [function.__qualname__ for function in functions if not function.__doc__] == []


def is_own_method(member: object) -> bool:
    return (
        inspect.isfunction(member)
        and member.__module__.startswith("latprune.")
        and not member.__name__.startswith("_")
    )


def test_public_names_are_there_once_they_are_asked_for() -> None:
    script = (
        "import sys, latprune; print('torch' in sys.modules, *dir(latprune)); "
        "from latprune import *; print(*globals())"
    )

    (is_early, *listed), given = map(
        str.split, output_of(sys.executable, "-c", script).splitlines()
    )

    assert is_early == "False"
    assert set(public.__all__) <= set(listed)
    assert set(public.__all__) <= set(given)
    assert all(getattr(latprune, name) is getattr(public, name) for name in public.__all__)


def test_a_name_that_is_not_there_is_an_error_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'latprune' has no attribute 'prun'"):
        getattr(latprune, "prun")  # noqa: B009 (mypy knows as much)


def test_importing_latprune_imports_no_extra() -> None:
    script = "import sys, latprune.public; print(*{name.partition('.')[0] for name in sys.modules})"

    loaded = output_of(sys.executable, "-c", script).split()

    assert "torch" in loaded
    assert sorted(set(EXTRAS) & set(loaded)) == []


def test_importing_latprune_touches_no_accelerator() -> None:
    script = "import latprune.public, torch; print(torch.cuda.is_initialized())"

    assert output_of(sys.executable, "-c", script).strip() == "False"


def test_no_tracked_file_names_a_registry_or_the_place_where_it_was_written(
    repository: Path,
) -> None:
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = output_of("git", "-C", str(repository), "ls-files", "-z").split("\0")
    # Written so that this file does not match itself.
    unwanted = re.compile(r"py[p]i\.org|pythonho[s]ted|/simpl[e]/?\b|index-ur[l]|(?<!\w)/wor[k]/")

    named = [
        f"{name}: {found[0]}"
        for name in tracked
        if name and (found := unwanted.search(readable(repository / name)))
    ]

    assert named == []


def test_text_has_one_encoding_whatever_the_machines_is() -> None:
    left_open = [
        f"{file.relative_to(SOURCE)}: {ast.unparse(node)}"
        for file in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(source_of(file)))
        if isinstance(node, ast.Call) and leaves_encoding_open(node)
    ]

    assert left_open == []


@pytest.mark.parametrize(
    ("code", "left_open"),
    [
        ("file.read_text()", True),
        ("file.write_text('é')", True),
        ("file.open('a')", True),
        ("open(file)", True),
        ("TemporaryFile('w+')", True),
        ("run(command, text=True)", True),
        ("file.read_text(encoding='utf-8')", False),
        ("file.open('rb')", False),
        ("LatencyTable.open(file)", False),
        ("TemporaryFile()", False),
    ],
)
def test_what_leaves_an_encoding_open_is_known(code: str, left_open: bool) -> None:
    call = ast.parse(code, mode="eval").body

    assert isinstance(call, ast.Call)
    assert leaves_encoding_open(call) == left_open


def test_constraints_are_plain_versions(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text().splitlines()

    assert lines
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+!-]+", line)] == []
    assert not any(line.startswith("latprune") for line in lines)


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def leaves_encoding_open(call: ast.Call) -> bool:
    """Whether a call reads or writes text as the machine's locale has it."""
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    name = ast.unparse(call.func).rpartition(".")[-1]
    if "encoding" in given:
        return False
    if name in ("read_text", "write_text") or given.get("text") == "True":
        return True
    words = [str(word.value) for word in call.args if isinstance(word, ast.Constant)]
    modes = [word for word in words if re.fullmatch(r"[rwax][bt+]*", word)]
    if ast.unparse(call.func) == "open" and not modes:
        return True
    opens = ("open", "TemporaryFile", "NamedTemporaryFile")
    return name in opens and any("b" not in mode for mode in modes)


def source_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def readable(file: Path) -> str:
    try:
        return file.read_text()
    except (UnicodeDecodeError, FileNotFoundError):
        return ""
