"""The journal's file: tables, settings of SQLite, and the few statements that are used."""

from __future__ import annotations

import errno
import sqlite3
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

FILE = "journal.db"
VERSION = 2
APPLICATION_ID = 0x67774A31  # "gwJ1"
MAX_ROWS = 512
"""Rows of one INSERT: each statement gives the GIL away, and a busy loop thread returns it only after 5 ms."""
_SIZES = (1, 8, 32, 128, MAX_ROWS)
WAL_LIMIT = 16 * 1024 * 1024
PAGE = 4096

CONTROL_TABLES = """
CREATE TABLE IF NOT EXISTS requests(operator TEXT NOT NULL, tx TEXT NOT NULL, stage TEXT NOT NULL, point TEXT NOT NULL,
                    received_ns INTEGER NOT NULL, open INTEGER NOT NULL, told INTEGER NOT NULL, body BLOB NOT NULL,
                    outcome BLOB, PRIMARY KEY(operator, tx)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS requests_open ON requests(open) WHERE open > 0;
CREATE INDEX IF NOT EXISTS requests_untold ON requests(told) WHERE told = 0;
CREATE INDEX IF NOT EXISTS requests_age ON requests(received_ns);
CREATE TABLE IF NOT EXISTS tags(id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tag_keys(key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit_trail(n INTEGER PRIMARY KEY, record BLOB NOT NULL, hash BLOB NOT NULL);
"""
"""Requests of operators, tags and the audit trail; see `store.commands` and `store.audit`."""

_TABLES = f"""
CREATE TABLE events(seq INTEGER PRIMARY KEY, recorded_ns INTEGER NOT NULL, time_ns INTEGER NOT NULL,
                    type TEXT NOT NULL, device TEXT NOT NULL, payload BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE image(point TEXT PRIMARY KEY, value BLOB NOT NULL, quality INTEGER NOT NULL, native INTEGER NOT NULL,
                   time_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE cursors(device TEXT NOT NULL, source TEXT NOT NULL, data BLOB NOT NULL,
                     PRIMARY KEY(device, source)) WITHOUT ROWID;
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
{CONTROL_TABLES}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""

EVENT_COLUMNS, IMAGE_COLUMNS, CURSOR_COLUMNS = 7, 5, 3
PUT_META = "INSERT OR REPLACE INTO meta VALUES(?,?)"
SPACE = "SELECT page_count, freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
READ = "SELECT seq, recorded_ns, payload, crc FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"


@lru_cache(16)
def _insert(verb: str, columns: int, rows: int) -> str:
    # One fixed statement for up to `rows` rows: what is missing is filled with NULL and left out by WHERE.
    values = ",".join(["(" + ",".join("?" * columns) + ")"] * rows)
    return f"{verb} SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"


def put_many(connection: sqlite3.Connection, verb: str, columns: int, flat: list[object]) -> None:
    """Write rows (their values one after the other in `flat`) in as few statements as possible."""
    total = len(flat) // columns
    for start in range(0, total, MAX_ROWS):
        part = flat[start * columns : (start + MAX_ROWS) * columns]
        rows = next(size for size in _SIZES if size * columns >= len(part))
        part += [None] * (rows * columns - len(part))
        connection.execute(_insert(verb, columns, rows), part)


def checksum(payload: bytes) -> int:
    """CRC-32 of an event's payload: SQLite itself does not see a flipped bit in a value."""
    return crc32(payload)


def intact(payload: object, crc: object) -> bool:
    """Whether a payload is still what was written."""
    return isinstance(payload, bytes) and crc32(payload) == crc


class Space(NamedTuple):
    """Octets of the file: in use, and free inside it (reused before the file grows)."""

    used: int
    free: int


def space(connection: sqlite3.Connection) -> Space:
    """How full the file is, as the running transaction sees it."""
    pages, free, size = connection.execute(SPACE).fetchone()
    return Space((pages - free) * size, free * size)


def code(error: sqlite3.Error) -> int:
    """SQLite's primary result code of an error, 0 where the error did not come from SQLite itself."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def corrupt(error: sqlite3.Error) -> bool:
    """Whether the error says that the file itself is damaged."""
    return code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def disk_full(error: BaseException) -> bool:
    """Whether the error says that the disk has no room."""
    if isinstance(error, sqlite3.Error):
        return code(error) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def connect(path: Path) -> sqlite3.Connection:
    """The writer's connection: WAL, every commit fsynced. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        for setting in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "secure_delete=OFF",  # Debian builds it in: trimming would write every deleted octet
            f"wal_autocheckpoint={WAL_LIMIT // PAGE}",
            f"journal_size_limit={WAL_LIMIT}",
            "cache_size=-16000",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file."""
    connection.executescript("BEGIN IMMEDIATE;" + _TABLES + "COMMIT;")


def connect_readonly(path: Path) -> sqlite3.Connection:
    """A connection that cannot change anything, for a live or a closed journal. Raises sqlite3.Error."""
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=2.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if code(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise
        # A closed journal in a directory we may not write: SQLite cannot make its -shm, and needs none. Where a WAL is
        # left (a crash), the newest events are in it: without it we would see, and show, less than there is.
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            raise sqlite3.OperationalError(
                f"the newest events are in {wal.name}, which can be read only in a folder that can be written; "
                f"copy {path.name} and {wal.name} together to such a folder and look at the copy"
            ) from error
        connection = sqlite3.connect(f"{uri}?immutable=1", uri=True, isolation_level=None, check_same_thread=False)
    return connection


def meta(connection: sqlite3.Connection) -> dict[str, object]:
    """All of `meta`."""
    return dict(connection.execute("SELECT key, value FROM meta"))
