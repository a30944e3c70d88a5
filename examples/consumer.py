"""A consumer that misses nothing: stores each event once, asks for what is missing, shows gaps and repeats.

    python examples/consumer.py --url mqtt://broker:1883 --base gw/riverside --name historian --database events.db

Copy it: it needs paho-mqtt only. What makes it safe, in this order:

1. It connects with Clean Start 0, so that the broker keeps what comes while it is away, and acknowledges a message to
   the broker only after its events are committed.
2. `(epoch, seq)` names an event for ever: the same pair again is a repeat and changes nothing.
3. When a number is missing it asks the gateway for it (`replay/<name>`), and never takes the broker's word that there
   is nothing more: `status` and `health` say how far the gateway has got.
4. Numbers that the gateway no longer has are written down as holes: a loss is never silent.
5. It tells the gateway what is safe here (`ack/<name>`), so that the gateway keeps the rest for it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

KEEP_FOR_US_S = 7 * 86400
REPLAY_PATIENCE_S = 20.0
REPLAY_AT_ONCE = 50_000
LOOK_EVERY_S = 1.0


class Place(NamedTuple):
    """Where we stand in an epoch: every number up to `done` is stored or known to be gone."""

    epoch: str
    done: int


class Store(Protocol):
    """Where events go. Every method is one transaction: when it has returned, it is safe."""

    def place(self) -> Place | None:
        """The newest epoch and how far we are in it; None at the very first start."""

    def put(self, place: Place, events: Iterable[dict[str, Any]]) -> int:
        """Store events of the place's epoch, which may be here already, and move the place; how many are new."""

    def holes(self, epoch: str, missing: Iterable[tuple[int, int]]) -> None:
        """Write down numbers that nobody has any more."""

    def present(self, epoch: str, above: int) -> list[int]:
        """The numbers stored above one, in order."""


