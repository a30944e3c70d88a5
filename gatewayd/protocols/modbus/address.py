"""Addresses of Modbus points: `HR:100:f32`, `IR:30:u16`, `CO:5`, `DI:7`, `HR:5.3`, `HR:5.4-6`, `40101:f32:cdab`. Pure.

Addresses are those of the protocol, 0 to 65535. A number alone is a Modicon reference, which counts from 1 and says
the table with its first digit: 40101 and 400101 are HR:100, 30031 is IR:30, 10008 is DI:7, 8 and 00008 are CO:7.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from gatewayd.points.types import Kind
from gatewayd.problems import listed, shown, suggestion
from gatewayd.protocols.modbus.values import (
    BIG_ENDIAN,
    U16,
    Order,
    Type,
    from_octets,
    order_named,
    to_octets,
    type_named,
)

LAST = 65535
"""The last address of each table."""


class Table(StrEnum):
    """The four tables of the Modbus data model."""

    CO = "CO"
    DI = "DI"
    IR = "IR"
    HR = "HR"

    @property
    def of_bits(self) -> bool:
        """Coils and discrete inputs."""
        return self in (Table.CO, Table.DI)

    @property
    def writable(self) -> bool:
        """Coils and holding registers."""
        return self in (Table.CO, Table.HR)


NAMES = {
    Table.CO: "coil",
    Table.DI: "discrete input",
    Table.IR: "input register",
    Table.HR: "holding register",
}
_MODICON = {"0": Table.CO, "1": Table.DI, "3": Table.IR, "4": Table.HR}
_SHAPE = re.compile(
    r"(?:(?P<table>[A-Za-z]+):(?P<number>0[xX][0-9a-fA-F]{1,8}|[0-9]{1,9})|(?P<modicon>[0-9]{1,9}))"
    r"(?:\.(?P<low>[0-9]{1,3})(?:-(?P<high>[0-9]{1,3}))?)?"
    r"(?::(?P<type>[A-Za-z0-9]+))?(?::(?P<order>[A-Za-z]+))?"
)
FORM = "HR:100:f32, IR:30:u16, CO:5, DI:7 or HR:5.3 is allowed"


class AddressError(ValueError):
    """What was found and what is allowed, for people."""


class Address(NamedTuple):
    """Where a value is.

    type:  of a value in registers; None for a coil or a discrete input
    bits:  the lowest and the highest bit of a part of one register (0 is the least significant), else None
    not_available: values that mean "I have none"; low, high: what the measurement can be at all
    """

    table: Table
    start: int
    type: Type | None = None
    order: Order = BIG_ENDIAN
    bits: tuple[int, int] | None = None
    not_available: frozenset[float] = frozenset()
    low: float | None = None
    high: float | None = None

    @property
    def size(self) -> int:
        """Registers it takes, or 1 for a coil or a discrete input."""
        return self.type.registers if self.type else 1

    @property
    def end(self) -> int:
        """The address behind its last one."""
        return self.start + self.size

    def overlaps(self, other: Address) -> bool:
        """Both have a coil or register in common."""
        return self.table is other.table and self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        text = f"{self.table}:{self.start}"
        if self.bits:
            low, high = self.bits
            return f"{text}.{low}" + (f"-{high}" if high != low else "")
        return text + (f":{self.type.name}" if self.type else "")


def parse(text: str, order: Order = BIG_ENDIAN) -> Address:
    """The address of a point. order: of values of several registers that do not say theirs. Raises AddressError."""
    place, *words = text.split() or [""]
    address = parse_place(place, order)
    for word in words:
        address = _with_word(address, word)
    if address.low is not None and address.high is not None and address.low > address.high:
        raise AddressError(f"found min={address.low:g} above max={address.high:g}; min must not be above max")
    return address


def parse_place(text: str, order: Order = BIG_ENDIAN) -> Address:
    """Table, address, bits, type and order alone. Raises AddressError."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise AddressError(f"found {shown(text)}; {FORM}")
    table, start = _modicon(match["modicon"]) if match["modicon"] else _plain(match["table"], match["number"])
    if table.of_bits:
        for part, what in (("low", "bit"), ("type", "type"), ("order", "order")):
            if match[part] is not None:
                raise AddressError(f"found {shown(text)}; a {NAMES[table]} ({table}) has no {what}, a register has")
        return Address(table, start)
    if match["low"] is not None:
        if match["type"]:
            raise AddressError(f"found {shown(text)}; a bit of a register has no type and no order")
        return Address(table, start, U16, bits=_bits(text, match["low"], match["high"]))
    try:
        kind = type_named(match["type"].lower()) if match["type"] else U16
        chosen = order_named(match["order"].lower(), kind) if match["order"] else order
    except ValueError as error:
        raise AddressError(str(error)) from None
    if not match["order"] and (kind.is_text or kind.registers == 1):
        chosen = BIG_ENDIAN  # the device's order is for values of several registers
    address = Address(table, start, kind, chosen)
    if address.end - 1 > LAST:
        raise AddressError(
            f"found {shown(text)}, {address.size} registers to {table}:{address.end - 1}; {table}:{LAST} is the last"
        )
    return address


