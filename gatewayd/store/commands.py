"""Requests of operators on disk: transaction ids seen, selects, INTENT, outcomes; and the tags.

Every function runs inside a job of `Journal.submit`, in the writer's thread and within its transaction, so that a
step of a command, its audit records and its numbered event are on disk together or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gatewayd.store import schema

ENDED, SELECTED, INTENDED = 0, 1, 2
"""How far a request is: it has its outcome; a select is (being) made; the write may have gone out."""
FORGET_AT_ONCE = 500
"""Rows forgotten in one transaction, so that no command waits for the housekeeping."""


class RequestRow(NamedTuple):
    """One request. (operator, tx) is its key: two operators may have the same idea of a transaction id.

    received_ns: UTC; open: ENDED, SELECTED or INTENDED; body: what was asked, outcome: the answer it ended with,
    both as `control.ledger` encodes them
    """

    operator: str
    tx: str
    stage: str
    point: str
    received_ns: int
    open: int
    body: bytes
    outcome: bytes | None = None


_COLUMNS = "operator, tx, stage, point, received_ns, open, body, outcome"
_INSERT = f"INSERT INTO requests({_COLUMNS}, told) VALUES(?,?,?,?,?,?,?,?,?)"
_END = (
    f"{_INSERT} ON CONFLICT(operator, tx) DO UPDATE SET open = 0, told = excluded.told, outcome = excluded.outcome "
    "WHERE requests.outcome IS NULL"
)


def create_tables(db: sqlite3.Connection) -> None:
    """Make what is missing. One statement after the other: a job must not end its transaction."""
    for statement in schema.CONTROL_TABLES.split(";"):
        if statement.strip():
            db.execute(statement)


def begin(db: sqlite3.Connection, row: RequestRow) -> None:
    """A request that is not ended with this step. Raises sqlite3.IntegrityError where its tx was used before."""
    db.execute(_INSERT, (*row, 1))


def intend(db: sqlite3.Connection, row: RequestRow, select_tx: str) -> None:
    """INTENT: from here on nobody knows whether the field has moved. select_tx: "" for a direct command."""
    begin(db, row)
    if select_tx:
        db.execute("UPDATE requests SET open = ? WHERE operator = ? AND tx = ?", (INTENDED, row.operator, select_tx))


def end(db: sqlite3.Connection, rows: Iterable[RequestRow], *, silently: bool = False) -> None:
    """Outcomes. One that is there already is never rewritten. silently: they have no answer of their own."""
    db.executemany(_END, [(*row._replace(open=ENDED), int(silently)) for row in rows])


def told(db: sqlite3.Connection, keys: Iterable[tuple[str, str]]) -> None:
    """The outcomes of these requests were handed to the publisher."""
    db.executemany("UPDATE requests SET told = 1 WHERE operator = ? AND tx = ?", list(keys))


def open_requests(db: sqlite3.Connection) -> list[RequestRow]:
    """Requests without an outcome, in the order in which they came."""
    return _rows(db, "open > 0 ORDER BY received_ns")


def untold(db: sqlite3.Connection) -> list[RequestRow]:
    """Requests whose outcome was perhaps never handed to the publisher."""
    return _rows(db, "told = 0 ORDER BY received_ns")


def find(db: sqlite3.Connection, operator: str, tx: str) -> RequestRow | None:
    """One request by its key."""
    found = _rows(db, "operator = ? AND tx = ?", operator, tx)
    return found[0] if found else None


def _rows(db: sqlite3.Connection, where: str, *values: object) -> list[RequestRow]:
    return [RequestRow(*row) for row in db.execute(f"SELECT {_COLUMNS} FROM requests WHERE {where}", values)]


def keys(db: sqlite3.Connection) -> list[tuple[str, str, int]]:
    """(operator, tx, received_ns) of every request that is kept, oldest first."""
    return db.execute("SELECT operator, tx, received_ns FROM requests ORDER BY received_ns").fetchall()


def forget(db: sqlite3.Connection, forgotten: Sequence[tuple[str, str]]) -> None:
    """Ended requests nobody has to remember any more."""
    db.executemany("DELETE FROM requests WHERE operator = ? AND tx = ? AND open = 0", forgotten)


# --- tags -----------------------------------------------------------------------------------------------------------


def put_tag(db: sqlite3.Connection, id: str, key: str, body: bytes) -> None:  # noqa: A002  (the tag's own word)
    """A tag or inhibit. `key` is remembered for ever: its retained topic must be cleared some day."""
    db.execute("INSERT INTO tags VALUES(?,?)", (id, body))
    db.execute("INSERT OR IGNORE INTO tag_keys VALUES(?)", (key,))


def remove_tag(db: sqlite3.Connection, id: str) -> None:  # noqa: A002
    """Take a tag or inhibit away."""
    db.execute("DELETE FROM tags WHERE id = ?", (id,))


def tags(db: sqlite3.Connection) -> tuple[list[bytes], list[str]]:
    """Every tag's body, and every key that ever had one."""
    bodies = [body for (body,) in db.execute("SELECT body FROM tags ORDER BY id")]
    return bodies, [key for (key,) in db.execute("SELECT key FROM tag_keys ORDER BY key")]
