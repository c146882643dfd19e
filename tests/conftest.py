"""What every test shares: one thread, a cache of its own, and real data where it lies beside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent

# A busy machine makes an example slow, never wrong.
settings.register_profile("latprune", deadline=None)
settings.load_profile("latprune")


def pytest_configure() -> None:
    """Keep every worker, and what it starts, on one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep latency tables away from the user's; one folder for the whole session."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LATPRUNE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def one_precision() -> Iterator[None]:
    """Let no trial by the clock decide in which precision networks are trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latprune.tuning.loop.has_bf16", lambda _device: False)
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, in whatever order they run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and weights: LATPRUNE_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("LATPRUNE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "SHA256SUMS").is_file():
        pytest.skip(f"needs the real data and weights in {folder} (or set LATPRUNE_DATA)")
    return folder
