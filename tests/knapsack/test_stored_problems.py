"""The benchmark's problems, of real networks, are whole and solved to a proven gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from benchmarks.knapsack.stored import (
    alike,
    dense,
    load_about,
    load_problem,
    save_problem,
    stored_problems,
)

from latprune.knapsack import Problem, Table, joint

if TYPE_CHECKING:
    from pathlib import Path

SHARE = 0.55


@pytest.fixture(params=stored_problems("*-16"), ids=lambda path: path.stem)
def stored(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_are_problems() -> None:
    assert len(stored_problems("*-16")) >= 6


def test_joint_proves_its_choice_on_a_real_network(stored: Path) -> None:
    problem = load_problem(stored, SHARE)
    choice = joint(problem)

    assert choice.cost_ms <= problem.budget_ms
    assert choice.gap <= 1e-3
    assert choice.value > 0.5 * dense(problem).value


def test_the_budget_is_a_share_of_what_the_dense_layers_cost(stored: Path) -> None:
    whole = load_problem(stored, 1.0)

    assert whole.budget_ms == dense(whole).cost_ms
    assert load_problem(stored, SHARE).budget_ms == pytest.approx(SHARE * whole.budget_ms)
    assert whole.budget_ms == pytest.approx(load_about(stored)["dense_layers_ms"], rel=1e-6)


def test_a_problem_comes_back_as_it_was_written(stored: Path, tmp_path: Path) -> None:
    problem, about = load_problem(stored, SHARE), load_about(stored)

    save_problem(tmp_path / "copy.npz", problem, about)

    assert alike(load_problem(tmp_path / "copy.npz", SHARE), problem)
    assert load_about(tmp_path / "copy.npz") == about


def test_a_file_says_where_its_numbers_come_from() -> None:
    for path in stored_problems():
        about = load_about(path)

        assert {"target", "versions", "seed", "command", "saliency"} <= set(about)
        assert path.stat().st_size < 1e6


def test_tables_that_are_no_plain_sums_are_refused(tmp_path: Path) -> None:
    tie = Table((0, 1, 2), np.where(np.eye(2)[:, :, None] == np.arange(2), 0.0, np.inf))
    values = np.array([1.0, 2.0])
    problem = Problem([values, values, np.zeros(2)], [Table((0,), values), tie], 1.0)

    with pytest.raises(ValueError, match="plain sums"):
        save_problem(tmp_path / "odd.npz", problem, {})
