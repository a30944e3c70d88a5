"""Reading committed events: the newest few thousand from memory, older ones from a read connection in a thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from gatewayd.store import gaps, schema
from gatewayd.store.types import JournalError, StoredEvent

log = structlog.get_logger("journal")

TAIL_EVENTS = 8192
TAIL_BYTES = 8 * 1024 * 1024


class Tail:
    """The newest committed events, contiguous. A list, cut now and then: reading at its end costs what is read."""

    def __init__(self) -> None:
        self._events: list[StoredEvent] = []
        self._bytes = 0

    def extend(self, events: Sequence[StoredEvent], oldest: int) -> None:
        """Add what was committed; forget what is older than `oldest` or too much."""
        mine = self._events
        mine += events
        self._bytes += sum([len(event.payload) for event in events])
        if mine and (len(mine) > 2 * TAIL_EVENTS or self._bytes > TAIL_BYTES or mine[0].seq < oldest):
            self._cut(oldest)

    def _cut(self, oldest: int) -> None:
        mine = self._events
        gone = max(len(mine) - TAIL_EVENTS, oldest - mine[0].seq, 0)
        size = self._bytes - sum([len(event.payload) for event in mine[:gone]])
        while size > TAIL_BYTES:
            size -= len(mine[gone].payload)
            gone += 1
        del mine[:gone]
        self._bytes = size

    def read(self, first: int, limit: int, max_bytes: int) -> list[StoredEvent] | None:
        """Events from `first` on, None where they are not all in memory."""
        mine = self._events
        if not mine or first < mine[0].seq:
            return None
        start = first - mine[0].seq
        return bounded(mine[start : start + limit], max_bytes)


def bounded(events: Iterable[StoredEvent], max_bytes: int) -> list[StoredEvent]:
    """As many as fit in `max_bytes` of payload, at least one."""
    found: list[StoredEvent] = []
    size = 0
    for event in events:
        size += len(event.payload)
        if found and size > max_bytes:
            break
        found.append(event)
    return found


def stored(seq: int, recorded_ns: int, payload: bytes, crc: int) -> StoredEvent:
    """A row of the file. What is no longer what was written is never sent: a gap record stands under its number."""
    if not schema.intact(payload, crc):
        log.error("an event in the journal is damaged; a gap record stands for it", seq=seq)
        payload = gaps.damaged(recorded_ns)
    return StoredEvent(seq, recorded_ns, payload)


def select(connection: sqlite3.Connection, first: int, last: int, limit: int, max_bytes: int) -> list[StoredEvent]:
    """Events `first`..`last` from the file, in order."""
    cursor = connection.execute(schema.READ, (first, last, limit))
    try:
        return bounded((stored(*row) for row in cursor), max_bytes)
    finally:
        cursor.close()  # an open SELECT would keep the WAL from being reused


class DiskReader:
    """One read connection in one thread."""

    def __init__(self, path: Path, corrupt: Callable[[], None]) -> None:
        self._path = path
        self._corrupt = corrupt
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal-read")
        self._connection: sqlite3.Connection | None = None

    async def read(self, first: int, last: int, limit: int, max_bytes: int) -> list[StoredEvent]:
        """Events `first`..`last` from disk. Raises JournalError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, first, last, limit, max_bytes)

    def _read(self, first: int, last: int, limit: int, max_bytes: int) -> list[StoredEvent]:
        try:
            if self._connection is None:
                self._connection = schema.connect_readonly(self._path)
            return select(self._connection, first, last, limit, max_bytes)
        except sqlite3.Error as error:
            if schema.corrupt(error):
                self._corrupt()
            raise JournalError(f"{self._path} cannot be read from event {first} on: {error}") from error

    async def close(self) -> None:
        """End the thread and its connection."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=True)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
