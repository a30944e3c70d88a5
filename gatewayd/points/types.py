"""The words every package shares: what a point is, what a sample is, what a batch is.

Imports nothing of ours. Values cross the seam as the device said them; scaling, inversion and
state texts are applied once, in `points.mapping`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

Value = bool | int | float | str | None
"""One value: a bool, an integer (also a double-point code 0..3 or an enum code), a float, a text; None is no value."""


class Kind(StrEnum):
    """What sort of point it is; decides how the value is mapped and whether changes are events by default."""

    BINARY = "binary"
    DOUBLE = "double"
    ANALOG = "analog"
    COUNTER = "counter"
    ENUM = "enum"
    STRING = "string"


class ControlMode(StrEnum):
    """How an operator may command a point."""

    NONE = "none"
    SBO = "sbo"
    DIRECT = "direct"


class LockScope(StrEnum):
    """How far one select reaches: other points of the same scope cannot be selected meanwhile."""

    POINT = "point"
    BAY = "bay"
    DEVICE = "device"


class Link(StrEnum):
    """The state of a device's link; `up` means connected AND complete (integrity poll, GI or read-all done)."""

    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"
    FAULT = "fault"
    DISABLED = "disabled"


DOUBLE_INTERMEDIATE, DOUBLE_OPEN, DOUBLE_CLOSED, DOUBLE_BAD = 0, 1, 2, 3
"""Double-point codes, the same in DNP3 (g3) and IEC 61850 (Dbpos): 00, 01 open/off, 10 closed/on, 11 bad."""

DOUBLE_STATES = {0: "intermediate", 1: "open", 2: "closed", 3: "bad"}


class Sample(NamedTuple):
    """One value of one point as its device said it.

    point:   row of the point list, resolved at load, never looked up by name per frame
    value:   raw value; a double point is 0..3 (see DOUBLE_STATES), an enum its integer code
    quality: bits of `points.quality`
    native:  the device's own flag octet or quality bits, kept for `explain` (0 where there are none)
    time_ns: UTC in ns since 1970; the device's stamp, else receipt (and the RECEIPT bit of quality is set)
    """

    point: int
    value: Value
    quality: int
    native: int
    time_ns: int


class Cursor(NamedTuple):
    """Where a device's own event buffer stands: committed with the events it came with.

    source: the buffer's name (`BAY1LD0/LLN0.BR.brcbST01`, `fragment`)
    data:   the protocol's own mark (EntryID octets, hash of the last fragment)
    """

    source: str
    data: bytes


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All samples of one fragment, report or poll of one device; one unit for order and durability.

    t_recv_ns: UTC ns when it was received; mono_ns the same moment by CLOCK_MONOTONIC (0: not said, then its arrival)
    reported:  the device itself offered these as events (DNP3 event objects, reports by dchg/qchg/dupd)
    repeat:    may have been delivered before (after a crash between commit and confirm); published as `repeat`
    """

    device: str
    samples: list[Sample]
    t_recv_ns: int
    reported: bool = False
    repeat: bool = False
    mono_ns: int = 0


class PointSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of a point list, checked. The same struct serves drivers, the database, control and the catalog.

    row is global over all devices. `contact` rows are the two halves of a double point made of two contacts
    (`BI:3|BI:4`): drivers read them like any binary, they are never published.
    line and file say where the row stands, for messages.
    """

    row: int
    name: str
    kind: Kind
    device: str
    address: str
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0
    invert: bool = False
    states: dict[int, str] = {}
    deadband: float = 0.0
    deadband_percent: float = 0.0
    event: bool = False
    control: ControlMode = ControlMode.NONE
    command: str = ""
    feedback: str = ""
    feedback_timeout_s: float | None = None
    tolerance: float = 0.0
    min: float | None = None
    max: float | None = None
    select_timeout_s: float = 30.0
    bay: str = ""
    local: str = ""
    lock_scope: LockScope = LockScope.POINT
    check: tuple[str, ...] = ()
    guard: str = ""
    readback: bool = False
    interlock: str = ""
    area: str = ""
    description: str = ""
    settle_ms: int = 100
    contact: bool = False
    derived: bool = False
    file: str = ""
    line: int = 0
