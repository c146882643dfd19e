"""A command takes groups of options; typer, and so the user, sees the options."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from latprune.cli.app import app
from latprune.cli.options import Sectioned, spread

Size = Annotated[int, typer.Option("--size", min=1)]
Name = Annotated[str, typer.Option("--name")]


@dataclass(frozen=True, kw_only=True)
class Shape:
    heading: ClassVar[str] = "Its shape"

    size: Size = 3
    name: Name


def parsed(*arguments: str) -> tuple[int, list[Any]]:
    """Run a command that takes a group and an option: its exit code, and what it was given."""
    given: list[Any] = []

    @spread
    def command(*, loud: bool = False, shape: Shape) -> None:
        given.extend([loud, shape])

    own = typer.Typer()
    own.command(cls=Sectioned)(command)
    return CliRunner().invoke(own, list(arguments)).exit_code, given


def test_a_group_arrives_whole() -> None:
    assert parsed("--name", "a", "--loud") == (0, [True, Shape(size=3, name="a")])
    assert parsed("--name", "a", "--size", "5") == (0, [False, Shape(size=5, name="a")])


@pytest.mark.parametrize("arguments", [(), ("--name", "a", "--size", "0")])
def test_an_option_of_a_group_is_checked_like_any_other(arguments: tuple[str, ...]) -> None:
    assert parsed(*arguments) == (2, [])


def test_required_options_come_first() -> None:
    @spread
    def command(*, loud: bool = False, shape: Shape) -> None: ...

    assert list(inspect.signature(command).parameters) == ["name", "loud", "size"]


def test_the_help_lists_a_groups_options_under_its_heading() -> None:
    @spread
    def command(*, loud: bool = False, shape: Shape) -> None: ...

    own = typer.Typer(rich_markup_mode=None)
    own.command(cls=Sectioned)(command)
    plain, shape = CliRunner().invoke(own, ["--help"]).stdout.split("Its shape:")

    assert "--loud" in plain
    assert "--name" in shape
    assert "--size" in shape


@pytest.mark.parametrize("command", [one.name for one in app.registered_commands])
def test_every_command_says_what_it_does(command: str) -> None:
    found = CliRunner().invoke(app, [command, "--help"])

    assert found.exit_code == 0
    assert f"{command} [OPTIONS]" in found.stdout
