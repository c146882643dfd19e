"""Let a command take a group of options as one argument, and show the groups in its help."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Show typer the fields of every dataclass that a command takes, instead of the dataclass.

    Args:
        command: A function; its parameters, and the fields of those that are dataclasses, are
            options as typer reads them, and no two have the same name. A dataclass has a
            `heading`, under which `Sectioned` lists its options.

    Returns:
        A function of all of these options; it builds the dataclasses and calls the command.
    """
    hints = get_type_hints(command, include_extras=True)
    hints.pop("return")
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = list(_parameters(inspect.signature(command).parameters, hints))

    def spread_out(**values: Any) -> None:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **made)

    headings = {field.name: group.heading for group in groups.values() for field in fields(group)}
    vars(spread_out)["headings"] = headings
    spread_out.__name__, spread_out.__doc__ = command.__name__, command.__doc__
    spread_out.__annotations__ = {one.name: one.annotation for one in parameters}
    # What is required comes first in the help.
    parameters.sort(key=lambda one: one.default is not inspect.Parameter.empty)
    spread_out.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return spread_out


class Sectioned(TyperCommand):
    """A command whose help lists its options by their groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options that belong to no group, then group by group."""
        headings = getattr(self.callback, "headings", {})
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = headings.get(parameter.name, "Options")
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _parameters(
    own: Mapping[str, inspect.Parameter], hints: Mapping[str, Any]
) -> Iterator[inspect.Parameter]:
    """Give the parameters of a command, in order, groups as their fields."""
    for name, parameter in own.items():
        if is_dataclass(group := hints[name]):
            options = get_type_hints(group, include_extras=True)
            for field in fields(group):
                default = inspect.Parameter.empty if field.default is MISSING else field.default
                yield _option(field.name, options[field.name], default)
        else:
            yield _option(name, hints[name], parameter.default)


def _option(name: str, hint: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=hint)
