"""What may be trimmed, what must be dropped, and whether there is room for events. Pure."""

from __future__ import annotations

from typing import NamedTuple

from gatewayd.store.schema import Space
from gatewayd.store.types import JournalError, WhenFull

MIN_SIZE = 1024 * 1024
RESERVE = 64 * 1024 * 1024
STEP = 256
"""Events deleted by one statement: a trim never holds up a commit for long."""


class Limits(NamedTuple):
    """The configured retention.

    high: octets in use from which on events find no room; low: octets below which they find room again, and down to
    which events that were handed over are trimmed. The difference keeps `full` from flickering.
    """

    keep_ns: int
    high: int
    low: int
    reserve: int
    when_full: WhenFull


def limits(keep_s: float, max_bytes: int, when_full: WhenFull) -> Limits:
    """The limits; the reserve for commands, audit and alarms is 64 MiB or 5 % of `max_bytes`, whichever is less."""
    if max_bytes < MIN_SIZE:
        raise JournalError(f"the journal's max_size is {max_bytes} octets; at least {MIN_SIZE} (1MiB) is allowed")
    if keep_s <= 0:
        raise JournalError(f"the journal's keep is {keep_s} s; more than 0 is allowed")
    reserve = min(RESERVE, max_bytes // 20)
    high = max_bytes - reserve
    return Limits(int(keep_s * 1e9), high, high - high // 50, reserve, when_full)


class Kept(NamedTuple):
    """What the journal holds: oldest and newest number, when the oldest was recorded, and what trimming must respect.

    The newest event always stays: its number is where the next start goes on.
    """

    oldest: int
    newest: int
    oldest_ns: int
    handed_over: int
    hold: int


def has_room(limits: Limits, space: Space, *, blocked: bool, missing: int) -> bool:
    """Whether events are taken. What is `missing` of the reserve on the disk must be free inside the file instead."""
    if missing and space.free <= missing:
        return False
    return space.used < (limits.low if blocked else limits.high)


class Trim(NamedTuple):
    """Delete the events `first`..`last`; those from `lost_from` on were never handed over (0: none)."""

    first: int
    last: int
    lost_from: int


def by_size(limits: Limits, space: Space, kept: Kept, *, room: bool) -> Trim | None:
    """The next step that makes room: handed-over events first, others only under `drop-oldest` without room."""
    if room and space.used <= limits.low:
        return None
    last = min(kept.oldest + STEP - 1, kept.handed_over, kept.newest - 1)
    if last >= kept.oldest:
        return Trim(kept.oldest, last, 0)
    if room or limits.when_full is WhenFull.BLOCK or kept.oldest >= kept.newest:
        return None
    last = min(kept.oldest + STEP - 1, kept.newest - 1)
    return Trim(kept.oldest, last, kept.oldest)


def by_age(limits: Limits, kept: Kept, now_ns: int) -> Trim | None:
    """The step that may hold events too old to keep: at most up to what consumers still want. Judge each by its age."""
    last = min(kept.oldest + STEP - 1, kept.handed_over, kept.hold - 1, kept.newest - 1)
    if last < kept.oldest or kept.oldest_ns >= now_ns - limits.keep_ns:
        return None
    return Trim(kept.oldest, last, 0)
