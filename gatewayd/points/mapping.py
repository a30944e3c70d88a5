"""From a device's raw value to the engineering value and back: scale, invert, states. The only place that does it.

A double point's value is always one of the four words of DOUBLE_STATES, whatever its `states` column says: the texts
of that column are for people (catalog) and are understood in commands, so that interlocks cannot depend on spelling.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gatewayd.points import quality as q
from gatewayd.points.types import DOUBLE_CLOSED, DOUBLE_OPEN, DOUBLE_STATES, Kind, PointSpec, Value
from gatewayd.problems import listed, shown

Mapped = tuple[Value, int]
"""The engineering value, and quality bits to add to the sample's."""

Mapping = Callable[[Value], Mapped]

NO_VALUE: Mapped = (None, q.INVALID)
WRONG_TYPE: Mapped = (None, q.INVALID | q.CONFIG_ERROR)
"""The device sends another type than the list says: someone has to correct the list."""
NOT_FINITE: Mapped = (None, q.INVALID | q.OUT_OF_RANGE)
UNKNOWN_CODE: Mapped = (None, q.INVALID | q.INCONSISTENT)

LEAST_WHOLE, LARGEST_WHOLE = -(1 << 63), (1 << 64) - 1
"""Whole numbers that MessagePack, and with it the journal, can hold."""

_ON = frozenset({"on", "closed", "close", "true", "raise"})
_OFF = frozenset({"off", "open", "trip", "false", "lower"})


def compile_mapping(spec: PointSpec) -> Mapping:
    """The function that maps this point's raw values; built once, called for every sample.

    It never raises: NaN, infinity, a wrong type or an unknown double code give None and the bits that make the
    point invalid. An enum code without a text stays a number and is questionable.
    """
    if spec.kind is Kind.BINARY:
        return _inverted if spec.invert else _binary
    if spec.kind is Kind.DOUBLE:
        return _double(inverted=spec.invert)
    if spec.kind is Kind.ENUM:
        return _enum(spec.states)
    if spec.kind is Kind.STRING:
        return _string
    if spec.kind is Kind.COUNTER:
        return _counter(int(spec.scale), int(spec.offset))
    if spec.scale == 1 and spec.offset == 0:
        return _plain
    return _scaled(spec.scale, spec.offset)


def _binary(raw: Value) -> Mapped:
    if raw is True or raw is False:
        return raw, 0
    if raw == 0 or raw == 1:
        return raw == 1, 0
    return NO_VALUE if raw is None else WRONG_TYPE


def _inverted(raw: Value) -> Mapped:
    value, bits = _binary(raw)
    return (value if value is None else not value), bits


def _double(*, inverted: bool) -> Mapping:
    texts: dict[Value, Mapped] = {code: (text, 0) for code, text in DOUBLE_STATES.items()}
    if inverted:
        texts[DOUBLE_OPEN], texts[DOUBLE_CLOSED] = texts[DOUBLE_CLOSED], texts[DOUBLE_OPEN]

    def double(raw: Value) -> Mapped:
        if type(raw) is int:
            return texts.get(raw, UNKNOWN_CODE)
        return NO_VALUE if raw is None else WRONG_TYPE

    return double


def _enum(states: dict[int, str]) -> Mapping:
    texts: dict[Value, Mapped] = {code: (text, 0) for code, text in states.items()}

    def enum(raw: Value) -> Mapped:
        if type(raw) is not int:
            if raw is True or raw is False:
                raw = int(raw)
            else:
                return NO_VALUE if raw is None else WRONG_TYPE
        if not LEAST_WHOLE <= raw <= LARGEST_WHOLE:
            return NOT_FINITE
        if texts:
            return texts.get(raw) or (raw, q.QUESTIONABLE | q.OUT_OF_RANGE)
        return raw, 0

    return enum


def _string(raw: Value) -> Mapped:
    if isinstance(raw, str):
        return raw, 0
    return NO_VALUE if raw is None else WRONG_TYPE


def _counter(scale: int, offset: int) -> Mapping:
    def counter(raw: Value) -> Mapped:
        if type(raw) is float:
            if not raw.is_integer():
                return _no_integer(raw)
            raw = int(raw)
        if type(raw) is not int:
            return NO_VALUE if raw is None else WRONG_TYPE
        value = raw * scale + offset
        return (value, 0) if LEAST_WHOLE <= value <= LARGEST_WHOLE else NOT_FINITE

    return counter


def _no_integer(raw: float) -> Mapped:
    return WRONG_TYPE if math.isfinite(raw) else NOT_FINITE


