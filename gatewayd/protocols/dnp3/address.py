"""Addresses of DNP3 points. Pure.

`BI:12` binary input, `DBI:3` double-bit input, `AI:4` analog input, `CT:1` counter, `FC:1` frozen counter,
`BO:2` binary output status, `AO:1` analog output status, `OS:0` octet string: an object type and the index within it.
Source: IEEE 1815, the point types and their groups.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from gatewayd.points.types import Kind
from gatewayd.problems import listed, shown, suggestion

HIGHEST_INDEX = 65535


class AddressError(ValueError):
    """What was found and what is allowed, for people."""


class ObjectType(NamedTuple):
    """One type of point.

    static: object group of its present value, read with variation 0 (the device's own choice)
    event:  object group of its events
    kinds:  kinds of point that can take its values
    """

    name: str
    words: str
    static: int
    event: int
    kinds: tuple[Kind, ...]


TYPES = {
    one.name: one
    for one in (
        ObjectType("BI", "binary input", 1, 2, (Kind.BINARY, Kind.ENUM)),
        ObjectType("DBI", "double-bit input", 3, 4, (Kind.DOUBLE, Kind.ENUM)),
        ObjectType("AI", "analog input", 30, 32, (Kind.ANALOG, Kind.ENUM, Kind.COUNTER)),
        ObjectType("CT", "counter", 20, 22, (Kind.COUNTER, Kind.ANALOG)),
        ObjectType("FC", "frozen counter", 21, 23, (Kind.COUNTER, Kind.ANALOG)),
        ObjectType("BO", "binary output status", 10, 11, (Kind.BINARY, Kind.ENUM)),
        ObjectType("AO", "analog output status", 40, 42, (Kind.ANALOG, Kind.ENUM, Kind.COUNTER)),
        ObjectType("OS", "octet string", 110, 111, (Kind.STRING,)),
    )
}
FORMS = f"an address is a type and an index such as BI:12; types are {listed(TYPES)}"
_ADDRESS = re.compile(r"(?P<type>[A-Za-z_]+):(?P<index>\d{1,10})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """One point of an outstation. type: a key of TYPES; index: 0 to 65535."""

    type: str
    index: int

    def __str__(self) -> str:
        return f"{self.type}:{self.index}"


def parse(text: str) -> Address:
    """The address of a point. Raises AddressError."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        raise AddressError(f"found {shown(text)}; {FORMS}")
    name = match["type"]
    if name not in TYPES:
        hint = suggestion(name.upper(), TYPES) or f"; types are {listed(TYPES)}"
        raise AddressError(f"found the type {shown(name)}{hint}")
    return Address(name, index_of(match["index"], text))


def index_of(digits: str, text: str) -> int:
    """The index written in an address or a command. Raises AddressError where it is too high."""
    index = int(digits)
    if index > HIGHEST_INDEX:
        raise AddressError(f"found index {index} in {shown(text)}; 0 to {HIGHEST_INDEX} is allowed")
    return index
