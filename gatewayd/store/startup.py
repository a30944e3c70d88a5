"""Opening the journal: lock, a bounded integrity check, recovery of a torn tail, and whether a new epoch must begin.

Nothing here reads the whole file, so that ten million events open in well under a second. A file that cannot be read
is moved aside under a name with the time, never deleted; what happened stands in a gap record and in the log.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import sqlite3
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import structlog

from gatewayd.points.types import Cursor
from gatewayd.store import ballast, gaps, highwater, schema
from gatewayd.store.types import ImageRow, JournalError, NewEvent

log = structlog.get_logger("journal")

T = TypeVar("T")
LOCK = "journal.lock"
MOST_ASIDE = 5
"""Unreadable journals that are kept for people to look at."""
SUSPECT = "journal.suspect"
"""Left behind when SQLite said at run time that the file is damaged: the next start reads all of it."""
_TABLES = {"events", "image", "cursors", "meta"}
_CHECK_NEWEST, _CHECK_OLDEST = 256, 64
MAGIC = b"SQLite format 3\0"
"""The first octets of every SQLite file."""


class Unreadable(Exception):
    """The file is damaged; the text says how."""


class Opened(NamedTuple):
    """An open journal as it was found (and mended).

    oldest, oldest_ns: of the oldest event in the file, which may belong to an earlier epoch; epoch_first: the first
    number of this epoch
    """

    connection: sqlite3.Connection
    lock: int
    mark: highwater.HighWater
    epoch: str
    epoch_first: int
    oldest: int
    newest: int
    oldest_ns: int
    handed_over: int
    image: dict[str, ImageRow]
    cursors: dict[str, dict[str, Cursor]]
    loss: gaps.Loss | None
    held: gaps.Held | None


def open_store(directory: Path, now_ns: Callable[[], int]) -> Opened:
    """Open or create the journal in `directory`. Raises JournalError."""
    lock = _lock(directory)
    try:
        try:
            return _open(directory, lock, now_ns)
        except (sqlite3.Error, OSError) as error:
            reserve = directory / ballast.NAME
            if not reserve.exists() or not _crowded(directory):
                raise
            log.warning(
                "the disk is full: the journal opens with its reserve", directory=str(directory), cause=str(error)
            )
            reserve.unlink()
            return _open(directory, lock, now_ns)
    except sqlite3.Error as error:
        os.close(lock)
        raise JournalError(
            f"{directory / schema.FILE} cannot be opened: {error}; look at the disk and the rights"
        ) from error
    except OSError as error:
        os.close(lock)
        raise JournalError(
            f"{directory}: {error.strerror or error}; the journal must be able to write there"
        ) from error
    except BaseException:
        os.close(lock)
        raise


def _crowded(directory: Path) -> bool:
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize < 1024 * 1024


def _lock(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        _check_owner(directory)
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise JournalError(f"{directory}: {error.strerror}; the journal must be able to write there") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        message = f"{directory}: the journal is in use by another gatewayd; one process at a time is allowed"
        raise JournalError(message) from error
    return lock


def _check_owner(directory: Path) -> None:
    """Refuse what belongs to somebody else and cannot be written. Raises JournalError.

    A backup that was restored by root is like that. SQLite would open it for reading, and we would run without a
    journal that takes anything.
    """
    names = ("", LOCK, schema.FILE, f"{schema.FILE}-wal", f"{schema.FILE}-shm", ballast.NAME, highwater.NAME)
    for path in (directory / name for name in names):
        if (
            os.access(path, os.F_OK)
            and not os.access(path, os.R_OK | os.W_OK)
            and (owner := path.stat()).st_uid != os.geteuid()
        ):
            us, them = _user(os.geteuid()), _user(owner.st_uid)
            raise JournalError(
                f"{path} belongs to {them}, mode {owner.st_mode & 0o7777:04o}, and {us} cannot write it; "
                f"the journal must belong to whom the gateway runs as: chown -R {us}: {directory}"
            )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _open(directory: Path, lock: int, now_ns: Callable[[], int]) -> Opened:
    path = directory / schema.FILE
    mark = highwater.read(directory)
    had_mark = (directory / highwater.NAME).exists()
    broken: gaps.Break | None = None
    connection: sqlite3.Connection | None = None
    if path.exists():
        try:
            connection = _connect_checked(directory, path)
        except Unreadable as error:
            aside = move_aside(directory, now_ns())
            log.error(
                "the journal cannot be read; it was moved aside and a new epoch begins",
                file=str(path),
                found=str(error),
                kept_as=str(aside),
            )
            broken = gaps.Break(gaps.UNREADABLE, mark.epoch if mark else "", 0, None)
    elif mark is not None and mark.committed:
        log.error("the journal is gone; a new epoch begins", file=str(path), committed=mark.committed)
        broken = gaps.Break(gaps.MISSING, mark.epoch, 0, None)
    if connection is None:
        connection = _create(path)
    try:
        return _finish(directory, lock, connection, mark, broken, had_mark=had_mark, now_ns=now_ns)
    except BaseException:
        connection.close()
        raise


def _create(path: Path) -> sqlite3.Connection:
    connection = schema.connect(path)
    try:
        schema.create(connection)
        connection.executemany(schema.PUT_META, _first_meta())
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        path.chmod(0o640)
        highwater.fsync_directory(path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def _first_meta() -> list[tuple[str, object]]:
    return [("epoch", str(uuid.uuid4())), ("epoch_first", 1), ("handed_over", 0), ("previous_epoch", "")]


def _connect_checked(directory: Path, path: Path) -> sqlite3.Connection:
    header = _header(path)
    if header and header[:16] != MAGIC:
        raise Unreadable(f"it begins with {header[:16]!r}, not as an SQLite file does")
    if len(header) >= 72:
        _right_version(path, int.from_bytes(header[60:64], "big"), int.from_bytes(header[68:72], "big"))
    try:
        connection = schema.connect(path)
    except sqlite3.Error as error:
        if schema.corrupt(error):
            raise Unreadable(str(error)) from error
        raise
    try:
        _check(connection, directory, path)
    except sqlite3.Error as error:
        connection.close()
        if schema.corrupt(error):
            raise Unreadable(str(error)) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _right_version(path: Path, version: int, application: int) -> None:
    if version == 0 and application == 0:
        return
    if application != schema.APPLICATION_ID:
        raise JournalError(f"{path} is an SQLite file of another program; move it away or choose another state_dir")
    if version != schema.VERSION:
        raise JournalError(
            f"{path} has schema version {version}; this gatewayd reads and writes version {schema.VERSION}: "
            "start the gatewayd that wrote it, or move the file away to begin a new journal"
        )


def _check(connection: sqlite3.Connection, directory: Path, path: Path) -> None:
    """The bounded check. Raises Unreadable, JournalError (another version) or sqlite3.Error."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    version, application = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")
    )
    if not tables and version == 0:  # a start that was cut off before the tables were made
        schema.create(connection)
        connection.executemany(schema.PUT_META, _first_meta())
        return
    _right_version(path, version, application)
    if not tables >= _TABLES:
        raise Unreadable(f"the tables {', '.join(sorted(_TABLES - tables))} are missing")
    busy, left, moved = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if not busy and left == moved and path.stat().st_size < pages * size:
        raise Unreadable(f"it is {path.stat().st_size} octets long and should be {pages * size}")
    flag = directory / SUSPECT
    if flag.exists():
        for (line,) in connection.execute("PRAGMA quick_check(1)"):
            if line != "ok":
                raise Unreadable(line)
        flag.unlink()
    _check_rows(connection, f"ORDER BY seq DESC LIMIT {_CHECK_NEWEST}", -1)
    _check_rows(connection, f"ORDER BY seq LIMIT {_CHECK_OLDEST}", 1)
    meta = schema.meta(connection)
    if not isinstance(meta.get("epoch"), str) or not isinstance(meta.get("handed_over"), int):
        raise Unreadable("its epoch or its handed-over number is missing")


