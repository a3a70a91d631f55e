"""Checks of a configuration dataclass's fields, driven by its type hints (no torch)."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from dougong.errors import ConfigError

Config = TypeVar("Config")


@dataclass(frozen=True)
class Between:
    """The field is a finite number from `low` to `high`, both included."""

    low: float
    high: float

    def holds(self, value: Any) -> bool:
        """Whether `value`, of the field's type already, is allowed."""
        return bool(math.isfinite(value) and self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"{self.low:,} to {self.high:,}"


@dataclass(frozen=True, init=False)
class OneOf:
    """The field is one of `values`."""

    values: tuple[object, ...]

    def __init__(self, *values: object) -> None:
        object.__setattr__(self, "values", values)

    def holds(self, value: Any) -> bool:
        """Whether `value`, of the field's type already, is allowed."""
        return value in self.values

    def __str__(self) -> str:
        return " or ".join(repr(value) for value in self.values)


def refuse(field: str, value: object, allowed: str) -> NoReturn:
    """Raises ConfigError: the field's name, the value, and what is allowed."""
    name = field if field.isprintable() else repr(field)  # one line, whatever the file says
    raise ConfigError(f"{name[:200]} is {repr(value)[:200]}; allowed: {allowed}.")


def require(holds: bool, field: str, value: object, allowed: str) -> None:
    """Raises ConfigError, as `refuse` does, unless `holds`."""
    if not holds:
        refuse(field, value, allowed)


def build(kind: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """`kind(**values)`; raises ConfigError for an unknown field and for a missing one."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (is it {near[0]}?)" if near else ""
            refuse(prefix + name, value, f"no such field, its meaning is unknown{hint}")
    for name, field in known.items():
        if name not in values and field.default is MISSING:
            raise ConfigError(f"{prefix}{name} is missing; it has no default.")
    return kind(**values)


def check_fields(config: Any, prefix: str = "") -> None:
    """Checks every field of a dataclass instance against its hint; raises ConfigError."""
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        _check(f"{prefix}{name}", getattr(config, name), hint)


def _check(field: str, value: object, hint: Any) -> None:
    rules: tuple[Any, ...] = ()
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        if value is None and len(members) < len(get_args(hint)):
            return
        hint = members[0]
    if get_origin(hint) is Annotated:
        hint, *annotations = get_args(hint)
        rules = tuple(annotations)
    if not _is_of_type(value, hint):
        allowed = " and ".join([_name(hint), *map(str, rules)])
        refuse(field, value, allowed)
    for rule in rules:
        require(rule.holds(value), field, value, str(rule))


def _is_of_type(value: object, hint: Any) -> bool:
    """isinstance as config.json means it: true is no number, 10000 is a float."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_of_type(value, member) for member in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple)
    if hint is float:
        return type(value) in (int, float) and abs(value) < 1e300  # type: ignore[arg-type]
    return isinstance(value, bool) if hint is bool else type(value) is hint


def _name(hint: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    default = "a list" if get_origin(hint) is tuple else "an object"
    return names.get(hint, default)
