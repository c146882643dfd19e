"""A folder that keeps a run is one process's, however the run was begun."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

import latprune as lp
from latprune.claims import Claim, claimed
from latprune.progress import Quiet
from latprune.tuning import tune
from latprune.tuning.checkpoint import FILE
from tests.gradual import training
from tests.gradual.training import begun, train
from tests.synthetic import Synthetic
from tests.tuning.test_loop import RECIPE, loader, network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no locks")

WORKS = """
import pathlib, sys
from latprune.claims import claimed
with claimed(pathlib.Path(sys.argv[1])):
    print("at work", flush=True)
    sys.stdin.read()
"""
LEAVES_A_WORKER = """
import os, pathlib, sys, time
from latprune.claims import claimed
with claimed(pathlib.Path(sys.argv[1])):
    if not os.fork():
        sys.stdin.read()
        os.write(1, b"still here")
        os._exit(0)
    print("at work", flush=True)
    time.sleep(600)
"""


@contextmanager
def another(folder: Path, code: str = WORKS) -> Iterator[subprocess.Popen[bytes]]:
    """Have another process at work in a folder."""
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_a_folder_is_one_processs_until_that_is_done(tmp_path: Path) -> None:
    with another(tmp_path), pytest.raises(lp.FolderInUse, match="is at work in") as refused:
        Claim().take(tmp_path)
    assert refused.value.path == tmp_path

    with claimed(tmp_path):
        pass


def is_free_to_others(folder: Path) -> bool:
    """Try to have another process at work in a folder."""
    command = [sys.executable, "-c", WORKS, str(folder)]
    tried = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert tried.returncode == 0 or b"FolderInUse" in tried.stderr
    return tried.returncode == 0


def test_a_process_has_a_folder_until_all_its_claims_are_given_back(tmp_path: Path) -> None:
    with claimed(tmp_path):
        with claimed(tmp_path / ".." / tmp_path.name):
            pass
        assert not is_free_to_others(tmp_path)
    assert is_free_to_others(tmp_path)


def test_a_folder_that_was_deleted_meanwhile_is_claimed_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with claimed(folder):
        shutil.rmtree(folder)
        with claimed(folder):
            assert not is_free_to_others(folder)
        assert is_free_to_others(folder)


def test_workers_of_a_killed_process_do_not_keep_its_folder(tmp_path: Path) -> None:
    with another(tmp_path, LEAVES_A_WORKER) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

        with claimed(tmp_path):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()  # for which the worker waits
            assert process.stdout.read() == b"still here"


def test_two_tunings_do_not_share_a_checkpoint(tmp_path: Path) -> None:
    with another(tmp_path), pytest.raises(lp.FolderInUse):
        tune(network(), loader(), recipe=RECIPE, checkpoint=tmp_path)
    assert not (tmp_path / FILE).exists()

    tune(network(), loader(), recipe=RECIPE, checkpoint=tmp_path)


@pytest.mark.parametrize("prune", [lp.prune, partial(lp.prune_gradually, steps=2, every=2)])
def test_a_pruning_has_its_checkpoint_from_measuring_to_the_end_of_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prune: Callable[..., lp.Pruned]
) -> None:
    Synthetic().install(monkeypatch)
    checkpoint, free = tmp_path / "run", dict[str, bool]()

    class Told(Quiet):
        def stage(self, name: str) -> None:
            free[name] = is_free_to_others(checkpoint)

    prune(
        training.network(),
        training.EXAMPLE,
        "60%",
        loader=[training.batch(number) for number in range(4)],
        recipe=RECIPE,
        target=lp.Target.here("synthetic"),
        folder=tmp_path / "tables",
        checkpoint=checkpoint,
        progress=Told(),
    )

    assert [stage for stage, is_free in free.items() if is_free] == ["trace", "check"]


def test_two_loops_do_not_share_a_checkpoint(tmp_path: Path) -> None:
    model, optimizer, pruning = begun(tmp_path / "tables")
    train(model, optimizer, pruning, range(3))
    with another(tmp_path):
        with pytest.raises(lp.FolderInUse):
            pruning.resume(tmp_path)
        with pytest.raises(lp.FolderInUse):
            pruning.save(tmp_path)
    assert not (tmp_path / FILE).exists()

    pruning.save(tmp_path)
    pruning.save(tmp_path)
    assert begun(tmp_path / "tables")[2].resume(tmp_path) == {}  # in the same process
