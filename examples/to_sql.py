"""Events of one or more gateways into a SQL database, one row an event: PostgreSQL (and TimescaleDB), or SQLite.

    python examples/to_sql.py --url mqtt://broker --base gw/riverside --database postgresql://user@host/scada
    python examples/to_sql.py --base gw/riverside --database events.db

The same event again changes nothing (`ON CONFLICT DO NOTHING`), so this may be stopped, restarted, or run twice at any
time. PostgreSQL needs psycopg. With TimescaleDB, make the table a hypertable once:

    SELECT create_hypertable('event', 'time', migrate_data => true);
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from consumer import Consumer, Place, options, run

TABLES = """
CREATE TABLE IF NOT EXISTS event(
  time {timestamp} NOT NULL, gateway TEXT NOT NULL, epoch TEXT NOT NULL, seq BIGINT NOT NULL,
  type TEXT NOT NULL, device TEXT, point TEXT, number DOUBLE PRECISION, text TEXT, quality TEXT, t_src TEXT,
  whole {json} NOT NULL,
  PRIMARY KEY(time, gateway, epoch, seq));
CREATE INDEX IF NOT EXISTS event_by_seq ON event(gateway, epoch, seq);
CREATE INDEX IF NOT EXISTS event_by_point ON event(point, time);
CREATE TABLE IF NOT EXISTS event_place(
  gateway TEXT NOT NULL, number BIGINT NOT NULL, epoch TEXT NOT NULL, done BIGINT NOT NULL,
  PRIMARY KEY(gateway, epoch));
CREATE TABLE IF NOT EXISTS event_hole(
  gateway TEXT NOT NULL, epoch TEXT NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL,
  PRIMARY KEY(gateway, epoch, first, last));
"""
INSERT = (
    "INSERT INTO event(time, gateway, epoch, seq, type, device, point, number, text, quality, t_src, whole) "
    "VALUES(?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
)


def row(gateway: str, epoch: str, event: dict[str, Any]) -> tuple[Any, ...]:
    """One event as a row. A truth is 0 or 1 in `number`; a position or an enum is in `text`."""
    value = event.get("value")
    number = float(value) if isinstance(value, (bool, int, float)) else None
    text = value if isinstance(value, str) else None
    point = event.get("point")
    device = event.get("device") or (point.split("/")[0] if point else None)
    return (
        event["t"], gateway, epoch, event["seq"], event.get("type", "point"), device, point, number, text,
        event.get("quality"), event.get("t_src"), json.dumps(event),
    )  # fmt: skip


class SqlStore:
    """A Store (see consumer.py) over a DB-API connection; `mark` is the driver's own sign for a parameter."""

    def __init__(self, connection: Any, gateway: str, *, mark: str, timestamp: str, json_type: str) -> None:
        self._db = connection
        self._gateway = gateway
        self._mark = mark
        with self._transaction():
            for statement in TABLES.format(timestamp=timestamp, json=json_type).split(";"):
                if statement.strip():
                    self._execute(statement)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._db.rollback()
            raise
        self._db.commit()

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> Any:
        cursor = self._db.cursor()
        cursor.execute(statement.replace("?", self._mark), values)
        return cursor

    def place(self) -> Place | None:
        with self._transaction():
            found = self._execute(
                "SELECT epoch, done FROM event_place WHERE gateway = ? ORDER BY number DESC LIMIT 1", (self._gateway,)
            ).fetchone()
        return Place(*found) if found else None

    def put(self, place: Place, events: Iterable[dict[str, Any]]) -> int:
        with self._transaction():
            rows = [row(self._gateway, place.epoch, event) for event in events]
            new = sum(max(0, self._execute(INSERT, one).rowcount) for one in rows)
            self._execute(
                "INSERT INTO event_place(gateway, number, epoch, done) "
                "VALUES(?, (SELECT count(*) FROM event_place WHERE gateway = ?), ?, ?) "
                "ON CONFLICT(gateway, epoch) DO UPDATE SET done = excluded.done",
                (self._gateway, self._gateway, *place),
            )
        return new

    def holes(self, epoch: str, missing: Iterable[tuple[int, int]]) -> None:
        statement = "INSERT INTO event_hole VALUES(?,?,?,?) ON CONFLICT DO NOTHING"
        with self._transaction():
            for one in missing:
                self._execute(statement, (self._gateway, epoch, *one))

    def present(self, epoch: str, above: int) -> list[int]:
        with self._transaction():
            found = self._execute(
                "SELECT seq FROM event WHERE gateway = ? AND epoch = ? AND seq > ? ORDER BY seq",
                (self._gateway, epoch, above),
            ).fetchall()
        return [seq for (seq,) in found]


def connect(database: str, gateway: str) -> SqlStore:
    """A store for `postgresql://…`, or for the path of an SQLite file."""
    if database.startswith(("postgresql://", "postgres://")):
        import psycopg

        connection = psycopg.connect(database)
        return SqlStore(connection, gateway, mark="%s", timestamp="TIMESTAMPTZ", json_type="JSONB")
    file = sqlite3.connect(database, check_same_thread=False)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = FULL")
    return SqlStore(file, gateway, mark="?", timestamp="TEXT", json_type="TEXT")


def main() -> int:
    parser = options("Store every event of a gateway once, in a SQL database.")
    parser.add_argument("--database", required=True, help="postgresql://user:password@host/name, or an SQLite file")
    given = parser.parse_args()
    return run(Consumer(connect(given.database, given.base)), given)


if __name__ == "__main__":
    sys.exit(main())