def _plain(raw: Value) -> Mapped:
    if type(raw) is float:
        return (raw, 0) if math.isfinite(raw) else NOT_FINITE
    if type(raw) is int:
        return (raw, 0) if LEAST_WHOLE <= raw <= LARGEST_WHOLE else NOT_FINITE
    return NO_VALUE if raw is None else WRONG_TYPE


def _scaled(scale: float, offset: float) -> Mapping:
    divisor = _whole_inverse(scale)

    def scaled(raw: Value) -> Mapped:
        if type(raw) is not float and type(raw) is not int:
            return NO_VALUE if raw is None else WRONG_TYPE
        try:
            value = (raw / divisor if divisor else raw * scale) + offset
        except OverflowError:  # an integer that no float can hold
            return NOT_FINITE
        return (value, 0) if math.isfinite(value) else NOT_FINITE

    return scaled


def _whole_inverse(scale: float) -> int:
    """10 for 0.1, 0 where there is none: 1235 / 100 is 12.35, 1235 * 0.01 would be 12.350000000000001."""
    inverse = round(1 / scale) if abs(scale) >= 1e-15 else 0
    return inverse if abs(inverse) > 1 and 1 / inverse == scale else 0


def to_raw(spec: PointSpec, value: Value) -> Value:
    """The raw value of a command given in the point's own unit or states; `invert` never changes a command.

    Two-state points give True (closed, on, raise) or False (open, off, lower), setpoints a number, enums their code.
    Raises ValueError saying what was found and what is allowed; limits (`min`, `max`) are not judged here.
    """
    if isinstance(value, str) and len(value) > 255:
        raise ValueError(f"a text of {len(value)} characters; at most 255 are allowed")
    if spec.kind in (Kind.BINARY, Kind.DOUBLE):
        return _two_state(spec, value)
    if spec.kind is Kind.STRING:
        if isinstance(value, str):
            return value
        raise ValueError(f"{_found(value)}; {spec.name} takes a text")
    if isinstance(value, str) and value.strip().lower() in ("raise", "lower"):
        return value.strip().lower() == "raise"
    if spec.kind is Kind.ENUM:
        return _code(spec, value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
        raise ValueError(f"{_found(value)}; {spec.name} takes a number{f' in {spec.unit}' if spec.unit else ''}")
    if spec.kind is Kind.COUNTER:
        return _count(spec, value)
    return _unscaled(spec, value)


def _two_state(spec: PointSpec, value: Value) -> bool:
    if isinstance(value, bool):
        return value
    on = DOUBLE_CLOSED if spec.kind is Kind.DOUBLE else 1
    off = DOUBLE_OPEN if spec.kind is Kind.DOUBLE else 0
    if isinstance(value, str):
        word = value.strip().casefold()
        for code, answer in ((on, True), (off, False)):
            if word == spec.states.get(code, "").casefold() and word:
                return answer
        if word in _ON:
            return True
        if word in _OFF:
            return False
    plain = ("closed", "open") if spec.kind is Kind.DOUBLE else ("on", "off")
    allowed = [f'"{spec.states.get(code, text)}"' for code, text in zip((on, off), plain, strict=True)]
    raise ValueError(f"{_found(value)}; {spec.name} takes {listed([*allowed, 'true', 'false'])}")


def _code(spec: PointSpec, value: Value) -> int:
    if isinstance(value, str):
        word = value.strip().casefold()
        for code, text in spec.states.items():
            if text.casefold() == word:
                return code
    elif isinstance(value, int) and not isinstance(value, bool) and (not spec.states or value in spec.states):
        return value
    allowed = [f'"{text}"' for text in spec.states.values()] or ["a whole number"]
    raise ValueError(f"{_found(value)}; {spec.name} takes {listed(allowed)}")


def _count(spec: PointSpec, value: float) -> int:
    whole = int(value)
    raw, rest = divmod(whole - int(spec.offset), int(spec.scale))
    if whole != value or rest:
        raise ValueError(f"{_found(value)}; {spec.name} counts in whole steps of {int(spec.scale)}")
    return raw


def _unscaled(spec: PointSpec, value: float) -> int | float:
    if spec.scale == 1 and spec.offset == 0:
        return value
    divisor = _whole_inverse(spec.scale)
    try:
        raw = (value - spec.offset) * divisor if divisor else (value - spec.offset) / spec.scale
    except OverflowError:
        raw = math.inf
    if not _finite(raw):
        raise ValueError(f"{_found(value)}; too large for {spec.name}")
    # what was meant as a whole number of steps must not be sent as 1233.9999999
    return float(round(raw)) if abs(raw - round(raw)) <= 1e-9 * max(1.0, abs(raw)) else raw


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _found(value: Value) -> str:
    return f"found {shown(value)}" if isinstance(value, str) else f"found {shown(value).strip(chr(34))}"
