"""The audit trail on disk: append-only records, each hashed together with the hash before it.

hash = SHA-256(hash of the record before ‖ record), 32 zero octets before the first. A record that is changed, removed
or put elsewhere breaks the chain; one cut off at the end shows against the head, which stands in `meta` and is
published off the box. The oldest records go in steps when there are too many: the hash they end with stays as the
chain's floor, and a record says so.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from gatewayd.store import schema
from gatewayd.store.types import JournalError

ZERO = bytes(32)
LEAST_KEPT = 2048
"""IEEE 1686 asks for as many at least."""
STEP = 1000
"""Records that go at once when there are too many."""
_HEAD, _FLOOR = "audit_head", "audit_floor"


class Head(NamedTuple):
    """Where the chain ends (or begins): the number of a record and its hash."""

    n: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.n}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """`1234:9f…`. Raises ValueError."""
        number, _, digest = text.partition(":")
        found = bytes.fromhex(digest)
        if not number.isdecimal() or len(found) != len(ZERO):
            raise ValueError(f"found {text!r}; a number, a colon and 64 hexadecimal digits are allowed")
        return cls(int(number), found)


START = Head(0, ZERO)


class Entry(NamedTuple):
    """One record as stored: `record` is a JSON object that begins with its number `n`."""

    n: int
    record: bytes
    hash: bytes


class Verdict(NamedTuple):
    """What a verification found: what is wrong in words, the records that are kept, and where the chain ends."""

    wrong: list[str]
    first: int
    head: Head


def link(before: bytes, record: bytes) -> bytes:
    """The hash of a record."""
    return hashlib.sha256(before + record).digest()


def append(db: sqlite3.Connection, bodies: Sequence[bytes], keep: int) -> Head:
    """Append records (JSON objects without `n`) inside a job of the journal; at most about `keep` stay."""
    head = _meta(db, _HEAD)
    entries = []
    for body in bodies:
        record = b'{"n":%d,' % (head.n + 1) + body[1:]
        head = Head(head.n + 1, link(head.hash, record))
        entries.append((head.n, record, head.hash))
    db.executemany("INSERT INTO audit_trail VALUES(?,?,?)", entries)
    _put(db, _HEAD, head)
    floor = _meta(db, _FLOOR)
    if head.n - floor.n > max(keep, LEAST_KEPT) + STEP:
        last = floor.n + STEP
        cut = Head(last, db.execute("SELECT hash FROM audit_trail WHERE n = ?", (last,)).fetchone()[0])
        db.execute("DELETE FROM audit_trail WHERE n <= ?", (last,))
        _put(db, _FLOOR, cut)
        gone = {"what": "audit-trimmed", "from": floor.n + 1, "to": last, "hash": cut.hash.hex()}
        return append(db, [msgspec.json.encode(gone)], keep)
    return head


def head(db: sqlite3.Connection) -> Head:
    """Where the chain ends; (0, zeros) before the first record."""
    return _meta(db, _HEAD)


def last_word(db: sqlite3.Connection) -> str:
    """The `what` of the last record, "" where there is none."""
    row = db.execute("SELECT record FROM audit_trail ORDER BY n DESC LIMIT 1").fetchone()
    return str(json.loads(row[0]).get("what", "")) if row else ""


def _meta(db: sqlite3.Connection, key: str) -> Head:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return msgspec.msgpack.decode(row[0], type=Head) if row else START


def _put(db: sqlite3.Connection, key: str, at: Head) -> None:
    db.execute(schema.PUT_META, (key, msgspec.msgpack.encode(at)))


# --- looking at it, live or closed ----------------------------------------------------------------------------------


def entries(place: Path, first: int = 1, last: int = 1 << 62) -> Iterator[Entry]:
    """Records `first`..`last`, oldest first. Raises JournalError."""
    path = _file(place)
    try:
        with closing(schema.connect_readonly(path)) as db:
            db.execute("BEGIN")
            rows = db.execute(
                "SELECT n, record, hash FROM audit_trail WHERE n BETWEEN ? AND ? ORDER BY n", (first, last)
            )
            yield from (Entry(*row) for row in rows)
    except sqlite3.Error as error:
        raise JournalError(f"{path}: the audit trail cannot be read: {error}") from error


def newest(place: Path) -> int:
    """The number of the last record, 0 where there is none. Raises JournalError."""
    path = _file(place)
    try:
        with closing(schema.connect_readonly(path)) as db:
            return int(db.execute("SELECT coalesce(max(n), 0) FROM audit_trail").fetchone()[0])
    except sqlite3.Error as error:
        raise JournalError(f"{path}: the audit trail cannot be read: {error}") from error


def verify(place: Path, seen: Sequence[Head] = ()) -> Verdict:
    """Walk the whole chain. seen: heads that were published, which must be in it. Raises JournalError."""
    path = _file(place)
    try:
        with closing(schema.connect_readonly(path)) as db:
            db.execute("BEGIN")  # one view of a live trail
            return _walk(db, str(path), {one.n: one.hash for one in seen})
    except (sqlite3.Error, msgspec.DecodeError) as error:
        raise JournalError(f"{path}: the audit trail cannot be read: {error}") from error


def _walk(db: sqlite3.Connection, path: str, seen: dict[int, bytes]) -> Verdict:
    wrong: list[str] = []
    floor, claimed = _meta(db, _FLOOR), _meta(db, _HEAD)
    at = floor
    for n, record, digest in db.execute("SELECT n, record, hash FROM audit_trail ORDER BY n"):
        if n != at.n + 1:
            wrong.append(f"{path}: audit records {at.n + 1} to {n - 1} are missing")
        elif link(at.hash, record) != digest:
            wrong.append(f"{path}: audit record {n} was changed, or what stood before it")
        if not record.startswith(b'{"n":%d,' % n):
            wrong.append(f"{path}: audit record {n} does not carry its own number: it was put here from elsewhere")
        at = Head(n, digest)
        if seen.get(n, digest) != digest:
            wrong.append(f"{path}: audit record {n} is not the one whose hash was published ({seen[n].hex()[:16]}…)")
    if at != claimed:
        wrong.append(f"{path}: the audit trail ends with record {at.n}; it should end with {claimed}")
    wrong += [
        f"{path}: the audit trail ends with record {at.n}, but record {n} was published: the end is missing"
        for n in seen
        if n > at.n
    ]
    wrong += [
        f"{path}: audit record {n} was trimmed, its published hash cannot be checked" for n in seen if n < floor.n
    ]
    if floor.n in seen and floor != START and seen[floor.n] != floor.hash:
        wrong.append(f"{path}: the records before {floor.n + 1} are not those whose hash was published")
    return Verdict(wrong, floor.n + 1, at)


def _file(place: Path) -> Path:
    path = place if place.is_file() else place / schema.FILE
    if not path.is_file():
        raise JournalError(f"{path} does not exist: there is no journal, and so no audit trail")
    return path
