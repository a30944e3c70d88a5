"""Looking at a journal, live or closed, without changing it: `gatewayd journal info | verify | export`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from gatewayd.store import highwater, schema
from gatewayd.store.reader import select
from gatewayd.store.types import JournalError

_AT_ONCE = 2000
_BYTES_AT_ONCE = 4 * 1024 * 1024


def info(directory: Path) -> dict[str, object]:
    """Epoch, numbers, sizes. Raises JournalError."""
    path = _file(directory)
    try:
        with closing(_connect(path)) as connection:
            meta = schema.meta(connection)
            oldest, newest = connection.execute(
                "SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)"
            ).fetchone()
            ends = [
                connection.execute("SELECT recorded_ns FROM events WHERE seq = ?", (seq,)).fetchone()
                for seq in (oldest, newest)
            ]
            points = connection.execute("SELECT count(*) FROM image").fetchone()[0]
            space = schema.space(connection)
    except sqlite3.Error as error:
        raise JournalError(f"{path} cannot be read: {error}") from error
    mark = highwater.read(path.parent)
    wal = path.with_name(path.name + "-wal")
    return {
        "file": str(path),
        "schema_version": schema.VERSION,
        "epoch": meta.get("epoch"),
        "epoch_first": meta.get("epoch_first"),
        "oldest": oldest or 0,
        "newest": newest or 0,
        "handed_over": meta.get("handed_over"),
        "oldest_recorded_ns": ends[0][0] if ends[0] else 0,
        "newest_recorded_ns": ends[1][0] if ends[1] else 0,
        "points": points,
        "used_bytes": space.used,
        "file_bytes": path.stat().st_size,
        "wal_bytes": wal.stat().st_size if wal.exists() else 0,
        "high_water": mark.committed if mark else None,
    }


def verify(directory: Path) -> list[str]:
    """Read everything; returns what is wrong, in words. Raises JournalError where it cannot be opened."""
    path = _file(directory)
    wrong: list[str] = []
    try:
        with closing(_connect(path)) as connection:
            connection.execute("BEGIN")  # one view of a live journal
            wrong += [f"{path}: {line}" for (line,) in connection.execute("PRAGMA integrity_check(20)") if line != "ok"]
            meta = schema.meta(connection)
            expected: int | None = None
            newest = 0
            for seq, sound in connection.execute(
                "SELECT seq, json_valid(CAST(payload AS TEXT)) FROM events ORDER BY seq"
            ):
                if expected is not None and seq != expected:
                    wrong.append(f"{path}: events {expected} to {seq - 1} are missing")
                if not sound:
                    wrong.append(f"{path}: event {seq} is not JSON")
                expected, newest = seq + 1, seq
            handed_over = meta.get("handed_over")
            if not isinstance(handed_over, int) or handed_over > newest:
                wrong.append(f"{path}: handed over is {handed_over!r}, the newest event is {newest}")
            mark = highwater.read(path.parent)
            if mark is None:
                wrong.append(
                    f"{path.parent / highwater.NAME} is missing or cannot be read: the next start begins a new epoch"
                )
            elif mark.epoch == meta.get("epoch") and mark.committed > newest:
                wrong.append(f"{path}: events {newest + 1} to {mark.committed} were committed and are missing")
    except sqlite3.DatabaseError as error:
        wrong.append(f"{path}: {error}")
    return wrong


def export(directory: Path, first: int, last: int) -> Iterator[bytes]:
    """Events `first`..`last` as JSON lines with their `seq`, oldest first. Raises JournalError."""
    path = _file(directory)
    try:
        with closing(_connect(path)) as connection:
            while first <= last:
                events = select(connection, first, last, _AT_ONCE, _BYTES_AT_ONCE)
                if not events:
                    return
                for event in events:
                    yield b'{"seq":%d,' % event.seq + event.payload[1:]
                first = events[-1].seq + 1
    except sqlite3.Error as error:
        raise JournalError(f"{path} cannot be read from event {first} on: {error}") from error


def _file(place: Path) -> Path:
    """A directory with a journal, or a journal's file itself (one that was moved aside)."""
    path = place if place.is_file() else place / schema.FILE
    if not path.is_file():
        raise JournalError(f"{path} does not exist: there is no journal")
    return path


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = schema.connect_readonly(path)
    except sqlite3.Error as error:
        raise JournalError(f"{path} cannot be opened: {error}") from error
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != schema.VERSION:
        connection.close()
        raise JournalError(f"{path} has schema version {version}; this gatewayd reads version {schema.VERSION}")
    return connection
