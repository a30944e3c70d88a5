"""DNP3 flags and times to the common quality. Pure; all 256 octets of each type are a table.

Source: docs/quality-and-time.md; IEEE 1815, flag octets of groups 1 to 4, 10, 11, 20 to 23, 30, 32, 40, 42.
"""

from __future__ import annotations

from gatewayd.points import quality as q

ONLINE, RESTART, COMM_LOST, REMOTE_FORCED, LOCAL_FORCED = 0x01, 0x02, 0x04, 0x08, 0x10
BIT5, BIT6, STATE = 0x20, 0x40, 0x80
"""CHATTER_FILTER, OVER_RANGE or ROLLOVER; REFERENCE_ERR or DISCONTINUITY; the state of a binary."""

_ALL = {
    RESTART: q.INVALID | q.RESTART | q.NOT_INITIALISED,
    COMM_LOST: q.QUESTIONABLE | q.COMM_LOST | q.OLD_DATA,
    REMOTE_FORCED: q.FORCED_REMOTE | q.SUBSTITUTED,
    LOCAL_FORCED: q.FORCED_LOCAL | q.SUBSTITUTED,
}
_CHATTER = {BIT5: q.QUESTIONABLE | q.CHATTER}
_ANALOG = {BIT5: q.QUESTIONABLE | q.OVER_RANGE, BIT6: q.QUESTIONABLE | q.REFERENCE_ERR}
_COUNTER = {BIT6: q.DISCONTINUITY}
"""ROLLOVER (bit 5) is deprecated and says nothing; DISCONTINUITY is a break in counting, not a bad value."""
_MEANINGS = {"BI": _CHATTER, "DBI": _CHATTER, "BO": {}, "AI": _ANALOG, "AO": _ANALOG, "CT": _COUNTER, "FC": _COUNTER}

ABSENT = q.QUESTIONABLE | q.Q_ABSENT
NO_TEXT = ABSENT | q.INCONSISTENT
"""An octet string that is not text."""


def common(kind: str, flags: int) -> int:
    """The common quality of a flag octet; kind: BI, DBI, BO, AI, AO, CT or FC. State bits say nothing here."""
    result = q.GOOD if flags & ONLINE else q.INVALID | q.FAILURE
    for bit, meaning in {**_ALL, **_MEANINGS[kind]}.items():
        if flags & bit:
            result = q.worst(result, meaning)
    return result


COMMON = {kind: tuple(common(kind, flags) for flags in range(256)) for kind in _MEANINGS}
"""`common` of every flag octet by type."""

ALWAYS_ABSENT = (ABSENT,) * 256

NO_FLAGS = frozenset({(3, 1), (20, 5), (20, 6), (21, 9), (21, 10), (30, 3), (30, 4)})
"""Objects without a flag octet, octet strings apart; packed binaries (g1v1, g10v1) imply the nominal flags."""


def table(kind: str, group: int, variation: int) -> tuple[int, ...]:
    """The quality of each flag octet for an object; opendnp3 puts ONLINE where an object has no flags."""
    return ALWAYS_ABSENT if kind == "OS" or (group, variation) in NO_FLAGS else COMMON[kind]


_NAMES_ALL = {
    RESTART: "RESTART",
    COMM_LOST: "COMM_LOST",
    REMOTE_FORCED: "REMOTE_FORCED",
    LOCAL_FORCED: "LOCAL_FORCED",
}
_NAMES_BINARY = {BIT5: "CHATTER_FILTER", BIT6: "reserved bit 6", STATE: "STATE"}
_NAMES_OUTPUT = {BIT5: "reserved bit 5", BIT6: "reserved bit 6", STATE: "STATE"}
_NAMES_COUNTER = {BIT5: "ROLLOVER", BIT6: "DISCONTINUITY", STATE: "reserved bit 7"}
_NAMES_ANALOG = {BIT5: "OVER_RANGE", BIT6: "REFERENCE_ERR", STATE: "reserved bit 7"}
_NAMES = {
    "BI": _NAMES_BINARY,
    "DBI": {BIT5: "CHATTER_FILTER"},  # both bits above are its state
    "BO": _NAMES_OUTPUT,
    "AI": _NAMES_ANALOG,
    "AO": _NAMES_ANALOG,
    "CT": _NAMES_COUNTER,
    "FC": _NAMES_COUNTER,
}


def names(kind: str, flags: int) -> list[str]:
    """The standard's words of a flag octet, lowest bit first; empty for OS, which has none.

    ONLINE is named where it stands and where it lacks; the state of a double-bit input as its two bits.
    """
    if kind not in _NAMES:
        return []
    words = ["ONLINE" if flags & ONLINE else "ONLINE not set"]
    words += [name for bit, name in {**_NAMES_ALL, **_NAMES[kind]}.items() if flags & bit]
    return [*words, f"STATE {flags >> 6 & 3:02b}"] if kind == "DBI" else words


# ---- time

EARLIEST_NS = 946_684_800_000_000_000
"""2000-01-01: a time before it comes from a clock that was never set."""
FUTURE_NS = 1_000_000_000
PAST_NS = 10_000_000_000
LATEST_MS = (1 << 63) // 1_000_000 - 1
"""The latest time that fits; a DNP3 time has 48 bits of milliseconds and could say the year 10889."""
SYNCHRONISED, UNSYNCHRONISED, NO_TIME = 1, 2, 0
"""opendnp3's TimestampQuality."""


def time_bits(ts_quality: int, *, need_time: bool) -> int:
    """What is known of the clock behind the times of one object header.

    ts_quality: of the header; UNSYNCHRONISED comes from g51v2. need_time: IIN1.4 of the response: the device itself
    says that its clock has not been set.
    """
    if ts_quality == NO_TIME:
        return q.RECEIPT
    return q.SYNC_NO | q.UNSYNCHRONISED if need_time or ts_quality == UNSYNCHRONISED else 0


def suspect(time_ns: int, received_ns: int, last_contact_ns: int | None) -> bool:
    """Whether a device's time cannot be right: in the future, from a clock never set, or before the last contact.

    last_contact_ns: UTC of the last answer of the device that left nothing waiting in its buffers; None before the
    first one. Events from before that should have come then; what gathered while it was away came after it.
    """
    if time_ns > received_ns + FUTURE_NS or time_ns < EARLIEST_NS:
        return True
    return last_contact_ns is not None and time_ns < last_contact_ns - PAST_NS
