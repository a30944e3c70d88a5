"""The one thread that writes the journal: whatever has gathered becomes one transaction as soon as it is free.

Order inside a transaction: trim, a gap record if one is due, then events and jobs in the order of the calls, then what
was handed over. After the commit the loop is told once. Events that find no room, or that the disk refuses, stay where
they are in the queue; jobs of the reserve go past them and fail at once where the disk refuses them too.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
import structlog

from gatewayd import failpoint
from gatewayd.points.types import Cursor
from gatewayd.store import gaps, retention, schema, startup
from gatewayd.store.ballast import Ballast
from gatewayd.store.retention import Kept, Limits
from gatewayd.store.types import ImageRow, JournalError, NewEvent, StoredEvent

log = structlog.get_logger("journal")

GROUP_EVENTS = 4096
"""Events of one transaction, at most (a single larger append goes alone)."""
TRIM_EVENTS = 2048
"""Events trimmed in one transaction, beside as many as it writes."""
TICK_S = 1.0
"""So long a hand-over mark waits for a commit to go with, and retention for the next look."""
RETRY_S = (0.05, 2.0)
HELD_S = 1.0
"""A shorter hold is no different from a slow disk and makes no gap record."""
SPACE_EVERY = 256 * 1024
CHECKPOINT_BYTES = 4 * 1024 * 1024
EVENT_OVERHEAD = 48
"""Octets of an event in the file beside its payload, about."""
_FOREVER = 1 << 62
_as_tuple = tuple.__new__
"""A named tuple at half the cost of its own constructor, for what is made once for each event."""
_encode = msgspec.msgpack.Encoder().encode


class Item:
    """One call: events with image and cursor, or a job (with events of its own), and who waits for it."""

    __slots__ = ("cursor", "device", "events", "future", "image", "job", "reserve")

    def __init__(
        self,
        events: Sequence[NewEvent],
        image: Sequence[ImageRow],
        cursor: tuple[str, Cursor] | None,
        job: Callable[[sqlite3.Connection], Any] | None,
        future: asyncio.Future[Any],
        *,
        reserve: bool,
    ) -> None:
        self.events = events
        self.image = image
        self.cursor = cursor
        self.job = job
        self.future = future
        self.reserve = reserve


class Committed(NamedTuple):
    """What the loop is told: results for waiting calls, new events, and where the journal stands."""

    results: list[tuple[Item, Any]]
    failures: list[tuple[Item, Exception]]
    events: list[StoredEvent]
    oldest: int
    newest: int
    full: bool
    broken: str


class _Trimmed(NamedTuple):
    kept: Kept
    loss: gaps.Loss | None
    dropped: int


class _Group:
    """A transaction in the making."""

    def __init__(self, next_seq: int, now_ns: int) -> None:
        self.next_seq = next_seq
        self.now_ns = now_ns
        self.rows: list[object] = []
        self.image: dict[str, tuple[object, ...]] = {}
        self.cursors: dict[tuple[str, str], bytes] = {}
        self.events: list[StoredEvent] = []
        self.size = 0
        self.results: list[tuple[Item, Any]] = []
        self.failures: list[tuple[Item, Exception]] = []

    def number(self, events: Sequence[NewEvent]) -> None:
        seq, now_ns, rows, stored, size = self.next_seq, self.now_ns, self.rows, self.events, 0
        for kind, device, payload, time_ns in events:
            rows += (seq, now_ns, time_ns, kind, device, payload, crc32(payload))
            stored.append(_as_tuple(StoredEvent, (seq, now_ns, payload)))
            size += len(payload)
            seq += 1
        self.size += size + EVENT_OVERHEAD * len(events)
        self.next_seq = seq

    def flush(self, connection: sqlite3.Connection) -> None:
        if self.rows:
            schema.put_many(connection, "INSERT INTO events", schema.EVENT_COLUMNS, self.rows)
            self.rows = []
        if self.image:
            flat = [value for row in self.image.values() for value in row]
            schema.put_many(connection, "INSERT OR REPLACE INTO image", schema.IMAGE_COLUMNS, flat)
            self.image = {}
        if self.cursors:
            flat = [value for (device, source), data in self.cursors.items() for value in (device, source, data)]
            schema.put_many(connection, "INSERT OR REPLACE INTO cursors", schema.CURSOR_COLUMNS, flat)
            self.cursors = {}


class Writer:
    """The thread and its queue. `put` and the marks are called on the loop's thread; `tell` is called on this one."""

    def __init__(
        self,
        directory: Path,
        opened: startup.Opened,
        limits: Limits,
        now_ns: Callable[[], int],
        tell: Callable[[Committed], None],
    ) -> None:
        self._directory = directory
        self._connection = opened.connection
        self._mark = opened.mark
        self._limits = limits
        self._now_ns = now_ns
        self._tell = tell
        self._epoch_first = opened.epoch_first
        self._oldest, self._oldest_ns = opened.oldest, opened.oldest_ns
        self._newest = opened.newest
        self._handed_over = self._stored_handed_over = opened.handed_over
        self._hold = _FOREVER
        self._loss = opened.loss
        self._lossy_mono = time.monotonic()
        self._stored_loss = opened.loss
        self._held = self._stored_held = opened.held
        self._held_mono = float("-inf")
        self._blocked = False
        self._said_full = False
        self._broken = ""
        self._failed = False
        self._pause_s = 0.0
        self._ballast = Ballast(directory, limits.reserve)
        # On a full disk the WAL must fit into the file with nothing but the reserve's room.
        self._wal = min(schema.WAL_LIMIT, self._ballast.size // 2)
        self._group_events = min(GROUP_EVENTS, max(64, limits.high // 8192), max(64, self._wal // 1024))
        self._look_every = min(SPACE_EVERY, limits.high // 64)
        self._singly = 0
        self._space = schema.space(opened.connection)
        self._since_space = self._since_checkpoint = 0
        self._events: deque[Item] = deque()
        self._jobs: deque[Item] = deque()
        self._wake = threading.Condition()
        self._woken = False
        self._closing = False
        self.count = dict.fromkeys(
            (
                "commits",
                "events",
                "bytes",
                "jobs",
                "jobs_failed",
                "trimmed",
                "dropped",
                "gap_records",
                "write_errors",
                "checkpoints",
                "commit_us_max",
            ),
            0,
        )
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def start(self) -> None:
        """Allocate the reserve and begin."""
        if not self._ballast.restore():
            log.warning("no room on the disk for the journal's reserve", octets=self._ballast.size)
        self._connection.execute(f"PRAGMA wal_autocheckpoint={max(self._wal // schema.PAGE, 8)}").fetchall()
        self._thread.start()

    # --- called on the loop's thread --------------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Queue a call."""
        with self._wake:
            if self._closing:
                raise JournalError("the journal is closed")
            (self._jobs if item.reserve else self._events).append(item)
            self._woken = True
            self._wake.notify()

    def hand_over(self, seq: int) -> None:
        """Events up to `seq` were handed over; stored with the next commit, or within a second."""
        self._handed_over = seq
        if self._blocked:
            self._notify()

    def hold_back(self, seq: int | None) -> None:
        """Age does not trim from `seq` on (None: no consumer holds anything)."""
        self._hold = _FOREVER if seq is None else seq

    def waiting(self) -> tuple[int, int]:
        """Calls that wait: events, jobs."""
        return len(self._events), len(self._jobs)

    @property
    def alive(self) -> bool:
        """Whether the thread runs; trouble with the disk does not end it."""
        return self._thread.is_alive()

    @property
    def used(self) -> int:
        """Octets in use, as last looked."""
        return self._space.used

    @property
    def limit(self) -> int:
        """Octets in use from which on events find no room."""
        return self._limits.high

    def stop(self) -> None:
        """Ask the thread to write what it can and end."""
        with self._wake:
            self._closing = True
            self._woken = True
            self._wake.notify()

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    def _notify(self) -> None:
        with self._wake:
            self._woken = True
            self._wake.notify()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._wait()
                self._cycle()
            self._finish()
        except BaseException as error:
            # A fault of ours must be seen: nothing is confirmed from here on, and everyone who waits is told.
            self._broken = f"the journal's writer ended: {error!r}"
            log.exception("the journal's writer ended")
            with self._wake:
                self._closing = True
            self._fail_all()
            raise

    def _wait(self) -> None:
        with self._wake:
            if not self._woken:
                self._wake.wait(self._pause_s or TICK_S)
            self._woken = False

    def _cycle(self) -> None:
        """Transactions until nothing is left that can be done now."""
        while True:
            events = self._take(self._events, 1 if self._singly else self._group_events)
            jobs = self._take(self._jobs, self._group_events)
            self._singly -= bool(self._singly and events)
            if not self._attempt(events, jobs):
                return

    def _take(self, queue: deque[Item], most: int) -> list[Item]:
        taken: list[Item] = []
        size = 0
        while queue and (not taken or size + len(queue[0].events) <= most):
            item = queue.popleft()
            if item.future.cancelled():
                continue
            size += len(item.events) + 1
            taken.append(item)
        return taken

    def _attempt(self, events: list[Item], jobs: list[Item]) -> bool:
        """One transaction; whether another one should follow at once."""
        try:
            return self._transaction(events, jobs)
        except (sqlite3.Error, OSError) as error:
            self._roll_back()
            self._events.extendleft(reversed(events))
            self._refused(error, events)
            if jobs:
                self._last_try(jobs)
            return False
        except Exception as error:
            self._roll_back()
            if len(events) + len(jobs) == 1:
                self._answer([], [((events or jobs)[0], JournalError(f"cannot be stored: {error!r}"))])
                return True
            # One call holds something that cannot be stored: each by itself, so that it does not take others along.
            self._singly = len(events)
            self._events.extendleft(reversed(events))
            for item in jobs:
                self._attempt([], [item])
            return True

    def _last_try(self, jobs: list[Item]) -> None:
        """Commands and audit by themselves, from the room kept for them; never a wait."""
        for last in (False, True):
            try:
                self._transaction([], jobs)
            except (sqlite3.Error, OSError) as error:
                self._roll_back()
                if not last and schema.disk_full(error) and self._use_ballast():
                    continue
                self.count["jobs_failed"] += len(jobs)
                refusal = JournalError(f"the journal cannot write: {error}")
                self._answer([], [(item, refusal) for item in jobs])
            except Exception as error:
                self._roll_back()
                self._answer([], [(item, JournalError(f"cannot be stored: {error!r}")) for item in jobs])
            return

    def _transaction(self, events: list[Item], jobs: list[Item]) -> bool:
        started = time.monotonic()
        now_ns = self._now_ns()
        handed_over = self._handed_over
        kept = Kept(self._oldest, self._newest, self._oldest_ns, handed_over, self._hold)
        if not self._ballast.present:
            self._ballast.restore()
        if self._failed or self._blocked or self._since_space > self._look_every or not (events or jobs):
            self._look_at_space()
        room = self._room()
        if events and not room and retention.by_size(self._limits, self._space, kept, room=False) is None:
            self._note_hold(now_ns, gaps.FULL)
        if not jobs and not (events and room) and not self._due(kept, handed_over, now_ns, room=room):
            self._leave(events, room=room)
            return False
        db = self._connection
        db.execute("BEGIN IMMEDIATE")
        trimmed = self._trim(kept, now_ns, TRIM_EVENTS + 2 * sum(len(item.events) for item in events))
        kept, loss, room = trimmed.kept, trimmed.loss, self._room()
        if events and not room:
            self._note_hold(now_ns, gaps.FULL)
        group = _Group(self._newest + 1, now_ns)
        loss = self._gap_records(group, loss, handed_over, room=room)
        for item in [*events, *jobs] if room else jobs:
            self._write(db, group, item)
        held = None if room else self._held
        meta = self._meta(handed_over, loss, held)
        newest = group.next_seq - 1
        if newest > self._newest:
            self._mark.reserve(newest)
        group.flush(db)
        if meta:
            db.executemany(schema.PUT_META, meta)
        failpoint.here("journal-before-commit")
        db.execute("COMMIT")
        failpoint.here("journal-after-commit")
        # From here on it is on disk.
        if newest > self._newest:
            self._note_mark(newest)
        if kept.oldest_ns == 0 and group.events:
            kept = kept._replace(oldest_ns=now_ns)
        advanced = kept.oldest > self._oldest
        self.count["trimmed"] += kept.oldest - self._oldest
        self.count["dropped"] += trimmed.dropped
        self._oldest, self._oldest_ns, self._newest = kept.oldest, kept.oldest_ns, newest
        self._stored_handed_over, self._loss, self._stored_loss = handed_over, loss, loss
        self._held = self._stored_held = held
        self._tally(group, time.monotonic() - started)
        self._leave(events if not room else [], room=room)
        self._answer(group.results, group.failures, group.events)
        self._checkpoint(idle=not self._events and not self._jobs)
        return bool(self._jobs or (self._events and room) or advanced)

    def _meta(self, handed_over: int, loss: gaps.Loss | None, held: gaps.Held | None) -> list[tuple[str, object]]:
        """What changed beside events and image."""
        meta: list[tuple[str, object]] = []
        if handed_over != self._stored_handed_over:
            meta.append(("handed_over", handed_over))
        if loss != self._stored_loss:
            meta.append(("loss", msgspec.msgpack.encode(loss) if loss else None))
        if held != self._stored_held:
            meta.append(("held", msgspec.msgpack.encode(held) if held else None))
        return meta

    def _leave(self, events: list[Item], *, room: bool) -> None:
        """Put back what found no room, and say what broke or healed."""
        self._events.extendleft(reversed(events))
        if self._failed and room:
            self._failed, self._broken, self._pause_s = False, "", 0.0
            log.info("the journal writes again", file=str(self._directory / schema.FILE))
        changed = self._blocked is room
        self._blocked = not room
        if self._blocked and events and not self._said_full:
            self._said_full = True
            used, limit = self._space.used, self._limits.high
            if used < limit:
                log.error("the disk has no room for the journal's events: devices are held", used=used, limit=limit)
            else:
                log.error(
                    "the journal is full of events that were not handed over: devices are held", used=used, limit=limit
                )
        elif room and self._said_full:
            self._said_full = False
            log.info("the journal has room again", used=self._space.used, limit=self._limits.high)
        if changed:
            self._answer([], [])

    def _tally(self, group: _Group, took_s: float) -> None:
        count = self.count
        size = group.size + 64 * len(group.results)
        self._since_space += size
        self._since_checkpoint += 3 * 4096 + size
        count["commits"] += 1
        count["events"] += len(group.events)
        count["bytes"] += size
        count["commit_us_max"] = max(count["commit_us_max"], int(took_s * 1e6))

    def _write(self, db: sqlite3.Connection, group: _Group, item: Item) -> None:
        if item.job is None:
            if item.events:
                group.number(item.events)
            for point, value, quality, native, time_ns in item.image:
                group.image[point] = (point, _encode(value), quality, native, time_ns)
            if item.cursor is not None:
                device, (source, data) = item.cursor
                group.cursors[device, source] = data
            group.results.append((item, group.next_seq - 1))
            return
        group.flush(db)
        first, stored, size = group.next_seq, len(group.events), group.size
        db.execute("SAVEPOINT job")
        try:
            result = item.job(db)
            group.number(item.events)
            group.flush(db)
        except Exception as error:
            if not db.in_transaction:
                raise  # SQLite gave up the whole transaction: that is the disk, not the job
            if isinstance(error, sqlite3.Error) and schema.code(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
                raise
            db.execute("ROLLBACK TO job")
            db.execute("RELEASE job")
            group.next_seq, group.rows, group.size = first, [], size
            del group.events[stored:]
            self.count["jobs_failed"] += 1
            group.failures.append((item, error))
            return
        db.execute("RELEASE job")
        self.count["jobs"] += 1
        group.results.append((item, result))

    # --- room -------------------------------------------------------------------------------------------------------

    def _look_at_space(self) -> None:
        self._space = schema.space(self._connection)
        self._since_space = 0

    def _room(self) -> bool:
        missing = 0 if self._ballast.present else self._ballast.size
        return retention.has_room(self._limits, self._space, blocked=self._blocked, missing=missing)

    def _due(self, kept: Kept, handed_over: int, now_ns: int, *, room: bool) -> bool:
        """Whether a transaction without events and jobs has anything to do."""
        return (
            handed_over != self._stored_handed_over
            or (not room and self._held != self._stored_held)
            or retention.by_size(self._limits, self._space, kept, room=room) is not None
            or retention.by_age(self._limits, kept, now_ns) is not None
            or self._loss_over(self._loss, handed_over)
        )

    def _trim(self, kept: Kept, now_ns: int, budget: int) -> _Trimmed:
        db, loss, dropped = self._connection, self._loss, 0
        while budget > 0:
            step = retention.by_size(self._limits, self._space, kept, room=self._room())
            if step is None and (step := retention.by_age(self._limits, kept, now_ns)) is not None:
                newer = db.execute(
                    "SELECT min(seq) FROM events WHERE seq BETWEEN ? AND ? AND recorded_ns >= ?",
                    (step.first, step.last, now_ns - self._limits.keep_ns),
                ).fetchone()[0]
                step = step._replace(last=step.last if newer is None else newer - 1)
            if step is None or step.last < step.first:
                break
            if step.lost_from:
                loss = self._lost(loss, step)
                dropped += step.last - step.lost_from + 1
            db.execute("DELETE FROM events WHERE seq BETWEEN ? AND ?", (step.first, step.last))
            budget -= step.last - step.first + 1
            row = db.execute("SELECT recorded_ns FROM events WHERE seq = ?", (step.last + 1,)).fetchone()
            kept = kept._replace(oldest=step.last + 1, oldest_ns=row[0] if row else 0)
            self._look_at_space()
        return _Trimmed(kept, loss, dropped)

    def _lost(self, loss: gaps.Loss | None, step: retention.Trim) -> gaps.Loss:
        first_ns, last_ns = (
            self._connection.execute("SELECT recorded_ns FROM events WHERE seq = ?", (seq,)).fetchone()[0]
            for seq in (step.lost_from, step.last)
        )
        if loss is None:
            log.error("the journal is full: the oldest events go before they were handed over", first=step.lost_from)
        self._lossy_mono = time.monotonic()
        later = gaps.Loss(step.lost_from, step.last, first_ns, last_ns)
        return loss.joined(later) if loss else later

    # --- gap records ------------------------------------------------------------------------------------------------

    def _loss_over(self, loss: gaps.Loss | None, handed_over: int) -> bool:
        """An episode ends when the consumers' side is past the hole and nothing more was dropped for a while."""
        return loss is not None and handed_over > loss.last and time.monotonic() - self._lossy_mono >= HELD_S

    def _gap_records(self, group: _Group, loss: gaps.Loss | None, handed_over: int, *, room: bool) -> gaps.Loss | None:
        """Number the records that are due; returns the loss that is still open."""
        if loss is not None and self._loss_over(loss, handed_over):
            group.number([gaps.dropped(loss, group.now_ns)])
            self.count["gap_records"] += 1
            log.info("the journal no longer drops events", first=loss.first, last=loss.last)
            loss = None
        if self._held is not None and room and time.monotonic() - self._held_mono >= HELD_S:
            group.number([gaps.held(self._held, group.now_ns)])
            self.count["gap_records"] += 1
        return loss

    def _note_hold(self, now_ns: int, cause: str) -> None:
        if self._held is None:
            self._held = gaps.Held(now_ns, cause)
            self._held_mono = time.monotonic()

    # --- trouble ----------------------------------------------------------------------------------------------------

    def _refused(self, error: sqlite3.Error | OSError, events: list[Item]) -> None:
        self.count["write_errors"] += 1
        full = schema.disk_full(error)
        if events:
            self._note_hold(self._now_ns(), gaps.DISK_FULL if full else gaps.DISK_ERROR)
        why = f"{self._directory / schema.FILE}: {error}"
        if isinstance(error, sqlite3.Error) and schema.corrupt(error):
            why += "; events are held until gatewayd is started again, which checks the whole file"
            self.suspect()
        if why != self._broken:
            log.error("the journal cannot write; events are held at the devices", cause=why)
        if full:
            self._use_ballast()
        self._failed, self._broken = True, why
        low, high = RETRY_S
        self._pause_s = min(max(self._pause_s * 2, low), high)
        self._answer([], [])

    def suspect(self) -> None:
        """Leave word for the next start that the file is damaged."""
        try:
            (self._directory / startup.SUSPECT).touch()
        except OSError as error:
            log.error("the journal's damage cannot be noted", cause=str(error))

    def _note_mark(self, newest: int) -> None:
        try:
            self._mark.commit(newest)
        except OSError as error:
            # The commit stands; the mark says less than it could until the next one.
            log.warning("the high-water mark cannot be written", cause=str(error))

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.warning("the journal cannot roll back", cause=str(error))

    def _checkpoint(self, *, idle: bool) -> None:
        """After the waiting calls have their answer, so that nobody waits for it; the WAL stays a few MiB."""
        if self._since_checkpoint < min(CHECKPOINT_BYTES, self._wal // 2) // (4 if idle else 1):
            return
        self._take_in_wal()

    def _use_ballast(self) -> bool:
        """Give up the reserve: with its room the WAL can be taken in, and trimming and commands have a WAL again."""
        if not self._ballast.release():
            return False
        self._take_in_wal()
        return True

    def _take_in_wal(self) -> None:
        self._since_checkpoint = 0
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            log.warning("the journal's WAL cannot be taken into the file now", cause=str(error))
        self.count["checkpoints"] += 1

    # --- answers ----------------------------------------------------------------------------------------------------

    def _answer(
        self,
        results: list[tuple[Item, Any]],
        failures: list[tuple[Item, Exception]],
        events: list[StoredEvent] | None = None,
    ) -> None:
        oldest = max(self._oldest, self._epoch_first)
        self._tell(Committed(results, failures, events or [], oldest, self._newest, self._blocked, self._broken))

    def _fail_all(self) -> None:
        left = [*self._events, *self._jobs]
        self._events.clear()
        self._jobs.clear()
        error = JournalError(self._broken or "the journal was closed before this could be written")
        self._answer([], [(item, error) for item in left])

    def _finish(self) -> None:
        self._cycle()
        self._fail_all()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            log.warning("the journal closes with its WAL", cause=str(error))
        self._connection.close()
        self._mark.close()
