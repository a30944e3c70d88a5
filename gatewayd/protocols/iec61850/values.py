"""MMS values and type descriptions to Python and back. Runs on the association's thread, inside its callbacks.

A value is decoded by the type it says it has, never by the type it should have: a device that sends something else
than its own type description cannot make us read beyond a value.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from gatewayd.protocols.iec61850.lib import native

ARRAY, STRUCTURE, BOOLEAN, BIT_STRING, INTEGER, UNSIGNED, FLOAT, OCTET_STRING, VISIBLE_STRING = range(9)
BINARY_TIME, MMS_STRING, UTC_TIME, ACCESS_ERROR = 10, 13, 14, 15
DEEPEST = 12
"""Levels of structures followed at most; 8-1 needs six."""


class Bits(NamedTuple):
    """A bit string: bit 0 of the wire is bit 0 of `value`."""

    value: int
    size: int


class AccessError(NamedTuple):
    """A DataAccessError in place of a value (ISO 9506-2): 2 temporarily-unavailable, 3 denied, 10 non-existent."""

    code: int


class Node(NamedTuple):
    """A type description: name, MMS type, size (bits, octets), components."""

    name: str
    type: int
    size: int
    children: tuple[Node, ...] = ()

    def child(self, name: str) -> Node | None:
        """The component of that name."""
        return next((child for child in self.children if child.name == name), None)

    def walk(self, names: tuple[str, ...]) -> Node | None:
        """The component of a path of names, None where there is none."""
        node: Node | None = self
        for name in names:
            node = node.child(name) if node is not None else None
        return node

    def indices(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """A path of names as a path of positions. Raises ValueError where there is none."""
        node, path = self, []
        for name in names:
            position = [child.name for child in node.children].index(name)
            path.append(position)
            node = node.children[position]
        return tuple(path)


_type_of = native.MmsValue_getType
_element = native.MmsValue_getElement
_bits = native.MmsValue_getBitStringAsInteger
_bit_size = native.MmsValue_getBitStringSize
_utc = native.MmsValue_getUtcTimeBuffer
_string_at = ctypes.string_at


def layout(specification: int, depth: int = 0) -> Node:
    """A MmsVariableSpecification as a Node."""
    kind = native.MmsVariableSpecification_getType(specification)
    name = (native.MmsVariableSpecification_getName(specification) or b"").decode("utf-8", "replace")
    size = native.MmsVariableSpecification_getSize(specification)
    if kind != STRUCTURE or depth >= DEEPEST:
        return Node(name, kind, size)
    parts = (native.MmsVariableSpecification_getChildSpecificationByIndex(specification, i) for i in range(size))
    return Node(name, kind, size, tuple(layout(part, depth + 1) for part in parts if part))


def _integer(value: int) -> int:
    return int(native.MmsValue_toInt64(value))


def _unsigned(value: int) -> int:
    number = int(native.MmsValue_toInt64(value))
    return number if number >= 0 else int(native.MmsValue_toUint32(value))  # a device without the leading zero


def _text(value: int) -> str:
    return (native.MmsValue_toString(value) or b"").decode("utf-8", "replace")


def _octets(value: int) -> bytes:
    size, buffer = native.MmsValue_getOctetStringSize(value), native.MmsValue_getOctetStringBuffer(value)
    return ctypes.string_at(buffer, size) if buffer and size else b""


def _dbpos(value: int) -> int | None:
    """Dbpos and Tcmd: the first bit of the wire is the higher one."""
    return int(native.MmsValue_getBitStringAsIntegerBigEndian(value)) if _bit_size(value) <= 32 else None


_LEAVES: dict[int, Callable[[int], Any]] = {
    BOOLEAN: native.MmsValue_getBoolean,
    BIT_STRING: _dbpos,
    INTEGER: _integer,
    UNSIGNED: _unsigned,
    FLOAT: native.MmsValue_toDouble,
    OCTET_STRING: lambda value: _octets(value).hex(),
    VISIBLE_STRING: _text,
    MMS_STRING: _text,
    UTC_TIME: lambda value: _string_at(_utc(value), 8).hex(),
    BINARY_TIME: lambda value: int(native.MmsValue_getBinaryTimeAsUtcMs(value)),
    ACCESS_ERROR: lambda value: AccessError(native.MmsValue_getDataAccessError(value)),
}


def leaf(value: int | None) -> Any:
    """A single value for a Sample: bit strings as Dbpos (big-endian), NaN and structures as None."""
    if not value:
        return None
    decode = _LEAVES.get(_type_of(value))
    return decode(value) if decode is not None else None


def quality_bits(value: int | None) -> int | None:
    """The 13 bits of a quality, bit 0 of the wire as bit 0; None where it is no quality."""
    if not value or _type_of(value) != BIT_STRING or _bit_size(value) != 13:
        return None
    return int(_bits(value))


def utc_time(value: int | None) -> bytes | None:
    """The 8 octets of a UTC time (seconds, fraction, quality); None where it is none."""
    if not value or _type_of(value) != UTC_TIME:
        return None
    return _string_at(_utc(value), 8)


def follow(value: int | None, path: tuple[int, ...]) -> int | None:
    """The component at a path of positions; None (or an access error on the way) where there is none."""
    for position in path:
        if not value:
            return None
        inner = _element(value, position)
        if inner is None and _type_of(value) == ACCESS_ERROR:
            return value
        value = inner
    return value


def whole(value: int | None, depth: int = 0) -> Any:
    """Anything as Python: structures as lists, bit strings as Bits, octet strings as bytes."""
    if not value or depth > DEEPEST:
        return None
    kind = _type_of(value)
    if kind in (ARRAY, STRUCTURE):
        return [whole(_element(value, i), depth + 1) for i in range(native.MmsValue_getArraySize(value))]
    if kind == BIT_STRING:
        size = _bit_size(value)
        return Bits(int(_bits(value)) if size <= 32 else 0, size)
    if kind == OCTET_STRING:
        return _octets(value)
    return leaf(value)


def finite(number: float) -> bool:
    """False for NaN and the infinities."""
    return math.isfinite(number)


# making values: each returns a MmsValue* of ours, deleted with the structure it is put into
def boolean(value: bool) -> int:
    """BOOLEAN"""
    return int(native.MmsValue_newBoolean(value))


def integer(value: int) -> int:
    """INT8 .. INT64"""
    return int(native.MmsValue_newIntegerFromInt64(value))


def unsigned(value: int) -> int:
    """INT8U .. INT32U"""
    return int(native.MmsValue_newUnsignedFromUint32(value))


def octets(value: bytes, longest: int = 64) -> int:
    """An octet string of variable length."""
    made = int(native.MmsValue_newOctetString(0, max(longest, len(value))))
    native.MmsValue_setOctetString(made, value, len(value))
    return made


def text(value: str) -> int:
    """A visible string."""
    return int(native.MmsValue_newVisibleString(value.encode()))


def bits(value: int, size: int) -> int:
    """A bit string; bit 0 of `value` is bit 0 of the wire."""
    made = int(native.MmsValue_newBitString(size))
    for position in range(abs(size)):
        native.MmsValue_setBitStringBit(made, position, bool(value >> position & 1))
    return made


def structure(parts: list[int]) -> int:
    """A structure that owns its parts."""
    made = int(native.MmsValue_createEmptyStructure(len(parts)))
    for position, part in enumerate(parts):
        native.MmsValue_setElement(made, position, part)
    return made