def _plain(name: str, number: str) -> tuple[Table, int]:
    try:
        table = Table(name.upper())
    except ValueError:
        raise AddressError(
            f"found table {shown(name)}; {listed(Table)} is allowed{suggestion(name.upper(), Table)}"
        ) from None
    start = int(number, 0) if number[:2].lower() == "0x" else int(number)
    if start > LAST:
        raise AddressError(f"found {table}:{start}; addresses go from {table}:0 to {table}:{LAST}")
    return table, start


def _modicon(digits: str) -> tuple[Table, int]:
    if len(digits) < 5:
        table, number = Table.CO, int(digits)
    elif len(digits) in (5, 6) and digits[0] in _MODICON:
        table, number = _MODICON[digits[0]], int(digits[1:])
    else:
        raise AddressError(
            f"found {shown(digits)}; a number alone is a Modicon reference of five or six digits that begins with"
            " 0, 1, 3 or 4 (40101 is HR:100); protocol addresses are written with their table, as in HR:100"
        )
    if not 1 <= number <= LAST + 1:
        raise AddressError(f"found {shown(digits)}; Modicon references count from 1 to {LAST + 1} in each table")
    return table, number - 1


def _bits(text: str, low: str, high: str | None) -> tuple[int, int]:
    first, last = int(low), int(high if high is not None else low)
    if not 0 <= first <= last <= 15:
        raise AddressError(f"found {shown(text)}; bits go from .0 (least significant) to .15, as in .3 or .4-6")
    return first, last


def _with_word(address: Address, word: str) -> Address:
    name, equals, given = word.partition("=")
    if not equals or name not in ("na", "min", "max"):
        allowed = ("na=", "min=", "max=")
        raise AddressError(f"found {shown(word)}; {listed(allowed)} is allowed{suggestion(f'{name}=', allowed)}")
    kind = address.type
    if kind is None or kind.is_text or address.bits:
        raise AddressError(f"found {shown(word)}; only with a number in registers")
    if name == "na":
        values = [number(part, kind) for part in given.split("|")]
        return address._replace(not_available=address.not_available | frozenset(values))
    if name == "min":
        return address._replace(low=number(given, kind))
    return address._replace(high=number(given, kind))


def number(text: str, kind: Type) -> float:
    """A number written by people: hexadecimal is the pattern in the registers, decimal the value.

    Raises AddressError.
    """
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", text):
        pattern = int(text, 16)
        if pattern >> kind.octets * 8:
            raise AddressError(f"found {shown(text)}; {kind.name} has {kind.octets * 2} hexadecimal digits")
        value = from_octets(pattern.to_bytes(kind.octets, "big"), kind, BIG_ENDIAN)
    elif re.fullmatch(r"-?[0-9]{1,20}", text):
        value = int(text)
    elif kind.is_float and re.fullmatch(r"-?[0-9]{1,20}\.[0-9]{1,20}(e-?[0-9]{1,3})?", text):
        value = float(text)
    else:
        raise AddressError(f"found {shown(text)}; a {'' if kind.is_float else 'whole '}number or 0x… is allowed")
    try:
        value = from_octets(to_octets(value, kind, BIG_ENDIAN), kind, BIG_ENDIAN)
    except ValueError as error:
        if value == value:  # NaN as a pattern is allowed
            raise AddressError(str(error)) from None
    assert isinstance(value, (int, float))
    return value


_FITS: dict[Kind, str] = {
    Kind.BINARY: "CO, DI, a bit (HR:5.3) or u16 (0 and 1)",
    Kind.DOUBLE: "two bits (HR:5.2-3), u16 (0 to 3) or a pair of contacts (DI:0|DI:1)",
    Kind.ANALOG: "a number in registers (u16 to f64) or bits of one (HR:5.4-6)",
    Kind.COUNTER: "a whole number in registers (u16 to i64) or bits of one (HR:5.4-6)",
    Kind.ENUM: "a whole number in registers (u16 to i64), bits of one (HR:5.4-6), CO or DI",
    Kind.STRING: "a text in registers (HR:40:str8)",
}


def misfit(address: Address, kind: Kind) -> str:
    """What is wrong with reading a point of this kind there; "" where it fits."""
    return "" if _fits(address, kind) else f"found {address} for kind {kind}; {_FITS[kind]} is allowed"


def _fits(address: Address, kind: Kind) -> bool:
    form, bits = address.type, address.bits
    if form is None:
        return kind in (Kind.BINARY, Kind.ENUM)
    if bits is not None:
        width = bits[1] - bits[0] + 1
        return {Kind.BINARY: width == 1, Kind.DOUBLE: width == 2, Kind.STRING: False}.get(kind, True)
    if kind in (Kind.BINARY, Kind.DOUBLE):
        return form is U16
    if kind is Kind.STRING:
        return form.is_text
    return form.is_whole or (kind is Kind.ANALOG and form.is_float)
