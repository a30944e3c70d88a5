"""The one quality of every protocol, as bits of an int (an int on the hot path; names only for printing).

Bits 0-1 are the validity, then one bit per flag, then source, test and blocked, then what is known of the time.
The native octet or bit string is kept beside it (`Sample.native`). Source: docs/quality-and-time.md.
"""

from __future__ import annotations

GOOD, QUESTIONABLE, INVALID = 0, 1, 2
VALIDITY_MASK = 0b11
VALIDITY_NAMES = ("good", "questionable", "invalid", "invalid")

RESTART = 1 << 2
COMM_LOST = 1 << 3
DEVICE_OFFLINE = 1 << 4
FORCED_REMOTE = 1 << 5
FORCED_LOCAL = 1 << 6
CHATTER = 1 << 7
OVER_RANGE = 1 << 8
REFERENCE_ERR = 1 << 9
DISCONTINUITY = 1 << 10
OVERFLOW = 1 << 11
OUT_OF_RANGE = 1 << 12
BAD_REFERENCE = 1 << 13
OSCILLATORY = 1 << 14
FAILURE = 1 << 15
OLD_DATA = 1 << 16
INCONSISTENT = 1 << 17
INACCURATE = 1 << 18
CONFIG_ERROR = 1 << 19
NOT_INITIALISED = 1 << 20
Q_ABSENT = 1 << 21
SAMPLED = 1 << 22
UNSYNCHRONISED = 1 << 23
SUSPECT = 1 << 24

SUBSTITUTED = 1 << 25
TEST = 1 << 26
BLOCKED = 1 << 27

RECEIPT = 1 << 28
"""The time is the gateway's (receipt or middle of the poll), not the device's."""
SYNC_NO = 1 << 29
"""The clock behind the time is known not to be synchronised."""
SYNC_UNKNOWN = 1 << 30
"""Nothing is known about the clock behind the time."""

FLAG_NAMES: dict[int, str] = {
    RESTART: "restart",
    COMM_LOST: "comm-lost",
    DEVICE_OFFLINE: "device-offline",
    FORCED_REMOTE: "forced-remote",
    FORCED_LOCAL: "forced-local",
    CHATTER: "chatter",
    OVER_RANGE: "over-range",
    REFERENCE_ERR: "reference-err",
    DISCONTINUITY: "discontinuity",
    OVERFLOW: "overflow",
    OUT_OF_RANGE: "out-of-range",
    BAD_REFERENCE: "bad-reference",
    OSCILLATORY: "oscillatory",
    FAILURE: "failure",
    OLD_DATA: "old-data",
    INCONSISTENT: "inconsistent",
    INACCURATE: "inaccurate",
    CONFIG_ERROR: "config-error",
    NOT_INITIALISED: "not-initialised",
    Q_ABSENT: "q-absent",
    SAMPLED: "sampled",
    UNSYNCHRONISED: "unsynchronised",
    SUSPECT: "suspect",
}

FLAGS_MASK = sum(FLAG_NAMES)
TIME_MASK = RECEIPT | SYNC_NO | SYNC_UNKNOWN
EVENT_MASK = VALIDITY_MASK | FLAGS_MASK & ~(SAMPLED | UNSYNCHRONISED | SUSPECT) | SUBSTITUTED | TEST | BLOCKED
"""The bits whose change is a change of quality; what is only said about the time is not."""

START = INVALID | RESTART | NOT_INITIALISED | RECEIPT
"""Every point after a start, until it has been read."""


def worst(a: int, b: int) -> int:
    """The union of two qualities: the worse validity, every flag of both, test and blocked if either has them."""
    return max(a & VALIDITY_MASK, b & VALIDITY_MASK) | (a | b) & ~VALIDITY_MASK


def validity(quality: int) -> str:
    """`good`, `questionable` or `invalid`."""
    return VALIDITY_NAMES[quality & VALIDITY_MASK]


def flags(quality: int) -> list[str]:
    """The names of the flags that are set, in the order of the specification."""
    bits = quality & FLAGS_MASK
    return [name for bit, name in FLAG_NAMES.items() if bits & bit] if bits else []


def usable(quality: int) -> bool:
    """True where the value may prove or permit something: good, from the process, not under test, not blocked.

    Interlocks, gates and feedback use this and nothing else (control rules R6 and R11).
    """
    return not quality & (VALIDITY_MASK | SUBSTITUTED | TEST | BLOCKED)


def describe(quality: int) -> str:
    """One line for people: `questionable (comm-lost, old-data) substituted test`."""
    text = validity(quality)
    if names := flags(quality):
        text += f" ({', '.join(names)})"
    for bit, name in ((SUBSTITUTED, "substituted"), (TEST, "test"), (BLOCKED, "blocked")):
        if quality & bit:
            text += f" {name}"
    return text
