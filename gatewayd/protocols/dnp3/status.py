"""What the end of a command means. Pure: opendnp3's numbers in, one Reply out.

Source: docs/control.md; IEEE 1815, control status codes. Two things are known better than opendnp3 tells them: whether
an OPERATE ever left (the gate saw it), and the indications of the answer.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Native, Reply, Verdict
from gatewayd.protocols.dnp3.frames import Iin

PROTOCOL = "dnp3"


class Task(IntEnum):
    """opendnp3's TaskCompletion; LOST is ours: the master was taken down before it ended."""

    SUCCESS = 0
    BAD_RESPONSE = 1
    RESPONSE_TIMEOUT = 2
    START_TIMEOUT = 3
    MESSAGE_FORMAT_ERROR = 4
    NO_COMMS = 255
    LOST = -1


class PointState(IntEnum):
    """opendnp3's CommandPointState: how far one control of a command came."""

    INIT = 0
    SELECT_SUCCESS = 1
    SELECT_MISMATCH = 2
    SELECT_FAIL = 3
    OPERATE_FAIL = 4
    SUCCESS = 5


class Point(NamedTuple):
    """One control of a command as opendnp3 tells it."""

    state: int
    status: int


class Ended(NamedTuple):
    """The end of a command. iin: of the answer, 0 where there was none."""

    task: int
    points: tuple[Point, ...] = ()
    iin: int = 0


UNDEFINED = 127
STATUS: dict[int, tuple[str, Reason]] = {
    1: ("TIMEOUT", Reason.SELECT_EXPIRED),
    2: ("NO_SELECT", Reason.NOT_SELECTED),
    3: ("FORMAT_ERROR", Reason.BAD_REQUEST),
    4: ("NOT_SUPPORTED", Reason.UNSUPPORTED),
    5: ("ALREADY_ACTIVE", Reason.DEVICE_BUSY),
    6: ("HARDWARE_ERROR", Reason.BLOCKED_HEALTH),
    7: ("LOCAL", Reason.LOCAL),
    8: ("TOO_MANY_OPS", Reason.RATE_LIMITED),
    9: ("NOT_AUTHORIZED", Reason.NOT_AUTHORISED),
    10: ("AUTOMATION_INHIBIT", Reason.INTERLOCKED),
    11: ("PROCESSING_LIMITED", Reason.DEVICE_BUSY),
    12: ("OUT_OF_RANGE", Reason.OUT_OF_RANGE),
    13: ("DOWNSTREAM_LOCAL", Reason.DOWNSTREAM_LOCAL),
    14: ("ALREADY_COMPLETE", Reason.ALREADY_IN_POSITION),
    15: ("BLOCKED", Reason.INHIBITED),
    16: ("CANCELLED", Reason.CANCELLED),
    17: ("BLOCKED_OTHER_MASTER", Reason.LOCKED_BY_OTHER_CLIENT),
    18: ("DOWNSTREAM_FAIL", Reason.DOWNSTREAM_FAILED),
    126: ("NON_PARTICIPATING", Reason.DEVICE_REJECTED),
}
"""Refusals by status code; 0 is SUCCESS, everything else is as good as UNDEFINED."""
UNSURE_AT_OPERATE = (6, 18)
"""Refusals after which something may have moved all the same: our caution, the standard calls them not accepted."""
_INDICATIONS = (
    (Iin.NO_FUNC_CODE_SUPPORT, "NO_FUNC_CODE_SUPPORT", Reason.UNSUPPORTED),
    (Iin.OBJECT_UNKNOWN, "OBJECT_UNKNOWN", Reason.UNKNOWN_POINT),
    (Iin.PARAMETER_ERROR, "PARAMETER_ERROR", Reason.BAD_REQUEST),
)


def reply(ended: Ended, *, acted: bool) -> Reply:
    """The one answer to an operate. acted: an OPERATE or DIRECT_OPERATE has left for the device."""
    if ended.task == Task.SUCCESS and ended.points:
        if all(point.state == PointState.SUCCESS and point.status == 0 for point in ended.points):
            return Reply(Verdict.DONE, native=Native(PROTOCOL, 0, "SUCCESS"))
        for point in ended.points:
            if point.status in STATUS and point.state in (PointState.SUCCESS, PointState.SELECT_FAIL):
                return _refused(point.status, acted=acted)
    if ended.task in (Task.SUCCESS, Task.BAD_RESPONSE):
        return _answered(ended.iin, acted=acted)
    if acted:
        return Reply(Verdict.UNKNOWN, Reason.UNKNOWN)
    if ended.task == Task.START_TIMEOUT:
        return Reply(Verdict.REFUSED, Reason.DEVICE_BUSY)
    if ended.task == Task.RESPONSE_TIMEOUT:
        return Reply(Verdict.REFUSED, Reason.DEVICE_NO_ANSWER)
    return Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE)


def _refused(code: int, *, acted: bool) -> Reply:
    name, reason = STATUS[code]
    unsure = acted and code in UNSURE_AT_OPERATE
    return Reply(Verdict.UNKNOWN if unsure else Verdict.REFUSED, reason, Native(PROTOCOL, code, name))


def _answered(iin: int, *, acted: bool) -> Reply:
    """An answer without a usable echo: refused where the indications say so, otherwise nobody knows."""
    for bit, name, reason in _INDICATIONS:
        if iin & bit:
            return Reply(Verdict.REFUSED, reason, Native(f"{PROTOCOL}-iin", bit.bit_length() - 9, name))
    undefined = Native(PROTOCOL, UNDEFINED, "UNDEFINED")
    if acted:
        return Reply(Verdict.UNKNOWN, Reason.UNKNOWN, undefined)
    return Reply(Verdict.REFUSED, Reason.DEVICE_REJECTED, undefined)
