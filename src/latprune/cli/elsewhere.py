"""Options that name another device, and what the user does about one that files are carried to."""

from __future__ import annotations

import json
import shlex
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from latprune.cli.options import usage
from latprune.errors import DeviceError, JobsPacked
from latprune.latency.devices.here import HERE
from latprune.latency.devices.jobs import MANIFEST
from latprune.latency.devices.packed import Packed, Unpacked
from latprune.latency.devices.packing import check_runner
from latprune.latency.devices.ssh import Ssh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from latprune.latency.devices import Device

PACKED = 5
ROUNDS = {
    1: "round 1 of 2, what finds the stairs: ",
    2: "round 2 of 2, what planning starts from: ",
}


@contextmanager
def chosen_device(
    context: typer.Context,
    on: str | None = None,
    table: Path | None = None,
    pack: Path | None = None,
) -> Iterator[Device]:
    """Open the device that the options of a command name; say what to do if work was packed for it.

    Raises:
        Exit: With `PACKED` if work was packed.
        BadParameter: If options contradict each other, or jobs would take a file's place.
    """
    if pack is not None:
        _check_jobs(pack)
    if on is not None and (table or pack):
        sentence = "--on reaches the device by itself: leave out --table and --pack"
        raise typer.BadParameter(sentence, param_hint="--on")
    if on is not None:
        with usage("--on"):
            device = Ssh(on)
        with device:
            yield device
    elif table or pack:
        try:
            yield Packed(table, jobs=pack, then=_same_command(context))
        except JobsPacked as packed:
            as_json = context.params["as_json"]
            print(json.dumps(_facts(packed), indent=2) if as_json else _steps(packed))
            raise typer.Exit(PACKED) from None
    else:
        yield HERE


def _check_jobs(path: Path) -> None:
    """See that jobs would go to a file of their own.

    Raises:
        BadParameter: If not; nothing has been written then.
    """
    if path.suffix != ".zip":
        sentence = f"jobs are a zip file: name it so, such as {path.with_suffix('.zip')}"
        raise typer.BadParameter(sentence, param_hint="--pack")
    if path.exists() and not _holds_jobs(path):
        sentence = f"{path} is there and holds no jobs: name a file that is not there"
        raise typer.BadParameter(sentence, param_hint="--pack")
    try:
        check_runner(path.parent)
    except DeviceError as error:
        raise typer.BadParameter(str(error), param_hint="--pack") from None


def _holds_jobs(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as found:
            return MANIFEST in found.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def told(unpacked: Unpacked) -> str:
    """Say what came of reading results, and how to go on."""
    table = unpacked.table
    lines = [
        f"{unpacked.added} new measurements of {table.target.describe()}",
        f"are in {table.path}",
        *(f"failed there: {sentence}" for sentence in unpacked.failed),
    ]
    if unpacked.then:
        lines.append(f"go on with: {next_command(unpacked)}")
    return "\n".join(lines)


def next_command(unpacked: Unpacked) -> str:
    """Give the command that packed, with the table that its results went to."""
    return shlex.join([*unpacked.then, "--table", str(unpacked.table.path)])


def _steps(packed: JobsPacked) -> str:
    jobs, runner = packed.path, packed.runner
    size = jobs.stat().st_size / 1e6
    copied = shlex.join([_as_local(jobs), _as_local(runner)])
    # The shell over there reads them once more.
    started = shlex.join(map(shlex.quote, (runner.name, jobs.name)))
    return "\n".join(
        [
            f"{ROUNDS.get(packed.round, '')}{packed.what} went to {jobs} ({size:.1f} MB). Next:",
            f"  scp {copied} DEVICE:",
            f"  ssh DEVICE python3 {started} results.jsonl",
            "  scp DEVICE:results.jsonl .",
            "  latprune measure --unpack results.jsonl",
        ]
    )


def _as_local(path: Path) -> str:
    """Give a path that scp takes for no host: what is before a colon would be one."""
    return f"./{path}" if ":" in str(path) and not path.is_absolute() else str(path)


def _facts(packed: JobsPacked) -> dict[str, Any]:
    return {
        "packed": str(packed.path),
        "runner": str(packed.runner),
        "what": packed.what,
        "round": packed.round,
    }


def _same_command(context: typer.Context) -> list[str]:
    """The command that is running, without its --table."""
    words = ["latprune", str(context.info_name)]
    for option in context.command.params:
        value = context.params.get(str(option.name))
        if option.name == "table" or value is None or value == option.get_default(context):
            continue
        flag = option.opts[0]
        if isinstance(value, bool):
            words.append(flag if value else option.secondary_opts[0])
        else:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                words += [flag, str(one)]
    return words
