"""Looking at a journal, live or closed, without changing it: `gatewayd journal info | export | verify`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from gatewayd.store import consumers, highwater, schema, startup
from gatewayd.store.reader import bounded, stored
from gatewayd.store.types import JournalError, StoredEvent

_AT_ONCE = 2000
_BYTES_AT_ONCE = 4 * 1024 * 1024
_LAST = 1 << 62
"""Above every number and time."""
_SELECT = (
    "SELECT seq, recorded_ns, payload, crc FROM events WHERE seq BETWEEN ? AND ? AND recorded_ns BETWEEN ? AND ? "
    "ORDER BY seq LIMIT ?"
)


class Damaged(JournalError):
    """The file can be opened by nobody, or not be read to its end: it is not only the wrong one or out of reach."""


class Range(NamedTuple):
    """Which events: by number, and by when they were recorded (UTC ns), both ends included; None is no limit."""

    first: int | None = None
    last: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None

    @property
    def by_time(self) -> bool:
        """Whether some numbers between the first and last may be meant to be left out."""
        return self.since_ns is not None or self.until_ns is not None

    @property
    def empty(self) -> bool:
        """Whether it ends before it begins."""
        return (self.first or 0) > _or_last(self.last) or (self.since_ns or 0) > _or_last(self.until_ns)


def _or_last(number: int | None) -> int:
    return _LAST if number is None else number


class Info(msgspec.Struct, frozen=True):
    """Where a journal stands.

    in_use: whether a gatewayd has it open, None where the system does not say; epoch_first: first number of the epoch
    oldest, newest: numbers in the file, 0 where there is none; times in UTC ns, 0 where there is none
    high_water: the highest number ever committed and its epoch, None where that file is missing or unreadable
    """

    file: str
    in_use: bool | None
    schema_version: int
    epoch: str
    epoch_first: int
    oldest: int
    newest: int
    handed_over: int
    oldest_recorded_ns: int
    newest_recorded_ns: int
    points: int
    consumers: dict[str, consumers.Place]
    used_bytes: int
    file_bytes: int
    wal_bytes: int
    high_water: highwater.Mark | None


def info(place: Path) -> Info:
    """Epoch, numbers, sizes, consumers. Raises JournalError, Damaged among them."""
    path = _file(place)
    try:
        with closing(_connect(path)) as connection:
            meta = schema.meta(connection)
            ends = [
                connection.execute(f"SELECT seq, recorded_ns FROM events ORDER BY seq {way} LIMIT 1").fetchone()
                for way in ("ASC", "DESC")
            ]
            points = connection.execute("SELECT count(*) FROM image").fetchone()[0]
            used = schema.space(connection).used
    except sqlite3.Error as error:
        raise _trouble(path, "cannot be read", error) from error
    (oldest, oldest_ns), (newest, newest_ns) = (end or (0, 0) for end in ends)
    wal = path.with_name(path.name + "-wal")
    return Info(
        file=str(path),
        in_use=in_use(path),
        schema_version=schema.VERSION,
        epoch=str(meta.get("epoch") or ""),
        epoch_first=startup.number(meta.get("epoch_first")),
        oldest=oldest,
        newest=newest,
        handed_over=startup.number(meta.get("handed_over")),
        oldest_recorded_ns=oldest_ns,
        newest_recorded_ns=newest_ns,
        points=points,
        consumers=consumers.stored(meta.get(consumers.KEY)),
        used_bytes=used,
        file_bytes=path.stat().st_size,
        wal_bytes=wal.stat().st_size if wal.exists() else 0,
        high_water=highwater.read(path.parent),
    )


def in_use(path: Path) -> bool | None:
    """Whether a gatewayd has the journal open; None where the system does not say. Takes no lock itself."""
    try:
        lock = (path.parent / startup.LOCK).stat()
        device = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
        return any(device in line.split() for line in Path("/proc/locks").read_text("ascii").splitlines())
    except FileNotFoundError:
        return False if path.parent.is_dir() and Path("/proc/locks").exists() else None
    except OSError:
        return None


def verify(place: Path) -> list[str]:
    """Read everything; returns what is wrong, in words. Raises JournalError where it cannot be looked at."""
    wrong: list[str] = []
    try:
        path = _file(place)
        mark = highwater.read(path.parent)  # before the view: a journal that is being written only gets ahead of it
        with closing(_connect(path)) as connection:
            connection.execute("BEGIN")  # one view of a live journal
            wrong += [f"{path}: {line}" for (line,) in connection.execute("PRAGMA integrity_check(20)") if line != "ok"]
            meta = schema.meta(connection)
            newest = _walk(connection, path, wrong)
    except Damaged as error:
        return [str(error)]
    except sqlite3.Error as error:
        found = _trouble(path, "cannot be read to its end", error)
        if not isinstance(found, Damaged):
            raise found from error
        return [*wrong, str(found)]
    handed_over = meta.get("handed_over")
    if not isinstance(handed_over, int) or handed_over > newest:
        wrong.append(f"{path}: handed over is {handed_over!r}, the newest event is {newest}")
    if path.name == schema.FILE:  # the mark beside a file that was moved aside is not its own
        wrong += _against(mark, path, meta.get("epoch"), newest)
    return wrong


def _walk(connection: sqlite3.Connection, path: Path, wrong: list[str]) -> int:
    """Look at every event; returns the newest number."""
    expected: int | None = None
    newest = 0
    for seq, payload, crc in connection.execute("SELECT seq, payload, crc FROM events ORDER BY seq"):
        if expected is not None and seq != expected:
            wrong.append(f"{path}: events {expected} to {seq - 1} are missing")
        if not schema.intact(payload, crc):
            wrong.append(f"{path}: event {seq} is not what was written: its checksum is another")
        expected, newest = seq + 1, seq
    return newest


def _against(mark: highwater.Mark | None, path: Path, epoch: object, newest: int) -> list[str]:
    if mark is None:
        return [f"{path.parent / highwater.NAME} is missing or cannot be read: the next start begins a new epoch"]
    if mark.epoch == epoch and mark.committed > newest:
        return [f"{path}: events {newest + 1} to {mark.committed} were committed and are missing"]
    return []


def events(place: Path, wanted: Range) -> Iterator[StoredEvent]:
    """The wanted events, oldest first; a damaged record is a gap record, as for consumers.

    Raises JournalError, also in the middle: what came before it is sound.
    """
    path = _file(place)
    first, last = wanted.first or 0, min(_or_last(wanted.last), _LAST)
    recorded = wanted.since_ns or 0, _or_last(wanted.until_ns)
    at_once = _AT_ONCE
    with closing(_connect(path)) as connection:
        while first <= last:
            try:
                with closing(connection.execute(_SELECT, (first, last, *recorded, at_once))) as rows:
                    found = bounded((stored(*row) for row in rows), _BYTES_AT_ONCE)
            except sqlite3.Error as error:
                if at_once == 1:
                    raise _trouble(path, f"cannot be read from event {first} on", error) from error
                at_once = 1  # up to the very last that can be read
                continue
            if not found:
                return
            yield from found
            first = found[-1].seq + 1


def line(event: StoredEvent) -> bytes:
    """An event as a JSON object with its `seq`, as consumers get it."""
    return b'{"seq":%d,' % event.seq + event.payload[1:]


def _file(place: Path) -> Path:
    """A directory with a journal, or a journal's file itself (one that was moved aside)."""
    try:
        path = place / schema.FILE if place.is_dir() else place
        if not path.is_file():
            raise JournalError(f"{path} does not exist: there is no journal")
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise JournalError(
            f"{place} cannot be read: {error.strerror or error}; be the user gatewayd runs as, or one of its group"
        ) from error
    if not head:
        raise Damaged(f"{path} is empty: it was never written, or was cut off")
    if head != startup.MAGIC:
        raise Damaged(f"{path} is no journal: it begins with {head!r}, not as an SQLite file does")
    return path


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = schema.connect_readonly(path)
    except sqlite3.Error as error:
        raise _trouble(path, "cannot be opened", error) from error
    try:
        _check_version(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(path: Path, connection: sqlite3.Connection) -> None:
    version, application = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")
    )
    if application != schema.APPLICATION_ID:
        raise JournalError(f"{path} is an SQLite file of another program")
    if version != schema.VERSION:
        raise JournalError(
            f"{path} has schema version {version}; this gatewayd reads version {schema.VERSION}: "
            "use the gatewayd that wrote it"
        )


def _trouble(path: Path, what: str, error: sqlite3.Error) -> JournalError:
    if schema.corrupt(error):
        return Damaged(f"{path} {what}: {error}; the file is damaged")
    return JournalError(f"{path} {what}: {error}")