class SqliteStore:
    """Events in a file."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
            "CREATE TABLE IF NOT EXISTS events(epoch TEXT, seq INTEGER, event TEXT, PRIMARY KEY(epoch, seq));"
            "CREATE TABLE IF NOT EXISTS places(number INTEGER PRIMARY KEY, epoch TEXT UNIQUE, done INTEGER);"
            "CREATE TABLE IF NOT EXISTS holes(epoch TEXT, first INTEGER, last INTEGER,"
            " PRIMARY KEY(epoch, first, last));"
        )

    def place(self) -> Place | None:
        row = self._db.execute("SELECT epoch, done FROM places ORDER BY number DESC LIMIT 1").fetchone()
        return Place(*row) if row else None

    def put(self, place: Place, events: Iterable[dict[str, Any]]) -> int:
        rows = [(place.epoch, event["seq"], json.dumps(event)) for event in events]
        self._db.execute("BEGIN IMMEDIATE")
        before = self._db.total_changes
        self._db.executemany("INSERT INTO events VALUES(?,?,?) ON CONFLICT DO NOTHING", rows)
        new = self._db.total_changes - before
        self._db.execute(
            "INSERT INTO places(epoch, done) VALUES(?,?) ON CONFLICT(epoch) DO UPDATE SET done = excluded.done", place
        )
        self._db.execute("COMMIT")
        return new

    def holes(self, epoch: str, missing: Iterable[tuple[int, int]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        rows = [(epoch, *one) for one in missing]
        self._db.executemany("INSERT INTO holes VALUES(?,?,?) ON CONFLICT DO NOTHING", rows)
        self._db.execute("COMMIT")

    def present(self, epoch: str, above: int) -> list[int]:
        rows = self._db.execute("SELECT seq FROM events WHERE epoch = ? AND seq > ? ORDER BY seq", (epoch, above))
        return [seq for (seq,) in rows]


class Ask(NamedTuple):
    """A replay to ask for."""

    epoch: str
    first: int
    last: int


class Consumer:
    """What to store and what to ask for; knows no network. `stored`, `repeats`, `lost` count since the start."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._place = store.place()
        self._newest = 0
        self._asked: Ask | None = None
        self._asked_at = 0.0
        self.stored = self.repeats = self.lost = 0

    @property
    def place(self) -> Place | None:
        """What is safe here."""
        return self._place

    @property
    def behind(self) -> int:
        """How many numbers the gateway has that we have not."""
        return max(0, self._newest - self._place.done) if self._place else 0

    def status(self, status: dict[str, Any]) -> None:
        """The gateway's status: which epoch it is in, and how far it has got."""
        epoch, oldest, newest = str(status["epoch"]), int(status["oldest"]), int(status["newest"])
        if self._place is None or self._place.epoch != epoch:
            # A new epoch: its numbers begin anew, and all that is kept of it is new to us.
            self._place = Place(epoch, oldest - 1)
            self._store.put(self._place, ())
            self._newest = 0
        self._newest = max(self._newest, newest)

    def events(self, message: dict[str, Any]) -> None:
        """A message of `event` or `replayed/<name>`: commit its events."""
        epoch, events = str(message["epoch"]), message["events"]
        if self._place is None or epoch != self._place.epoch:
            return  # of an epoch that `status` has not told us of yet, or of an old one: it can be asked for
        numbers = {event["seq"] for event in events}
        self._newest = max(self._newest, *numbers)
        done = self._place.done
        while done + 1 in numbers:
            done += 1
        new = self._store.put(Place(epoch, done), events)
        self._place = Place(epoch, done)
        self.stored += new
        self.repeats += len(events) - new
        self._catch_up()

    def _catch_up(self) -> None:
        """Numbers that came early may continue what is complete now."""
        if self._place is None or self._place.done >= self._newest:
            return
        epoch, done = self._place
        for seq in self._store.present(epoch, done):
            if seq != done + 1:
                break
            done = seq
        if done != self._place.done:
            self._place = Place(epoch, done)
            self._store.put(self._place, ())

    def replayed(self, message: dict[str, Any]) -> None:
        """The end of a replay: what is missing for good is written down, the rest is asked for again."""
        asked, self._asked = self._asked, None
        if asked is None or self._place is None or asked.epoch != self._place.epoch:
            return
        if message["reason"] not in ("ok", "trimmed"):
            return  # busy, unreadable: asked for again later
        gone = sorted((first, min(last, asked.last)) for first, last in message["missing"] if first <= asked.last)
        if not gone:
            return
        self._store.holes(asked.epoch, gone)
        self.lost += sum(last - first + 1 for first, last in gone)
        done = self._place.done
        for first, last in gone:
            if first <= done + 1:
                done = max(done, last)
        self._place = Place(asked.epoch, done)
        self._store.put(self._place, ())
        self._catch_up()

    def ask(self, now: float) -> Ask | None:
        """The replay to ask for now, if something is missing and nothing is on its way."""
        if self._place is None or self.behind == 0:
            return None
        if self._asked is not None and now - self._asked_at < REPLAY_PATIENCE_S:
            return None
        epoch, done = self._place
        have = self._store.present(epoch, done)
        last = (have[0] - 1) if have else self._newest
        self._asked = Ask(epoch, done + 1, min(last, done + REPLAY_AT_ONCE))
        self._asked_at = now
        return self._asked


