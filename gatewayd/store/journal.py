"""The durable journal: events numbered without gaps, the point image, the sources' cursors, commands and audit.

What `append` and `submit` promise holds when their future resolves: it is committed and fsynced. See docs/delivery.md
for the order commit -> confirm -> publish and for what happens when the disk is full, torn or refuses.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog

from gatewayd.points.types import Cursor
from gatewayd.store import retention, schema, startup
from gatewayd.store.reader import DiskReader, Tail
from gatewayd.store.types import ImageRow, JournalError, NewEvent, StoredEvent, WhenFull
from gatewayd.store.writer import Committed, Item, Writer

__all__ = ["ImageRow", "Journal", "JournalError", "NewEvent", "StoredEvent", "WhenFull"]

log = structlog.get_logger("journal")
T = TypeVar("T")


class Journal:
    """One station's journal. Everything but `open` is called on the event loop's thread.

    epoch:  made when the journal was created, or had to begin anew; (epoch, seq) names an event for ever
    oldest, newest: numbers kept in this epoch; newest is 0 before the first event, oldest newest + 1 when none is kept
    full:   events find no room and are held; broken: why the disk does not take anything, "" when it does
    """

    def __init__(
        self, directory: Path, opened: startup.Opened, limits: retention.Limits, now_ns: Callable[[], int]
    ) -> None:
        self.directory = directory
        self.epoch = opened.epoch
        self.oldest = max(opened.oldest, opened.epoch_first)
        self.newest = opened.newest
        self.handed_over = opened.handed_over
        self.full = False
        self.broken = ""
        self._lock = opened.lock
        self._image = opened.image
        self._cursors = opened.cursors
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wakes: list[Callable[[int], None]] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False
        self._tail = Tail()
        self._writer = Writer(directory, opened, limits, now_ns, self._tell)
        self._reader = DiskReader(directory / schema.FILE, self._writer.suspect)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        keep_s: float,
        max_bytes: int,
        when_full: WhenFull,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> Journal:
        """Open or create the journal in a directory; blocks for as long as a bounded check and WAL recovery take.

        keep_s: age up to which handed-over events are kept; max_bytes: size of the file, the WAL (16 MiB) comes on top.
        Raises JournalError with the file, what was found and what to do.
        """
        limits = retention.limits(keep_s, max_bytes, WhenFull(when_full))
        opened = startup.open_store(directory, now_ns)
        try:
            journal = cls(directory, opened, limits, now_ns)
        except BaseException as error:
            opened.connection.close()
            opened.mark.close()
            os.close(opened.lock)
            if isinstance(error, sqlite3.Error | OSError):
                raise JournalError(f"{directory / schema.FILE} cannot be used: {error}") from error
            raise
        journal._writer.start()
        return journal

    # --- writing ----------------------------------------------------------------------------------------------------

    def append(
        self, events: Sequence[NewEvent], image: Sequence[ImageRow] = (), cursor: tuple[str, Cursor] | None = None
    ) -> asyncio.Future[int]:
        """Store events, the points' new values and the source's cursor in one transaction; the order of calls is kept.

        Resolves with the last number after the commit. While the journal is full or the disk refuses it just waits.
        Cancelling the future before its turn withdraws the call. Raises JournalError (in the future) where a value
        cannot be stored, or the journal was closed: then nothing of it is on disk and nothing may be confirmed.
        """
        return self._put(events, image, cursor, None, reserve=False)

    def submit(
        self, job: Callable[[sqlite3.Connection], T], *, reserve: bool = True, events: Sequence[NewEvent] = ()
    ) -> asyncio.Future[T]:
        """Run `job` in the writer's thread inside the next transaction; resolves with its result after the commit.

        A job has a savepoint of its own and must not end the transaction. `events` are numbered with it, or not at all.
        With `reserve` (commands, audit, alarms) it is taken when the journal is full of events, ahead of events that
        are held, and fails at once with JournalError when the disk refuses it. Without, it waits in line with appends.
        """
        return self._put(events, (), None, job, reserve=reserve)

    def mark_handed_over(self, seq: int) -> None:
        """Every event up to `seq` was acknowledged; stored with the next commit, within a second. Never goes back."""
        seq = min(seq, self.newest)
        if seq > self.handed_over:
            self.handed_over = seq
            self._writer.hand_over(seq)

    def hold_back(self, seq: int | None) -> None:
        """Age does not trim from `seq` on, though handed over: a consumer still wants it. Size still does."""
        self._writer.hold_back(seq)

    def _put(
        self,
        events: Sequence[NewEvent],
        image: Sequence[ImageRow],
        cursor: tuple[str, Cursor] | None,
        job: Callable[[sqlite3.Connection], Any] | None,
        *,
        reserve: bool,
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._bind().create_future()
        try:
            self._writer.put(Item(events, image, cursor, job, future, reserve=reserve))
        except JournalError as error:
            future.set_exception(error)
        return future

    # --- reading ----------------------------------------------------------------------------------------------------

    async def read(self, first: int, limit: int, max_bytes: int) -> list[StoredEvent]:
        """Committed events from `first` on (from the oldest kept, where `first` is gone), in order.

        At most `limit`, and as many as fit in `max_bytes` of payload but at least one; empty past the newest.
        Raises JournalError where the disk cannot be read.
        """
        self._bind()
        first = max(first, self.oldest)
        if first > self.newest or limit < 1:
            return []
        found = self._tail.read(first, limit, max_bytes)
        if found is None:
            found = await self._reader.read(first, self.newest, limit, max_bytes)
        return found

    def image(self) -> dict[str, ImageRow]:
        """The last committed value of every point, as stored when the journal was opened."""
        return self._image

    def cursors(self, device: str) -> dict[str, Cursor]:
        """The cursors of a device's sources by name, as stored when the journal was opened."""
        return self._cursors.get(device, {})

    def subscribe(self, wake: Callable[[int], None]) -> None:
        """Have `wake` called on the loop's thread with the newest number after each commit that holds events."""
        self._bind()
        self._wakes.append(wake)

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether events are taken now."""
        return not self.full and not self.broken and not self._closed

    @property
    def alive(self) -> bool:
        """Whether the thread that writes runs. A full or failing disk does not end it, a fault of ours does."""
        return self._writer.alive

    async def wait_writable(self) -> None:
        """Return as soon as events are taken."""
        self._bind()
        await self._writable.wait()

    def counters(self) -> dict[str, int]:
        """Counts since the start, and how full it is, for health."""
        held, jobs = self._writer.waiting()
        return {
            **self._writer.count,
            "waiting_appends": held,
            "waiting_jobs": jobs,
            "used_bytes": self._writer.used,
            "limit_bytes": self._writer.limit,
            "backlog": self.newest - self.handed_over,
            "full": int(self.full),
            "broken": int(bool(self.broken)),
        }

    async def close(self) -> None:
        """Write what waits if the disk takes it, tell the rest, and close; the numbers stay exact."""
        if self._closed:
            return
        self._closed = True
        self._bind()
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        await asyncio.sleep(0)  # the last answers, which the thread has left for this loop
        await self._reader.close()
        os.close(self._lock)

    # --- from the writer's thread -----------------------------------------------------------------------------------

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        return loop

    def _tell(self, committed: Committed) -> None:
        loop = self._loop
        if loop is None:
            # Nobody waits and nobody listens before the first call of the loop.
            self._apply(committed)
            return
        try:
            loop.call_soon_threadsafe(self._apply, committed)
        except RuntimeError:
            log.warning("the loop ended before the journal", newest=committed.newest)

    def _apply(self, committed: Committed) -> None:
        self.oldest, self.newest = committed.oldest, committed.newest
        self.full, self.broken = committed.full, committed.broken
        if self.full or self.broken:
            self._writable.clear()
        else:
            self._writable.set()
        self._tail.extend(committed.events, self.oldest)
        for item, result in committed.results:
            if not item.future.done():
                item.future.set_result(result)
        for item, error in committed.failures:
            if not item.future.done():
                item.future.set_exception(error)
        if committed.events:
            for wake in self._wakes:
                wake(committed.newest)
