"""What a result means: exceptions of reads to quality, results of writes to replies. Pure tables.

Source: docs/modbus.md, exceptions; Modbus application protocol 1.1b3, section 7.
"""

from __future__ import annotations

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Native, Reply, Verdict
from gatewayd.points import quality as q
from gatewayd.protocols.modbus.pdu import (
    BadAnswer,
    ConnectionLost,
    ExceptionAnswer,
    ExpiredError,
    ModbusError,
    NoAnswer,
    NotSentError,
    exception_name,
)

PROTOCOL = "modbus"
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 0x01, 0x02, 0x03
ACKNOWLEDGE, BUSY, PATH_UNAVAILABLE, NO_RESPONSE = 0x05, 0x06, 0x0A, 0x0B

GOOD = q.GOOD | q.SAMPLED | q.RECEIPT
"""A value just read; the time is the gateway's."""
MISSED = q.QUESTIONABLE | q.OLD_DATA | q.SAMPLED | q.RECEIPT
LOST = q.QUESTIONABLE | q.COMM_LOST | q.SAMPLED | q.RECEIPT
_CONFIG_ERROR = q.INVALID | q.CONFIG_ERROR | q.SAMPLED | q.RECEIPT
_FAILURE = q.INVALID | q.FAILURE | q.SAMPLED | q.RECEIPT

REFUSED_FOR_GOOD = frozenset({ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE})
"""The device will say the same at the next poll: asked again only now and then."""
TRIED_APART = frozenset({ILLEGAL_ADDRESS, ILLEGAL_VALUE})
"""May concern a part of the block only: an address that is not there, or more than the device gives at once."""
UNREACHABLE = frozenset({PATH_UNAVAILABLE, NO_RESPONSE})
"""A gateway in between answered, the device did not."""
AS_MISSED = frozenset({ACKNOWLEDGE, BUSY})
"""Not now: the poll counts as missed."""


def read_quality(code: int) -> int:
    """The quality of points whose read was answered with this exception; see AS_MISSED for 05 and 06."""
    if code in REFUSED_FOR_GOOD:
        return _CONFIG_ERROR
    if code in UNREACHABLE:
        return LOST
    return _FAILURE


_WRITES = {
    ILLEGAL_FUNCTION: (Verdict.REFUSED, Reason.UNSUPPORTED),
    ILLEGAL_ADDRESS: (Verdict.REFUSED, Reason.UNKNOWN_POINT),
    ILLEGAL_VALUE: (Verdict.REFUSED, Reason.OUT_OF_RANGE),
    ACKNOWLEDGE: (Verdict.DONE, Reason.OK),
    BUSY: (Verdict.REFUSED, Reason.DEVICE_BUSY),
    PATH_UNAVAILABLE: (Verdict.REFUSED, Reason.DEVICE_OFFLINE),
}
"""By exception code; every other one may have come after the device began to act."""

_BEFORE = {
    ILLEGAL_FUNCTION: Reason.UNSUPPORTED,
    ILLEGAL_ADDRESS: Reason.UNKNOWN_POINT,
    ILLEGAL_VALUE: Reason.OUT_OF_RANGE,
    BUSY: Reason.DEVICE_BUSY,
    PATH_UNAVAILABLE: Reason.DEVICE_OFFLINE,
    NO_RESPONSE: Reason.DEVICE_NO_ANSWER,
}


def native(error: ModbusError) -> Native:
    """The device's own word, or ours (code 0) for what came in its place."""
    if isinstance(error, ExceptionAnswer):
        return Native(PROTOCOL, error.code, exception_name(error.code))
    for kind, name in ((NoAnswer, "no-answer"), (BadAnswer, "bad-answer"), (ConnectionLost, "connection-lost")):
        if isinstance(error, kind):
            return Native(PROTOCOL, 0, name)
    return Native(PROTOCOL, 0, "not-sent")


def written(error: ModbusError) -> Reply:
    """The reply to a command whose operating write ended this way."""
    if isinstance(error, NotSentError):
        return not_sent(error)
    if isinstance(error, ExceptionAnswer):
        verdict, reason = _WRITES.get(error.code, (Verdict.UNKNOWN, Reason.UNKNOWN))
        return Reply(verdict, reason, native(error))
    return Reply(Verdict.UNKNOWN, Reason.UNKNOWN, native(error))


def before_write(error: ModbusError) -> Reply:
    """The reply to a command that ended before its operating write: at a guard, or at a step of a recipe."""
    if isinstance(error, NotSentError):
        return not_sent(error)
    if isinstance(error, ExceptionAnswer):
        return Reply(Verdict.REFUSED, _BEFORE.get(error.code, Reason.DEVICE_REJECTED), native(error))
    return Reply(Verdict.REFUSED, Reason.DEVICE_NO_ANSWER, native(error))


def not_sent(error: NotSentError) -> Reply:
    """Nothing went out: too late, or no connection."""
    return Reply(Verdict.REFUSED, Reason.EXPIRED if isinstance(error, ExpiredError) else Reason.DEVICE_OFFLINE)


def refused(reason: Reason, why: str) -> Reply:
    """A refusal of the gateway itself, with its words."""
    return Reply(Verdict.REFUSED, reason, Native(PROTOCOL, 0, why))


OFFLINE = Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE)
DONE = Reply(Verdict.DONE)