class Connection:
    """The consumer on MQTT. paho reconnects by itself; the thread that calls `run` looks for what is missing."""

    def __init__(self, consumer: Consumer, base: str, name: str, *, username: str = "", password: str = "") -> None:
        self._consumer = consumer
        self._base = base
        self._name = name
        self._lock = threading.Lock()
        self._told: Place | None = None
        self._gap_since: float | None = None
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"consumer-{name}", protocol=paho.MQTTv5, manual_ack=True
        )
        if username:
            self.client.username_pw_set(username, password)
        self.client.on_connect = self._connected
        self.client.on_message = self._message

    def connect(self, host: str, port: int) -> None:
        """Connect (and go on connecting) in a thread of paho's."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = KEEP_FOR_US_S
        properties.ReceiveMaximum = 100
        self.client.reconnect_delay_set(1, 10)
        self.client.connect_async(host, port, keepalive=15, clean_start=False, properties=properties)
        self.client.loop_start()

    def _connected(self, client: paho.Client, _: object, __: object, code: Any, ___: object) -> None:
        if not code.is_failure:
            topics = ("status", "health", "event", f"replayed/{self._name}")
            client.subscribe([(f"{self._base}/{topic}", 1) for topic in topics])

    def _message(self, client: paho.Client, _: object, message: paho.MQTTMessage) -> None:
        try:
            body = json.loads(message.payload or b"{}")
            with self._lock:
                self._take(message.topic.removeprefix(self._base + "/"), body)
        except (ValueError, KeyError, TypeError) as error:
            print(f"not understood on {message.topic}: {error!r}", file=sys.stderr)
        client.ack(message.mid, message.qos)  # only now: what was in it is committed

    def _take(self, topic: str, body: dict[str, Any]) -> None:
        if topic in ("status", "health"):  # both say how far the gateway has got; health every 10 s
            self._consumer.status(body)
        elif body.get("done"):
            self._consumer.replayed(body)
        else:
            self._consumer.events(body)

    def look(self) -> None:
        """Ask for what has been missing for a moment; tell the gateway what is safe."""
        now = time.monotonic()
        with self._lock:
            if self._consumer.behind == 0:
                self._gap_since = None
            elif self._gap_since is None:
                self._gap_since = now  # it may only be on its way
            elif now - self._gap_since >= LOOK_EVERY_S and (ask := self._consumer.ask(now)) is not None:
                self._publish("replay", {"epoch": ask.epoch, "from": ask.first, "to": ask.last})
            if self._consumer.place != self._told and self._consumer.place is not None:
                self._told = self._consumer.place
                self._publish("ack", {"epoch": self._told.epoch, "seq": self._told.done})

    def _publish(self, what: str, body: dict[str, Any]) -> None:
        if self.client.is_connected():
            self.client.publish(f"{self._base}/{what}/{self._name}", json.dumps(body), qos=1)

    def close(self) -> None:
        """Disconnect; the broker keeps what comes for us."""
        self.client.disconnect()
        self.client.loop_stop()


def run(consumer: Consumer, given: argparse.Namespace) -> int:
    """Consume until SIGTERM or Ctrl-C, with a line whenever something was stored."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    url = urlsplit(given.url)
    connection = Connection(consumer, given.base, given.name, username=given.username, password=given.password)
    connection.connect(url.hostname or "127.0.0.1", url.port or 1883)
    said = (-1, -1, -1)
    while not ended.wait(LOOK_EVERY_S / 4):
        connection.look()
        counts = (consumer.stored, consumer.repeats, consumer.lost)
        if counts != said:
            said = counts
            place = consumer.place
            where = f"up to {place.done} of {place.epoch}" if place else "nothing yet"
            print(f"stored {counts[0]}, repeats {counts[1]}, lost {counts[2]}; complete {where}", flush=True)
    connection.close()
    return 0


def options(description: str) -> argparse.ArgumentParser:
    """The command line that every consumer has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", default="mqtt://127.0.0.1:1883")
    parser.add_argument("--base", required=True, help="the gateway's base topic, such as gw/riverside")
    parser.add_argument("--name", default="historian", help="our name in replay/<name> and ack/<name>")
    parser.add_argument("--username", default="")
    parser.add_argument("--password", default="")
    return parser


def main() -> int:
    parser = options("Store every event of a gateway once, in an SQLite file.")
    parser.add_argument("--database", default="events.db")
    given = parser.parse_args()
    return run(Consumer(SqliteStore(given.database)), given)


if __name__ == "__main__":
    sys.exit(main())
