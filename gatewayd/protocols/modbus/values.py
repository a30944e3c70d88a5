"""Values in registers: types, byte and word orders, from octets and back. Pure.

A register is 16 bits, the more significant octet first on the wire (Modbus application protocol 1.1b3, 4.2). How a
value of several registers lies in them is up to each manufacturer: that is the order.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from gatewayd.points.types import Value
from gatewayd.problems import listed, shown, suggestion


class Order(NamedTuple):
    """How a value lies in its registers. octets: swapped within each register; words: the last register first."""

    octets: bool = False
    words: bool = False


BIG_ENDIAN = Order()
ORDERS = {
    "abcd": BIG_ENDIAN,
    "badc": Order(octets=True),
    "cdab": Order(words=True),
    "dcba": Order(octets=True, words=True),
}
"""By the letters of a 32-bit value, a the most significant octet, as they come on the wire."""

_ORDERS_OF = {
    1: {"ab": BIG_ENDIAN, "ba": Order(octets=True)},
    2: ORDERS,
    4: {
        **ORDERS,
        "abcdefgh": BIG_ENDIAN,
        "badcfehg": Order(octets=True),
        "ghefcdab": Order(words=True),
        "hgfedcba": Order(octets=True, words=True),
    },
}


class Type(NamedTuple):
    """A type of value. format: of the struct module, "" for a text; octets: a text may end in half a register."""

    name: str
    format: str
    octets: int

    @property
    def registers(self) -> int:
        """Registers it takes."""
        return (self.octets + 1) // 2

    @property
    def is_text(self) -> bool:
        """A strN."""
        return not self.format

    @property
    def is_float(self) -> bool:
        """An f32 or f64."""
        return self.format in ("f", "d")

    @property
    def is_whole(self) -> bool:
        """One of u16 to i64."""
        return not self.is_text and not self.is_float

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest whole number it holds."""
        bits = self.octets * 8
        return (0, (1 << bits) - 1) if self.format.isupper() else (-(1 << bits - 1), (1 << bits - 1) - 1)


TYPES = {
    name: Type(name, form, struct.calcsize(f">{form}"))
    for name, form in {
        "u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q", "f32": "f", "f64": "d",
    }.items()
}  # fmt: skip
U16 = TYPES["u16"]
LONGEST_TEXT = 250
"""Octets of a text: 125 registers, what one read may carry."""
LARGEST_FLOAT32 = 3.4028234663852886e38

NOT_IMPLEMENTED: dict[str, int] = {
    "u16": 0xFFFF, "i16": -0x8000, "u32": 0xFFFF_FFFF, "i32": -0x8000_0000,
    "u64": 0xFFFF_FFFF_FFFF_FFFF, "i64": -0x8000_0000_0000_0000,
}  # fmt: skip
"""What SunSpec meters and inverters send for a value they do not have; of floats it is NaN."""


class UnfitError(ValueError):
    """A value that the type cannot hold. too_large: of the right sort, but too large, too small or too long."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        self.too_large = too_large
        super().__init__(message)


def type_named(text: str) -> Type:
    """The type of a name: `f32`, `str8`. Raises ValueError."""
    if found := TYPES.get(text):
        return found
    if text.startswith("str"):
        digits = text[3:]
        if digits.isdecimal() and digits.isascii() and 1 <= int(digits[:6]) <= LONGEST_TEXT:
            return Type(text, "", int(digits))
        raise ValueError(f"found {shown(text)}; str1 to str{LONGEST_TEXT} are allowed (characters)")
    raise ValueError(f"found type {shown(text)}; {listed([*TYPES, 'strN'])} is allowed{suggestion(text, TYPES)}")


def order_named(text: str, kind: Type) -> Order:
    """The order of a name for a type. Raises ValueError."""
    allowed = _ORDERS_OF[1 if kind.is_text else kind.registers]
    if text in allowed:
        return allowed[text]
    raise ValueError(f"found order {shown(text)}; {listed(allowed)} is allowed for {kind.name}")


def positions(kind: Type, order: Order) -> list[int]:
    """Where each octet of the value lies, counted from its first register: the most significant octet first."""
    if kind.is_text:
        return [at ^ int(order.octets) for at in range(kind.octets)]
    last = kind.registers - 1
    return [
        2 * (last - at // 2 if order.words else at // 2) + (at % 2 ^ int(order.octets)) for at in range(kind.octets)
    ]


def to_octets(value: Value, kind: Type, order: Order) -> bytes:
    """The registers of a value, as they go on the wire. Raises UnfitError."""
    wire = bytearray(2 * kind.registers)
    for at, octet in zip(positions(kind, order), _big_endian(value, kind), strict=True):
        wire[at] = octet
    return bytes(wire)


def from_octets(data: bytes, kind: Type, order: Order) -> Value:
    """The value of its registers."""
    big = bytes(data[at] for at in positions(kind, order))
    if kind.is_text:
        return text(big)
    value: int | float = struct.unpack(f">{kind.format}", big)[0]
    return value


def text(octets: bytes) -> str:
    """A text up to its first NUL, without the spaces that fill it up; UTF-8, or Latin-1 where it is not."""
    octets = octets.partition(b"\0")[0].rstrip(b" ")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def _big_endian(value: Value, kind: Type) -> bytes:
    if kind.is_text:
        return _text_octets(value, kind)
    if isinstance(value, str) or value is None:
        raise UnfitError(f"found {shown(value)}; a number is allowed")
    if kind.is_float:
        number = _as_float(value)
        if kind.octets == 4 and abs(number) > LARGEST_FLOAT32:
            raise UnfitError(f"found {number:g}; at most {LARGEST_FLOAT32:g} fits into f32", too_large=True)
        return struct.pack(f">{kind.format}", number)
    if not _is_whole(value):
        raise UnfitError(f"found {value!r}; {kind.name} takes whole steps")
    low, high = kind.limits
    if not low <= value <= high:
        raise UnfitError(f"found {value:g}; {kind.name} holds {low} to {high}", too_large=True)
    return struct.pack(f">{kind.format}", int(value))


def _text_octets(value: Value, kind: Type) -> bytes:
    if not isinstance(value, str):
        raise UnfitError(f"found {value!r}; a text is allowed")
    octets = value.encode("utf-8", "replace")
    if len(octets) > kind.octets or "\0" in value:
        raise UnfitError(f"found a text of {len(octets)} octets; at most {kind.octets}, without NUL", too_large=True)
    return octets.ljust(kind.octets, b"\0")


def _as_float(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UnfitError("found a number that is not finite; a finite one is allowed", too_large=True)
    return number


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or value.is_integer()