def _check_rows(connection: sqlite3.Connection, which: str, step: int) -> None:
    expected: int | None = None
    for (seq,) in connection.execute(f"SELECT seq FROM events {which}"):
        if expected is not None and seq != expected:
            raise Unreadable(f"event {expected} is missing beside {seq}")
        expected = seq + step


def move_aside(directory: Path, now_ns: int) -> Path:
    """Rename the file (and its WAL) to `journal-unreadable-<time>.db`; returns the new path."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ns // 1_000_000_000))
    aside = directory / f"journal-unreadable-{stamp}.db"
    number = 1
    while aside.exists():
        number += 1
        aside = directory / f"journal-unreadable-{stamp}-{number}.db"
    for end in ("-wal", "-shm", ""):
        part = directory / (schema.FILE + end)
        if part.exists():
            part.replace(aside.with_name(aside.name + end))
    _keep_few(directory)
    (directory / SUSPECT).unlink(missing_ok=True)
    highwater.fsync_directory(directory)
    return aside


def _keep_few(directory: Path) -> None:
    """A disk that goes bad again and again must not be filled by what it spoilt."""
    found = sorted(directory.glob("journal-unreadable-*.db"), key=lambda path: path.stat().st_mtime)
    for path in found[:-MOST_ASIDE]:
        log.warning("an old unreadable journal is deleted; the newest are kept", file=path.name, kept=MOST_ASIDE)
        for end in ("-wal", "-shm", ""):
            path.with_name(path.name + end).unlink(missing_ok=True)


def judge(mark: highwater.Mark | None, *, had_mark: bool, epoch: str, previous: str, newest: int) -> gaps.Break | None:
    """Whether the journal is behind what was handed out. Pure.

    previous: the epoch before this one: a mark that still names it was left by a crash while the new epoch began.
    """
    if mark is None:
        # Either the file was never written (nothing was ever handed out), or it was lost or left out of a backup.
        return gaps.Break(gaps.RESTORED, epoch, newest, None) if newest or had_mark else None
    if mark.epoch == epoch:
        if mark.committed > newest:
            return gaps.Break(gaps.TORN, epoch, newest, mark.committed - newest)
        return None
    if mark.epoch == previous:
        return None
    return gaps.Break(gaps.RESTORED, epoch, newest, None) if newest or mark.committed else None


def _finish(
    directory: Path,
    lock: int,
    connection: sqlite3.Connection,
    mark: highwater.Mark | None,
    broken: gaps.Break | None,
    *,
    had_mark: bool,
    now_ns: Callable[[], int],
) -> Opened:
    meta = schema.meta(connection)
    epoch, previous = str(meta["epoch"]), str(meta.get("previous_epoch") or "")
    newest = number(connection.execute("SELECT max(seq) FROM events").fetchone()[0])
    if broken is None and (broken := judge(mark, had_mark=had_mark, epoch=epoch, previous=previous, newest=newest)):
        log.error(
            "the journal is behind the numbers that were handed out; a new epoch begins",
            directory=str(directory),
            newest=newest,
            cause=broken.cause,
            lost=broken.lost,
        )
    if broken is not None:
        newest += 1
        epoch = str(uuid.uuid4())
        _begin_epoch(connection, epoch, newest, number(meta.get("handed_over")), broken, now_ns())
        meta = schema.meta(connection)
    oldest = number(connection.execute("SELECT min(seq) FROM events").fetchone()[0])
    row = connection.execute("SELECT recorded_ns FROM events ORDER BY seq LIMIT 1").fetchone()
    return Opened(
        connection=connection,
        lock=lock,
        mark=highwater.HighWater(directory, epoch, newest),
        epoch=epoch,
        epoch_first=number(meta.get("epoch_first")),
        oldest=oldest or newest + 1,
        newest=newest,
        oldest_ns=row[0] if row else 0,
        handed_over=min(number(meta.get("handed_over")), newest),
        image=_image(connection),
        cursors=_cursors(connection),
        loss=_stored(meta.get("loss"), gaps.Loss),
        held=_stored(meta.get("held"), gaps.Held),
    )


def number(value: object) -> int:
    """A number as it stands in `meta`; 0 where there is none."""
    return value if isinstance(value, int) else 0


def _stored(value: object, kind: type[T]) -> T | None:
    return msgspec.msgpack.decode(value, type=kind) if isinstance(value, bytes) else None


def _begin_epoch(
    connection: sqlite3.Connection, epoch: str, seq: int, handed_over: int, broken: gaps.Break, now_ns: int
) -> None:
    event: NewEvent = gaps.new_epoch(broken, now_ns)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        "INSERT INTO events VALUES(?,?,?,?,?,?,?)",
        (seq, now_ns, now_ns, event.type, event.device, event.payload, schema.checksum(event.payload)),
    )
    meta = (("epoch", epoch), ("previous_epoch", broken.previous), ("epoch_first", min(handed_over, seq - 1) + 1))
    connection.executemany(schema.PUT_META, meta)
    connection.execute("COMMIT")


def _image(connection: sqlite3.Connection) -> dict[str, ImageRow]:
    decode = msgspec.msgpack.decode
    image = {}
    for point, value, quality, native, time_ns in connection.execute("SELECT * FROM image"):
        try:
            image[point] = ImageRow(point, decode(value), quality, native, time_ns)
        except msgspec.DecodeError as error:
            # Without a last value the point's next reading counts as a change: one event too many, none too few.
            log.error("a stored value cannot be read and is left out", point=point, cause=str(error))
    return image


def _cursors(connection: sqlite3.Connection) -> dict[str, dict[str, Cursor]]:
    found: dict[str, dict[str, Cursor]] = {}
    for device, source, data in connection.execute("SELECT device, source, data FROM cursors"):
        found.setdefault(device, {})[source] = Cursor(source, bytes(data))
    return found
