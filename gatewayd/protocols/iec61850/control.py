"""Controls: the words of the standard, and what goes on the wire. Pure but for making MMS values.

Source: IEC 61850-7-2 (control class model), 8-1 (its mapping: SBO, SBOw, Oper, Cancel, LastApplError).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Native
from gatewayd.points.types import Value
from gatewayd.protocols.iec61850 import values
from gatewayd.protocols.iec61850.connection import RequestFailed
from gatewayd.protocols.iec61850.lib import native
from gatewayd.protocols.iec61850.values import Node

PROTOCOL = "iec61850"
REMOTE_CONTROL = 3
"""orCat of the gateway."""
LONGEST_ORIDENT = 64
SYNCHRO, INTERLOCK = 1 << 0, 1 << 1
"""Bits of Check, bit 0 of the wire first."""
LARGEST_FLOAT32 = 3.4028234e38
TIME_QUALITY_IN_STEP, TIME_QUALITY_UNKNOWN = 0x0A, 0x20 | 0x1F
"""TimeQuality of T: in step to a millisecond, or not synchronised with unspecified accuracy."""


class ControlModel(IntEnum):
    """ctlModel"""

    STATUS_ONLY = 0
    DIRECT_NORMAL = 1
    SBO_NORMAL = 2
    DIRECT_ENHANCED = 3
    SBO_ENHANCED = 4

    @property
    def selects(self) -> bool:
        """The IED holds a select."""
        return self in (ControlModel.SBO_NORMAL, ControlModel.SBO_ENHANCED)

    @property
    def enhanced(self) -> bool:
        """A CommandTermination follows."""
        return self in (ControlModel.DIRECT_ENHANCED, ControlModel.SBO_ENHANCED)


ADD_CAUSES: tuple[tuple[str, Reason], ...] = (
    ("unknown", Reason.DEVICE_REJECTED),
    ("not-supported", Reason.UNSUPPORTED),
    ("blocked-by-switching-hierarchy", Reason.LOCAL),
    ("select-failed", Reason.DEVICE_REJECTED),
    ("invalid-position", Reason.POSITION_UNKNOWN),
    ("position-reached", Reason.ALREADY_IN_POSITION),
    ("parameter-change-in-execution", Reason.STOPPED),
    ("step-limit", Reason.OUT_OF_RANGE),
    ("blocked-by-mode", Reason.BLOCKED_MODE),
    ("blocked-by-process", Reason.BLOCKED_PROCESS),
    ("blocked-by-interlocking", Reason.INTERLOCKED),
    ("blocked-by-synchrocheck", Reason.SYNCHROCHECK),
    ("command-already-in-execution", Reason.DEVICE_BUSY),
    ("blocked-by-health", Reason.BLOCKED_HEALTH),
    ("1-of-n-control", Reason.DEVICE_BUSY),
    ("abortion-by-cancel", Reason.CANCELLED),
    ("time-limit-over", Reason.FEEDBACK_TIMEOUT),
    ("abortion-by-trip", Reason.ABORTED_BY_TRIP),
    ("object-not-selected", Reason.NOT_SELECTED),
    ("object-already-selected", Reason.LOCKED_BY_OTHER_CLIENT),
    ("no-access-authority", Reason.NOT_AUTHORISED),
    ("ended-with-overshoot", Reason.OVERSHOOT),
    ("abortion-due-to-deviation", Reason.DEVIATION),
    ("abortion-by-communication-loss", Reason.DOWNSTREAM_FAILED),
    ("blocked-by-command", Reason.INHIBITED),
    ("none", Reason.DEVICE_REJECTED),
    ("inconsistent-parameters", Reason.MISMATCH),
    ("locked-by-other-client", Reason.LOCKED_BY_OTHER_CLIENT),
)
"""AddCause by its number: name and reason (IEC 61850-7-2, table of AddCause)."""

_ACCESS = {
    2: ("temporarily-unavailable", Reason.DEVICE_BUSY),
    3: ("object-access-denied", Reason.DEVICE_REJECTED),
    7: ("type-inconsistent", Reason.BAD_REQUEST),
    9: ("object-access-unsupported", Reason.UNSUPPORTED),
    10: ("object-non-existent", Reason.UNKNOWN_POINT),
    11: ("object-value-invalid", Reason.OUT_OF_RANGE),
}
"""DataAccessError where no AddCause came with it."""


def add_cause(code: int) -> tuple[Reason, Native]:
    """The reason of an AddCause and the IED's own word."""
    if 0 <= code < len(ADD_CAUSES):
        name, reason = ADD_CAUSES[code]
    else:
        name, reason = "undefined", Reason.DEVICE_REJECTED
    return reason, Native(PROTOCOL, code, name)


def access_error(error: RequestFailed) -> tuple[Reason, Native]:
    """The reason of a refusal that came without an AddCause."""
    if error.access is None:
        return Reason.DEVICE_REJECTED, Native(f"{PROTOCOL}-mms", error.error, "mms-error")
    name, reason = _ACCESS.get(error.access, ("data-access-error", Reason.DEVICE_REJECTED))
    return reason, Native(f"{PROTOCOL}-access", error.access, name)


class ApplicationError(NamedTuple):
    """LastApplError: what the IED says beside a refusal or a negative CommandTermination."""

    object: str
    error: int
    ctl_num: int
    add_cause: int

    @property
    def negative(self) -> bool:
        """Some IEDs send error 0 with a cause, some a cause 0 with an error."""
        return bool(self.error or self.add_cause)


