"""Registered consumers: how far each has stored the events, so that age does not trim what one of them still wants.

A consumer acknowledges cumulatively: everything up to `seq` is safe with it. What is acknowledged is on disk within a
second; after a crash a little more may be held back than needed, never less. Size still trims (docs/delivery.md).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec
import structlog

from gatewayd.store import schema
from gatewayd.store.journal import Journal, JournalError

log = structlog.get_logger("journal")

FLUSH_S = 1.0
KEY = "consumers"


class Acknowledged(StrEnum):
    """What became of an acknowledgement."""

    OK = "ok"
    BEHIND = "behind"
    """It was acknowledged further already: nothing changes, an acknowledgement is never taken back."""
    UNKNOWN_CONSUMER = "unknown-consumer"
    UNKNOWN_EPOCH = "unknown-epoch"
    BEYOND_NEWEST = "beyond-newest"


class Place(NamedTuple):
    """How far a consumer has got."""

    epoch: str
    seq: int


class Consumers:
    """The consumers named in `[journal] consumers`."""

    def __init__(self, journal: Journal, names: Sequence[str]) -> None:
        self._journal = journal
        self._names = tuple(names)
        self._places: dict[str, Place] = {}
        self._dirty = asyncio.Event()
        self.refused = 0

    async def start(self) -> None:
        """Take up what is on disk. Raises JournalError."""
        stored = await self._journal.submit(_read)
        self._places = {name: place for name, place in stored.items() if name in self._names}
        self._hold()

    def configure(self, names: Sequence[str]) -> None:
        """Take a new list of names; whoever left holds nothing back any more."""
        self._names = tuple(names)
        self._places = {name: place for name, place in self._places.items() if name in self._names}
        self._dirty.set()
        self._hold()

    def acknowledge(self, name: str, epoch: str, seq: int) -> Acknowledged:
        """Everything of this epoch up to `seq` is safe with this consumer."""
        verdict = self._judge(name, epoch, seq)
        if verdict is Acknowledged.OK:
            self._places[name] = Place(epoch, seq)
            self._dirty.set()
            self._hold()
        elif verdict is not Acknowledged.BEHIND:
            self.refused += 1
        return verdict

    def _judge(self, name: str, epoch: str, seq: int) -> Acknowledged:
        if name not in self._names:
            return Acknowledged.UNKNOWN_CONSUMER
        if epoch != self._journal.epoch:
            return Acknowledged.UNKNOWN_EPOCH
        if seq > self._journal.newest:
            return Acknowledged.BEYOND_NEWEST
        if seq <= self.acknowledged(name):
            return Acknowledged.BEHIND
        return Acknowledged.OK

    def acknowledged(self, name: str) -> int:
        """The highest number of the present epoch that is safe with a consumer; 0 where there is none."""
        place = self._places.get(name)
        return place.seq if place is not None and place.epoch == self._journal.epoch else 0

    def _hold(self) -> None:
        self._journal.hold_back(
            min((self.acknowledged(name) for name in self._names), default=0) + 1 if self._names else None
        )

    async def run(self) -> None:
        """Bring acknowledgements to the disk, at most once a second, until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            places = dict(self._places)
            try:
                await self._journal.submit(lambda db, places=places: _write(db, places), reserve=False)  # type: ignore[misc]
            except JournalError as error:
                log.warning("acknowledgements could not be stored", cause=str(error))
            await asyncio.sleep(FLUSH_S)

    def counters(self) -> dict[str, int]:
        """Events each consumer has not acknowledged; refused acknowledgements."""
        newest = self._journal.newest
        return {
            **{f"behind_{name}": newest - self.acknowledged(name) for name in self._names},
            "refused": self.refused,
        }


def _read(connection: sqlite3.Connection) -> dict[str, Place]:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (KEY,)).fetchone()
    return stored(row[0] if row else None)


def stored(value: object) -> dict[str, Place]:
    """The places as they stand in the journal's `meta`."""
    if not isinstance(value, bytes):
        return {}
    try:
        return msgspec.msgpack.decode(value, type=dict[str, Place])
    except msgspec.DecodeError:
        return {}  # more is held back than needed until they acknowledge again


def _write(connection: sqlite3.Connection, places: dict[str, Place]) -> None:
    connection.execute(schema.PUT_META, (KEY, msgspec.msgpack.encode(places)))
