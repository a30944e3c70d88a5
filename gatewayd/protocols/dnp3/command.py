"""Commands of DNP3 points: how they are written in a point list, and which object goes out for which value. Pure.

    CROB:2 trip-close on=250        true is PULSE_ON + CLOSE (0x41), false is PULSE_ON + TRIP (0x81)
    CROB:6 raise-lower on=500       the same codes: raise is CLOSE, lower is TRIP; for points of any kind
    CROB:4 latch                    true is LATCH_ON (0x03), false is LATCH_OFF (0x04)
    CROB:5 pulse                    true is PULSE_ON (0x01); false cannot be sent
    CROB:7 pulse open=8             two outputs: true is PULSE_ON to 7, false is PULSE_ON to 8
    CROB:9 codes true=0x43 false=0x83 nonstandard       exactly these control codes
    AO:1 i16                        a number: i16, i32, f32 or f64

Every CROB has the count 1. Source: IEEE 1815, group 12 (control code: bits 0-3 operation, 4 queue, 5 clear,
6-7 trip/close), group 41, and the interoperable combinations of the CROB.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from gatewayd.control.reasons import Reason
from gatewayd.points.types import Kind, Value
from gatewayd.problems import listed, shown, suggestion
from gatewayd.protocols.dnp3.address import AddressError, index_of

PULSE_ON, PULSE_OFF, LATCH_ON, LATCH_OFF = 0x01, 0x02, 0x03, 0x04
CLOSE, TRIP = 0x40, 0x80
INTEROPERABLE = (PULSE_ON, LATCH_ON, LATCH_OFF, CLOSE | PULSE_ON, TRIP | PULSE_ON)
"""Control codes every outstation may be expected to understand; all others need the word `nonstandard`."""
DEFAULT_MS = 100
LONGEST_MS = 0xFFFF_FFFF
CROB_FORMS = ("trip-close", "raise-lower", "latch", "pulse", "codes")
ANALOG_FORMS = ("i16", "i32", "f32", "f64")
WHOLE = {"i16": 15, "i32": 31}
LARGEST_FLOAT32 = 3.4028234663852886e38

_COMMAND = re.compile(r"(?P<type>[A-Za-z_]+):(?P<index>\d{1,10})(?P<words>(?:\s+\S+)*)", re.ASCII)
_FORM = "a command is CROB:2 trip-close, CROB:4 latch, CROB:5 pulse, CROB:6 raise-lower or AO:1 i16"


class UnsendableError(Exception):
    """The value cannot be sent by this command; nothing was sent. reason: for the reply."""

    def __init__(self, reason: Reason, why: str) -> None:
        self.reason = reason
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Crob:
    """One control relay output block; the count is always 1."""

    index: int
    code: int
    on_ms: int
    off_ms: int


@dataclass(frozen=True, slots=True)
class AnalogOutput:
    """One analog output. form: one of ANALOG_FORMS."""

    index: int
    form: str
    value: float


class CrobCommand(NamedTuple):
    """What goes out for true and for false; None where that cannot be sent. form: as written."""

    form: str
    true: Crob
    false: Crob | None

    def outgoing(self, value: Value) -> Crob:
        """The block for a value. Raises UnsendableError."""
        if value is not True and value is not False:
            raise UnsendableError(
                Reason.BAD_REQUEST, f"found {value!r}; true (close, on, raise) or false (open, off, lower)"
            )
        crob = self.true if value else self.false
        if crob is None:
            raise UnsendableError(
                Reason.UNSUPPORTED, "found false; this output has a pulse for true only (CROB:7 pulse open=8 has both)"
            )
        return crob

    def fits(self, kind: Kind) -> bool:
        """Whether a point of this kind can have the command."""
        if self.form == "raise-lower":
            return kind is not Kind.STRING
        return kind in (Kind.BINARY, Kind.DOUBLE)


@dataclass(frozen=True, slots=True)
class AnalogCommand:
    """A setpoint. form: one of ANALOG_FORMS."""

    index: int
    form: str

    def outgoing(self, value: Value) -> AnalogOutput:
        """The output for a value: exactly what was asked for or nothing, never rounded. Raises UnsendableError."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UnsendableError(Reason.BAD_REQUEST, f"found {value!r}; a number can be sent")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise UnsendableError(Reason.OUT_OF_RANGE, f"found {value!r}; a finite number can be sent")
        if self.form in WHOLE:
            limit = 1 << WHOLE[self.form]
            if not number.is_integer():
                raise UnsendableError(Reason.BAD_REQUEST, f"found {value!r}; {self.form} takes whole numbers")
            if not -limit <= number < limit:
                raise UnsendableError(Reason.OUT_OF_RANGE, f"found {value!r}; {-limit} to {limit - 1} is allowed")
        elif self.form == "f32" and abs(number) > LARGEST_FLOAT32:
            raise UnsendableError(Reason.OUT_OF_RANGE, f"found {value!r}; too large for f32")
        return AnalogOutput(self.index, self.form, number)

    def fits(self, kind: Kind) -> bool:
        """Whether a point of this kind can have the command."""
        return kind in (Kind.ANALOG, Kind.COUNTER, Kind.ENUM)


Command = CrobCommand | AnalogCommand
Outgoing = Crob | AnalogOutput