def application_error(value: Any) -> ApplicationError | None:
    """LastApplError {CntrlObj, Error, Origin, ctlNum, AddCause} decoded; None for anything else."""
    if not isinstance(value, list) or len(value) != 5:
        return None
    name, error, _origin, ctl_num, cause = value
    if not isinstance(name, str) or not all(isinstance(part, int) for part in (error, ctl_num, cause)):
        return None
    return ApplicationError(name, error, ctl_num, cause)


class UnsupportedError(Exception):
    """The command cannot be put into the IED's own form; nothing was sent. reason: for the reply."""

    def __init__(self, reason: Reason, why: str) -> None:
        self.reason = reason
        super().__init__(why)


class Parameters(NamedTuple):
    """What a command carries. time_ms: T in ms UTC; check: bits; time_quality: octet of T."""

    value: Value
    origin: bytes
    ctl_num: int
    time_ms: int
    time_quality: int
    test: bool
    check: int


def orident(operator: str, fallback: str) -> bytes:
    """orIdent: the operator, at most 64 octets, cut between characters."""
    text = operator or fallback
    return text.encode()[:LONGEST_ORIDENT].decode("utf-8", "ignore").encode()


def structure(form: Node, given: Parameters) -> int:
    """The MmsValue* of SBOw, Oper or Cancel in the order the IED's own type has. Raises UnsupportedError."""
    parts: list[int] = []
    try:
        parts.extend(_part(child, given) for child in form.children)
    except (UnsupportedError, TypeError, ValueError, OverflowError) as error:
        for part in parts:
            native.MmsValue_delete(part)
        if isinstance(error, UnsupportedError):
            raise
        raise UnsupportedError(Reason.BAD_REQUEST, f"value {given.value!r}: {error}") from error
    return values.structure(parts)


def _part(form: Node, given: Parameters) -> int:
    match form.name:
        case "ctlVal" | "setMag" | "setVal":
            return ctl_val(form, given.value)
        case "operTm":
            return int(native.MmsValue_newUtcTimeByMsTime(0))  # at once
        case "origin":
            return values.structure([_origin(child, given) for child in form.children])
        case "ctlNum":
            return values.unsigned(given.ctl_num) if form.type == values.UNSIGNED else values.integer(given.ctl_num)
        case "T":
            return _time(form, given)
        case "Test":
            return values.boolean(given.test)
        case "Check":
            return values.bits(given.check, 2)
        case _:
            raise UnsupportedError(Reason.UNSUPPORTED, f"the IED's command has an element {form.name!r}")


def _origin(form: Node, given: Parameters) -> int:
    return values.octets(given.origin) if form.name == "orIdent" else values.integer(REMOTE_CONTROL)


def _time(form: Node, given: Parameters) -> int:
    if form.type == values.BINARY_TIME:  # edition 1
        made = int(native.MmsValue_newBinaryTime(False))
        native.MmsValue_setBinaryTime(made, given.time_ms)
        return made
    made = int(native.MmsValue_newUtcTimeByMsTime(given.time_ms))
    native.MmsValue_setUtcTimeQuality(made, given.time_quality)
    return made


def ctl_val(form: Node, value: Value) -> int:
    """The ctlVal in the IED's own type: BOOLEAN, integers, Tcmd (raise is higher), float, AnalogueValue {i, f}."""
    if not isinstance(value, (bool, int, float)):
        raise UnsupportedError(Reason.BAD_REQUEST, f"found {value!r}; true, false or a number can be commanded")
    match form.type:
        case values.BOOLEAN:
            if value not in (0, 1):
                raise UnsupportedError(Reason.BAD_REQUEST, f"found {value!r}; true and false are allowed")
            return values.boolean(bool(value))
        case values.INTEGER:
            half = 1 << (form.size or 32) - 1
            return values.integer(_whole(value, -half, half - 1))
        case values.UNSIGNED:
            return values.unsigned(_whole(value, 0, (1 << min(form.size or 32, 32)) - 1))
        case values.BIT_STRING:
            if abs(form.size) != 2 or not isinstance(value, bool):
                raise UnsupportedError(Reason.UNSUPPORTED, "only raise and lower (Tcmd) can be sent as bits")
            return values.bits(0b01 if value else 0b10, 2)  # higher is 10, lower 01, first bit first
        case values.FLOAT:
            if not values.finite(value) or (form.size != 64 and abs(value) > LARGEST_FLOAT32):
                raise UnsupportedError(Reason.OUT_OF_RANGE, f"found {value!r}; a finite number is allowed")
            make = native.MmsValue_newDouble if form.size == 64 else native.MmsValue_newFloat
            return int(make(float(value)))
        case values.STRUCTURE:
            return _analogue(form, value)
    raise UnsupportedError(Reason.UNSUPPORTED, f"the IED's ctlVal is of MMS type {form.type}")


def _analogue(form: Node, value: float) -> int:
    """An AnalogueValue: f where there is one, else i; with both, i is the nearest whole number."""
    names = [child.name for child in form.children]
    if not names or any(name not in ("i", "f") for name in names):
        raise UnsupportedError(Reason.UNSUPPORTED, f"the IED's ctlVal has the elements {names}")
    if names == ["i"]:
        return values.structure([ctl_val(form.children[0], value)])
    return values.structure([ctl_val(child, value if child.name == "f" else round(value)) for child in form.children])


def _whole(value: float, low: int, high: int) -> int:
    if int(value) != value:
        raise UnsupportedError(Reason.BAD_REQUEST, f"found {value!r}; a whole number is allowed")
    if not low <= value <= high:
        raise UnsupportedError(Reason.OUT_OF_RANGE, f"found {value!r}; {low} to {high} is allowed")
    return int(value)
