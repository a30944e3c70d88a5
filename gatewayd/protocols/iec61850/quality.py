"""IEC 61850 quality and time to the common ones. Pure; all 8,192 qualities are a table.

Bit order, the trap: the standard writes validity as two bits `00 good, 01 invalid, 10 reserved, 11 questionable`, first
bit first. As an integer with bit 0 of the wire as bit 0 that is 0 good, 2 invalid, 1 reserved, 3 questionable.
Source: IEC 61850-7-3 (Quality), 8-1 (its bit string, TimeQuality).
"""

from __future__ import annotations

from gatewayd.points import quality as q

GOOD, RESERVED, INVALID, QUESTIONABLE = range(4)
OVERFLOW, OUT_OF_RANGE, BAD_REFERENCE, OSCILLATORY, FAILURE, OLD_DATA, INCONSISTENT, INACCURATE = (
    1 << bit for bit in range(2, 10)
)
SUBSTITUTED, TEST, OPERATOR_BLOCKED = 1 << 10, 1 << 11, 1 << 12

_VALIDITY = {GOOD: q.GOOD, RESERVED: q.INVALID | q.INCONSISTENT, INVALID: q.INVALID, QUESTIONABLE: q.QUESTIONABLE}
_DETAILS = {
    OVERFLOW: q.QUESTIONABLE | q.OVER_RANGE | q.OVERFLOW,
    OUT_OF_RANGE: q.QUESTIONABLE | q.OVER_RANGE | q.OUT_OF_RANGE,
    BAD_REFERENCE: q.QUESTIONABLE | q.REFERENCE_ERR | q.BAD_REFERENCE,
    OSCILLATORY: q.QUESTIONABLE | q.CHATTER | q.OSCILLATORY,
    FAILURE: q.INVALID | q.FAILURE,
    OLD_DATA: q.QUESTIONABLE | q.OLD_DATA,
    INCONSISTENT: q.QUESTIONABLE | q.INCONSISTENT,
    INACCURATE: q.QUESTIONABLE | q.INACCURATE,
    SUBSTITUTED: q.SUBSTITUTED,
    TEST: q.TEST,
    OPERATOR_BLOCKED: q.QUESTIONABLE | q.BLOCKED | q.OLD_DATA,
}
"""What a detail bit says even where the device calls the value good: the worst of both decides."""

ABSENT = q.QUESTIONABLE | q.Q_ABSENT
LEAP_KNOWN, CLOCK_FAILURE, NOT_SYNCHRONISED, ACCURACY = 0x80, 0x40, 0x20, 0x1F
UNSPECIFIED = 31
FINEST = 24
"""Significant bits of the fraction of a second at most; 25 to 30 are not defined."""


def common(bits: int) -> int:
    """The common quality of 13 bits (bit 0 of the wire as bit 0)."""
    result = _VALIDITY[bits & 3]
    for bit, meaning in _DETAILS.items():
        if bits & bit:
            result = q.worst(result, meaning)
    return result


_NAMES = {
    OVERFLOW: "overflow",
    OUT_OF_RANGE: "outOfRange",
    BAD_REFERENCE: "badReference",
    OSCILLATORY: "oscillatory",
    FAILURE: "failure",
    OLD_DATA: "oldData",
    INCONSISTENT: "inconsistent",
    INACCURATE: "inaccurate",
    SUBSTITUTED: "source substituted",
    TEST: "test",
    OPERATOR_BLOCKED: "operatorBlocked",
}


def names(bits: int) -> list[str]:
    """The standard's words of 13 bits: validity, then each detail."""
    validity = {GOOD: "good", RESERVED: "reserved", INVALID: "invalid", QUESTIONABLE: "questionable"}[bits & 3]
    return [f"validity {validity}", *(name for bit, name in _NAMES.items() if bits & bit)]


COMMON = tuple(common(bits) for bits in range(1 << 13))
"""`common` of every quality, by its bits."""


def time(stamp: bytes | None, received_ns: int) -> tuple[int, int]:
    """UTC ns and the bits of quality that tell of it, from the 8 octets of a UTC time.

    Octets: 4 seconds, 3 fraction, 1 TimeQuality. A time that is absent or 0 (never set) is the receipt's.
    """
    if stamp is None or stamp[:7] == b"\0\0\0\0\0\0\0":
        return received_ns, q.RECEIPT
    seconds, fraction = int.from_bytes(stamp[:4], "big"), int.from_bytes(stamp[4:7], "big")
    return seconds * 1_000_000_000 + (fraction * 1_000_000_000 >> 24), TIME[stamp[7]]


def time_bits(octet: int) -> int:
    """What a TimeQuality says: clock failure and not synchronised are not in step; undefined accuracy is unknown."""
    bits = 0
    if octet & CLOCK_FAILURE:
        bits |= q.SYNC_NO | q.UNSYNCHRONISED | q.SUSPECT
    if octet & NOT_SYNCHRONISED:
        bits |= q.SYNC_NO | q.UNSYNCHRONISED
    if not bits and FINEST < octet & ACCURACY < UNSPECIFIED:
        bits |= q.SYNC_UNKNOWN
    return bits


TIME = tuple(time_bits(octet) for octet in range(256))