def parse_command(text: str) -> Command:
    """The command of a point. Raises AddressError."""
    match = _COMMAND.fullmatch(text.strip())
    if match is None:
        raise AddressError(f"found {shown(text)}; {_FORM}")
    name, words = match["type"], match["words"].split()
    if name not in ("CROB", "AO"):
        hint = suggestion(name.upper(), ("CROB", "AO")) or "; CROB or AO can be commanded"
        raise AddressError(f"found {shown(name)} in {shown(text)}{hint}")
    index = index_of(match["index"], text)
    return _analog(index, words, text) if name == "AO" else _crob(index, words, text)


def _analog(index: int, words: list[str], text: str) -> AnalogCommand:
    if len(words) != 1 or words[0] not in ANALOG_FORMS:
        wrong = next((word for word in words if word not in ANALOG_FORMS), "")
        hint = suggestion(wrong, ANALOG_FORMS) if wrong else ""
        raise AddressError(f"found {shown(text)}; AO takes exactly one of {listed(ANALOG_FORMS)}{hint}")
    return AnalogCommand(index, words[0])


def _crob(index: int, words: list[str], text: str) -> CrobCommand:
    forms = [word for word in words if word in CROB_FORMS]
    if len(forms) != 1:
        wrong = next((word for word in words if word not in CROB_FORMS and "=" not in word), "")
        hint = suggestion(wrong, CROB_FORMS) if wrong else ""
        found = f"found {listed(forms)}" if forms else f"found no form in {shown(text)}"
        raise AddressError(f"{found}; exactly one of {listed(CROB_FORMS)} is needed{hint}")
    form = forms[0]
    flags, settings = _words([word for word in words if word != form], form)
    on_ms, off_ms = (_milliseconds(settings.pop(key, str(DEFAULT_MS)), key) for key in ("on", "off"))
    if (count := settings.pop("count", "1")) != "1":
        raise AddressError(f"found count={count}; only 1 is allowed: a command operates once")
    second = int(settings["open"]) if "open" in settings else None
    codes = _codes(form, settings, flags, second is not None)

    def block(code: int | None, to: int = index) -> Crob | None:
        return None if code is None else Crob(to, code, on_ms, off_ms)

    true = block(codes[0])
    assert true is not None
    return CrobCommand(form, true, block(codes[1], index if second is None else second))


def _words(words: list[str], form: str) -> tuple[set[str], dict[str, str]]:
    """Bare words, and key=value ones; every one is allowed with this form and stands once."""
    keys = ["on", "off", "count", *{"pulse": ["open"], "codes": ["true", "false"]}.get(form, [])]
    bare = ["nonstandard"] if form == "codes" else []
    flags: set[str] = set()
    settings: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in (keys if equals else bare):
            allowed = [f"{key}=" for key in keys] + bare
            hint = suggestion(f"{key}=" if equals else key, allowed) or f"; with {form} allowed are {listed(allowed)}"
            raise AddressError(f"found {shown(word)}{hint}")
        if key in settings or key in flags:
            raise AddressError(f"found {shown(key)} twice; once is allowed")
        if equals:
            settings[key] = value
        else:
            flags.add(key)
    if "open" in settings:
        settings["open"] = str(_second_index(settings["open"]))
    return flags, settings


def _second_index(value: str) -> int:
    if not re.fullmatch(r"\d{1,10}", value, re.ASCII):
        raise AddressError(f"found open={shown(value)}; the index of the second output is needed, as in open=8")
    return index_of(value, f"open={value}")


def _milliseconds(value: str, key: str) -> int:
    if not re.fullmatch(r"\d{1,10}", value, re.ASCII) or int(value) > LONGEST_MS:
        raise AddressError(f"found {key}={shown(value)}; whole milliseconds from 0 to {LONGEST_MS} are allowed")
    return int(value)


def _codes(form: str, settings: dict[str, str], flags: set[str], two_outputs: bool) -> tuple[int, int | None]:
    match form:
        case "latch":
            return LATCH_ON, LATCH_OFF
        case "pulse":
            return PULSE_ON, PULSE_ON if two_outputs else None
        case "codes":
            if "true" not in settings:
                raise AddressError("found codes without true=; as in codes true=0x41 false=0x81")
            true = _code(settings["true"])
            false = _code(settings["false"]) if "false" in settings else None
            for code in (true, false):
                if code is not None and code not in INTEROPERABLE and "nonstandard" not in flags:
                    usual = listed(f"0x{one:02X}" for one in INTEROPERABLE)
                    raise AddressError(
                        f"found 0x{code:02X}, which not every device understands; {usual} is allowed, any other code"
                        " with the word nonstandard"
                    )
            return true, false
        case _:  # trip-close, raise-lower
            return CLOSE | PULSE_ON, TRIP | PULSE_ON


def _code(value: str) -> int:
    if not re.fullmatch(r"0[xX][0-9A-Fa-f]{1,2}", value):
        raise AddressError(f"found the code {shown(value)}; two hexadecimal digits are allowed, as in 0x41")
    code = int(value, 16)
    if code & 0x10 or code & 0xC0 == 0xC0 or code & 0x0F > LATCH_OFF or not code & 0x0F:
        raise AddressError(
            f"found the code {value}; an operation from 1 to 4, the clear bit (0x20) and CLOSE (0x40) or TRIP (0x80)"
            " are allowed, the queue bit (0x10) is obsolete"
        )
    return code
