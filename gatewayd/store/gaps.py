"""The journal's own gap records: never a loss without one. Pure.

The form is that of every gap record (`type`, `device`, `from`, `to`, `cause`, `t`); `device` is `journal`.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec

from gatewayd.store.types import NewEvent

SOURCE = "journal"
FULL = "journal-full"
DISK_FULL = "journal-disk-full"
DISK_ERROR = "journal-disk-error"
DROPPED = "journal-dropped-oldest"
TORN = "journal-torn"
RESTORED = "journal-restored"
UNREADABLE = "journal-unreadable"
MISSING = "journal-missing"
DAMAGED = "journal-record-damaged"


class Loss(NamedTuple):
    """Events dropped before they were handed over: their numbers, and when the first and last were recorded."""

    first: int
    last: int
    from_ns: int
    to_ns: int

    def joined(self, later: Loss) -> Loss:
        """Join this loss and the one that follows it without a number between."""
        return Loss(self.first, later.last, self.from_ns, later.to_ns)


class Held(NamedTuple):
    """Since when events had to wait because the journal did not take them, and why."""

    from_ns: int
    cause: str


class Break(NamedTuple):
    """Why a new epoch began.

    previous:  the epoch before, "" where it cannot be known
    same_until: up to here a number means the same event in both epochs
    lost:      how many committed numbers of the previous epoch are gone, None where it cannot be known
    """

    cause: str
    previous: str
    same_until: int
    lost: int | None


def dropped(loss: Loss, now_ns: int) -> NewEvent:
    """The record of a `drop-oldest` episode: exactly the numbers that are gone."""
    count = loss.last - loss.first + 1
    return _record(DROPPED, loss.from_ns, loss.to_ns, now_ns, lost=count, first_seq=loss.first, last_seq=loss.last)


def held(held: Held, now_ns: int) -> NewEvent:
    """The record of a time when devices were held: what their own buffers could not keep is gone."""
    return _record(held.cause, held.from_ns, now_ns, now_ns)


def new_epoch(broken: Break, now_ns: int) -> NewEvent:
    """The record that opens a new epoch."""
    more: dict[str, object] = {"same_until": broken.same_until}
    if broken.previous:
        more["previous_epoch"] = broken.previous
    if broken.lost is not None:
        more["lost"] = broken.lost
    return _record(broken.cause, None, now_ns, now_ns, **more)


def damaged(recorded_ns: int) -> bytes:
    """What stands under the number of an event that the disk has changed; its own time is that of its recording."""
    return _record(DAMAGED, recorded_ns, recorded_ns, recorded_ns, lost=1).payload


def _record(cause: str, from_ns: int | None, to_ns: int, now_ns: int, **more: object) -> NewEvent:
    record = {
        "type": "gap",
        "device": SOURCE,
        "from": None if from_ns is None else _rfc3339(from_ns),
        "to": _rfc3339(to_ns),
        "cause": cause,
        "t": _rfc3339(now_ns),
        "t_src": "gateway",
        **more,
    }
    return NewEvent("gap", SOURCE, msgspec.json.encode(record), now_ns)


def _rfc3339(time_ns: int) -> str:
    second, rest = divmod(max(time_ns, 0), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + f".{rest // 1_000_000:03}Z"
