"""What goes into the journal and comes out of it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from gatewayd.points.types import Value


class JournalError(Exception):
    """The journal cannot do what was asked; the text names the file, what was found, and what to do."""


class WhenFull(StrEnum):
    """What happens when everything left in a full journal has not been handed over yet."""

    BLOCK = "block"
    DROP_OLDEST = "drop-oldest"


class NewEvent(NamedTuple):
    """An event that has no number yet.

    type:    point | device | control | gap | clock
    payload: one JSON object in UTF-8, without `seq`
    time_ns: the event's own time, UTC ns
    """

    type: str
    device: str
    payload: bytes
    time_ns: int


class StoredEvent(NamedTuple):
    """A committed event; recorded_ns is the UTC time of its transaction."""

    seq: int
    recorded_ns: int
    payload: bytes


class ImageRow(NamedTuple):
    """The last committed value of a point: what a change is judged against, never republished as good."""

    point: str
    value: Value
    quality: int
    native: int
    time_ns: int
