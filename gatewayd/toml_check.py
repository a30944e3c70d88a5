"""A TOML table against a msgspec struct: every unknown key, wrong type and missing key at once, each with its place."""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from gatewayd.points.sheet import decode_utf8
from gatewayd.problems import Problem, listed, printable, shown, suggestion
from gatewayd.toml_locate import Path, Places, locate

S = TypeVar("S", bound=msgspec.Struct)


class Source:
    """One TOML file: its data, its places, and the mistakes found in it so far."""

    def __init__(self, file: str, data: bytes, problems: list[Problem]) -> None:
        """Parse the octets; where that fails `table` stays empty and the mistake is noted."""
        self.file = file
        self.problems = problems
        self.table: dict[str, Any] = {}
        self._places = Places({}, {})
        text = decode_utf8(data, file)
        if isinstance(text, Problem):
            problems.append(text)
            return
        try:
            table = tomllib.loads(text)
            self._places = locate(text)
            self.table = table
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            message = str(error) or "nested too deep"
            where = re.search(r" \(at line (\d+), column (\d+)\)", message)
            line, column = (int(where[1]), int(where[2])) if where else _end(text)
            problems.append(Problem(file, line, column, f"not valid TOML: {re.sub(r' [(]at .*', '', message)}"))

    def mistake(self, path: Path, message: str) -> None:
        """Note a mistake at a value, or where a value is missing at its table."""
        self.problems.append(Problem(self.file, *self._places.value(path), printable(message)))

    def mistake_of_key(self, path: Path, message: str) -> None:
        """Note a mistake at a key."""
        self.problems.append(Problem(self.file, *self._places.key(path), printable(message)))


def _end(text: str) -> tuple[int, int]:
    lines = text.rstrip("\n").split("\n")
    return len(lines), len(lines[-1]) + 1


def read_table(source: Source, kind: type[S], table: object, path: Path) -> S | None:
    """The table as a struct, or None where nothing usable can be made of it.

    Keys that are wrong are noted and left out, so that the rest can be judged with their defaults.
    """
    known, complete = checked(source, kind, table, path)
    if not complete:
        return None
    try:
        return msgspec.convert(known, kind)
    except msgspec.ValidationError as error:  # what a struct's own __post_init__ refuses
        source.mistake(path, f"{_where(path)}{error}")
        return None


def checked(source: Source, kind: type[msgspec.Struct], table: object, path: Path) -> tuple[dict[str, Any], bool]:
    """The keys of a table that are right, and whether all needed ones are among them. Notes every mistake."""
    if not isinstance(table, Mapping):
        source.mistake(path, f"{_where(path)}found {_shown(table)}; a table is allowed")
        return {}, False
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    known: dict[str, Any] = {}
    complete = True
    for key, value in table.items():
        if key not in fields:
            hint = suggestion(key, fields) or f"; allowed are {', '.join(fields)}"
            source.mistake_of_key((*path, key), f"unknown key {shown(key)}{hint}")
            continue
        right, good = _checked_value(source, fields[key].type, value, (*path, key))
        if good:
            known[key] = right
    for name, field in fields.items():
        if field.required and name not in known:
            complete = False
            if name not in table:
                source.mistake(
                    path, f"{_where(path)}the key {shown(name)} is missing; {describe(field.type)} is needed"
                )
    return known, complete


def _checked_value(source: Source, kind: Any, value: Any, path: Path) -> tuple[Any, bool]:
    struct = _struct_in(kind)
    if struct is not None:
        return checked(source, struct, value, path)
    item = _list_of_structs(kind)
    if item is not None:
        if not isinstance(value, list):
            source.mistake(path, f"{_where(path)}found {_shown(value)}; [[{path[-1]}]] is allowed")
            return None, False
        parts = [checked(source, item, element, (*path, at)) for at, element in enumerate(value)]
        return [known for known, _ in parts], all(complete for _, complete in parts)
    if typing.get_origin(kind) is dict and isinstance(value, Mapping):
        inner_kind = typing.get_args(kind)[1]
        items = {key: _checked_value(source, inner_kind, inner, (*path, key)) for key, inner in value.items()}
        return {key: right for key, (right, good) in items.items() if good}, True
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        inner = re.search(r" - at `\$(.*)`", str(error))
        at = tuple(int(index) for index in re.findall(r"\[(\d+)\]", inner[1])) if inner else ()
        source.mistake((*path, *at), f"{_where(path)}found {_shown(value)}; {describe(kind)} is allowed")
        return None, False
    return value, True


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """The struct behind `Struct` or `Struct | None`."""
    options = (
        typing.get_args(kind)
        if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
        else (kind,)
    )
    for option in options:
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def _list_of_structs(kind: Any) -> type[msgspec.Struct] | None:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (list, tuple) and arguments:
        return _struct_in(arguments[0])
    return None


def describe(kind: Any) -> str:
    """A type in words for people: `a whole number from 1 to 65535`."""
    return _describe(msgspec.inspect.type_info(kind))


def _describe(info: msgspec.inspect.Type) -> str:
    match info:
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.IntType():
            return f"a whole number{_bounds(info)}"
        case msgspec.inspect.FloatType():
            return f"a number{_bounds(info)}"
        case msgspec.inspect.StrType():
            return "a text in quotes"
        case msgspec.inspect.LiteralType():
            return listed(f'"{value}"' for value in info.values)
        case msgspec.inspect.EnumType():
            return listed(f'"{member.value}"' for member in info.cls)
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType() | msgspec.inspect.SetType():
            return f"a list in brackets, each {_describe(info.item_type)}"
        case msgspec.inspect.UnionType():
            return listed(_describe(one) for one in info.types if not isinstance(one, msgspec.inspect.NoneType))
        case _:
            return "a table"


def _bounds(info: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    low, high = info.ge if info.ge is not None else info.gt, info.le if info.le is not None else info.lt
    above = "above" if info.gt is not None else "from"
    below = "below" if info.lt is not None else "to"
    if low is not None and high is not None:
        return f" {above} {low:g} {below} {high:g}"
    if low is not None:
        return f" above {low:g}" if info.gt is not None else f" of {low:g} or more"
    if high is not None:
        return f" below {high:g}" if info.lt is not None else f" of {high:g} or less"
    return ""


def _where(path: Path) -> str:
    names = [part for part in path if isinstance(part, str)]
    return f"{names[-1]}: " if names else ""


def _shown(value: object) -> str:
    """As it stands in TOML, roughly: texts in quotes, the rest bare."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return f"[{', '.join(_shown(item) for item in value[:5])}{', …' if len(value) > 5 else ''}]"
    return shown(value)[1:-1]
