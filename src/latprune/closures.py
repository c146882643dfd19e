"""Functions that a model holds and that refer back to it, as a hook that keeps what it sees in it.

Python copies no functions: in a copy of the model they would run, and fill, the model itself.
"""

from __future__ import annotations

from functools import partial
from types import CellType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

_NO_PARTS = (FunctionType, type, str, bytes, int, float, complex, type(None))


def refer_to_copies(twin: nn.Module, model: nn.Module, copies: Mapping[int, Any]) -> None:
    """Let the functions that a copy of a model holds refer to the copy, in place.

    Args:
        twin: The copy; it holds the model's functions.
        model: What was copied.
        copies: What `deepcopy` remembers: copies by the ids of what they are copies of.
    """
    functions = _functions_in([vars(module) for module in model.modules()])
    if not functions:
        return
    own = {
        id(part)
        for module in model.modules()
        for part in (module, *_held(vars(module), set()))
        if not isinstance(part, _NO_PARTS)
    }
    cells: dict[int, CellType] = {}  # functions that share one still do
    twins = {id(one): _twin_of(one, cells, own) for one in functions if _refers(one, own)}
    if twins:
        known = {**copies, **twins}
        for one in functions:
            if id(one) in twins:
                _refer(twins[id(one)], one, known)
        for module in twin.modules():
            _replace(vars(module), twins, copies, set())


def _held(value: Any, seen: set[int]) -> Iterator[Any]:
    """Give a value and what lies in it, through containers; modules hold theirs themselves."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if isinstance(value, dict):
        value = list(value.values())
    elif isinstance(value, partial):
        value = [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, list | tuple | set):
        for part in value:
            yield from _held(part, seen)


def _functions_in(value: Any) -> list[FunctionType]:
    """Give functions, and those that they refer to."""
    found: dict[int, FunctionType] = {}
    left = [value]
    while left:
        for part in _held(left.pop(), set()):
            if isinstance(part, FunctionType) and id(part) not in found:
                found[id(part)] = part
                left.append(list(_referred(part)))
    return list(found.values())


def _referred(function: FunctionType) -> Iterator[Any]:
    """Give what a function closes over, its arguments' defaults, and globals but for functions."""
    yield from (cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell))
    yield from (part for part in _globals(function).values() if not isinstance(part, FunctionType))
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _globals(function: FunctionType) -> dict[str, Any]:
    """Give the globals that a function names."""
    names = set(function.__code__.co_names) & function.__globals__.keys()
    return {name: function.__globals__[name] for name in names}


def _refers(function: FunctionType, own: set[int]) -> bool:
    """Whether a function refers to a part of the model, itself or through others."""
    referred = (part for one in _functions_in(function) for part in _referred(one))
    return any(id(_owner(part)) in own for part in referred)


def _owner(value: Any) -> Any:
    """Give the object of a bound method; anything else is its own."""
    return value.__self__ if isinstance(value, MethodType) else value


def _twin_of(function: FunctionType, cells: dict[int, CellType], own: set[int]) -> FunctionType:
    """Give a function of the same code that refers to nothing of the model yet."""
    closed = tuple(cells.setdefault(id(cell), CellType()) for cell in function.__closure__ or ())
    is_global = any(id(part) in own for part in _globals(function).values())
    names = dict(function.__globals__) if is_global else function.__globals__
    twin = FunctionType(function.__code__, names, function.__name__, None, closed or None)
    twin.__qualname__, twin.__module__ = function.__qualname__, function.__module__
    twin.__dict__.update(function.__dict__)
    return twin


def _refer(twin: FunctionType, function: FunctionType, copies: Mapping[int, Any]) -> None:
    """Let a function refer to the copies of what another one refers to."""
    for mine, other in zip(twin.__closure__ or (), function.__closure__ or (), strict=True):
        if _is_filled(other):
            mine.cell_contents = _copy_of(other.cell_contents, copies)
    if twin.__globals__ is not function.__globals__:
        named = _globals(function).items()
        twin.__globals__.update({name: copies.get(id(part), part) for name, part in named})
    if function.__defaults__:
        twin.__defaults__ = tuple(_copy_of(part, copies) for part in function.__defaults__)
    if function.__kwdefaults__:
        named = function.__kwdefaults__.items()
        twin.__kwdefaults__ = {name: _copy_of(part, copies) for name, part in named}


def _copy_of(value: Any, copies: Mapping[int, Any]) -> Any:
    """Give the copy of what was copied, and anything else as it is."""
    if isinstance(value, MethodType):
        return MethodType(value.__func__, copies.get(id(value.__self__), value.__self__))
    return copies.get(id(value), value)


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # a cell has no other way to tell
    except ValueError:
        return False
    return True


def _replace(
    value: Any, twins: Mapping[int, FunctionType], copies: Mapping[int, Any], seen: set[int]
) -> Any:
    """Put twins in the place of functions, in containers in place; give what stands there then."""
    if isinstance(value, FunctionType):
        return twins.get(id(value), value)
    # What could not be copied is the model's, too.
    if id(value) in seen or copies.get(id(value)) is value:
        return value
    seen.add(id(value))
    if isinstance(value, dict):
        for key, part in value.items():
            value[key] = _replace(part, twins, copies, seen)
    elif isinstance(value, list):
        value[:] = [_replace(part, twins, copies, seen) for part in value]
    elif type(value) is tuple:
        return tuple(_replace(part, twins, copies, seen) for part in value)
    elif type(value) is partial:
        call = (_replace(p, twins, copies, seen) for p in (value.func, value.args, value.keywords))
        func, args, keywords = call
        return partial(func, *args, **keywords)
    return value
