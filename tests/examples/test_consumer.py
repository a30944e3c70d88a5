"""The example consumers: nothing is missed whatever the broker loses, and the same event twice is one event."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.points.database import Database
from tests.brokers import Mosquitto, until
from tests.examples import postgres
from tests.mqtt.support import MemoryJournal, analogs, publisher, running

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


consumer = load("consumer")
to_sql = load("to_sql")


def event(seq: int) -> dict[str, Any]:
    return {"seq": seq, "point": "FDR12/CB/POS", "value": "open", "quality": "good", "t": "2026-11-24T01:02:03.004Z"}


def message(*numbers: int, epoch: str = "e1") -> dict[str, Any]:
    return {"epoch": epoch, "first": numbers[0], "events": [event(n) for n in numbers]}


def status(newest: int, oldest: int = 1, epoch: str = "e1") -> dict[str, Any]:
    return {"epoch": epoch, "oldest": oldest, "newest": newest}


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres.running() as url:
        yield url


@pytest.fixture(params=["sqlite", "sql-sqlite", "sql-postgres"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A function that opens the same store again and again."""
    opened: list[Any] = []

    def open_store() -> Any:
        if request.param == "sqlite":
            store = consumer.SqliteStore(str(tmp_path / "events.db"))
        elif request.param == "sql-sqlite":
            store = to_sql.connect(str(tmp_path / "sql.db"), "gw/test")
        else:
            store = to_sql.connect(request.getfixturevalue("postgres_url"), f"gw/{tmp_path.name}")
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store._db.close()


def test_events_are_stored_once_and_the_place_survives(stores: Any) -> None:
    one = consumer.Consumer(stores())
    one.status(status(5))
    one.events(message(1, 2, 3))
    one.events(message(2, 3, 4))
    assert (one.stored, one.repeats, one.lost, one.behind) == (4, 2, 0, 1)
    again = consumer.Consumer(stores())
    assert again.place == ("e1", 4)
    again.events(message(5))
    assert again.place == ("e1", 5)


def test_a_missing_number_is_asked_for_and_what_came_early_is_not_asked_again(stores: Any) -> None:
    one = consumer.Consumer(stores())
    one.status(status(0))
    one.events(message(1))
    one.events(message(4, 5))
    assert one.place == ("e1", 1)
    assert one.ask(100.0) == ("e1", 2, 3)
    assert one.ask(101.0) is None, "one at a time"
    one.events(message(2, 3))
    assert one.place == ("e1", 5)
    one.replayed({"done": True, "from": 2, "to": 3, "missing": [], "reason": "ok"})
    assert one.ask(102.0) is None


def test_an_answer_that_never_comes_is_asked_for_again(stores: Any) -> None:
    one = consumer.Consumer(stores())
    one.status(status(3))
    assert one.ask(0.0) == ("e1", 1, 3)
    assert one.ask(consumer.REPLAY_PATIENCE_S - 1) is None
    assert one.ask(consumer.REPLAY_PATIENCE_S) == ("e1", 1, 3)
    one.replayed({"done": True, "from": 0, "to": -1, "missing": [[1, 3]], "reason": "busy"})
    assert one.ask(consumer.REPLAY_PATIENCE_S + 1) == ("e1", 1, 3)


def test_what_the_gateway_no_longer_has_is_a_hole_and_never_silent(stores: Any) -> None:
    one = consumer.Consumer(stores())
    one.status(status(0))
    one.status(status(10, oldest=5))
    one.events(message(7))
    assert one.ask(0.0) == ("e1", 1, 6)
    one.events(message(5, 6))
    one.replayed({"done": True, "from": 1, "to": 6, "missing": [[1, 4]], "reason": "trimmed"})
    assert (one.lost, one.place) == (4, ("e1", 7))
    assert one.ask(1.0) == ("e1", 8, 10)


def test_a_new_epoch_begins_anew_with_all_that_is_kept_of_it(stores: Any) -> None:
    one = consumer.Consumer(stores())
    one.status(status(9))
    one.events(message(*range(1, 10)))
    one.status(status(12, oldest=10, epoch="e2"))
    assert one.place == ("e2", 9)
    assert one.ask(0.0) == ("e2", 10, 12)
    one.events(message(8, epoch="e1"))
    assert one.place == ("e2", 9)
    assert consumer.Consumer(stores()).place == ("e2", 9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8, unique=True), max_size=30), st.randoms())
def test_whatever_order_they_come_in_all_are_there_once(batches: list[list[int]], random: Any) -> None:
    one = consumer.Consumer(consumer.SqliteStore(":memory:"))
    one.status(status(30))
    for numbers in batches:
        one.events(message(*sorted(numbers)))
    now = 0.0
    while (ask := one.ask(now)) is not None:
        wanted = list(range(ask.first, ask.last + 1))
        random.shuffle(wanted)
        for number in wanted:
            one.events(message(number))
        one.replayed({"done": True, "from": ask.first, "to": ask.last, "missing": [], "reason": "ok"})
        now += 1
    assert one.place == ("e1", 30)
    assert one.stored == 30
    assert one.behind == 0


def test_a_row_says_what_the_event_says() -> None:
    made = to_sql.row("gw/a", "e1", {**event(7), "value": True})
    assert made[1:9] == ("gw/a", "e1", 7, "point", "FDR12", "FDR12/CB/POS", 1.0, None)
    made = to_sql.row("gw/a", "e1", {"seq": 8, "type": "gap", "device": "D", "t": "2026-11-24T01:02:03Z"})
    assert made[4:8] == ("gap", "D", None, None)


async def test_over_a_real_broker_that_loses_everything_twice(tmp_path: Path) -> None:
    """The gateway publishes and marks as handed over; the broker is killed with what it had not passed on."""
    journal = MemoryJournal()
    acks: list[Any] = []
    async with Mosquitto(tmp_path / "broker") as broker:
        gateway = publisher(broker.url, Database(analogs("A", 1)), journal)
        database = tmp_path / "events.db"
        async with running(gateway):
            await until(lambda: gateway.connection.connected)
            process = await start(broker.port, database)
            numbers = iter(range(1, 10_000))

            def add(count: int) -> None:
                journal.add(*(json.dumps({k: v for k, v in event(next(numbers)).items() if k != "seq"}).encode()
                              for _ in range(count)))  # fmt: skip

            await until(lambda: query(database, "SELECT * FROM places"), "it has heard the status, so it is subscribed")
            add(100)
            await until(lambda: stored(database) == 100)
            await kill(process)
            add(50)  # nobody has a session that the broker keeps: these are lost to it
            await until(lambda: journal.handed_over == 150)
            await broker.kill()
            await broker.start()
            process = await start(broker.port, database)
            gateway.status()
            add(10)
            # the request for a replay is the daemon's to pass on; here it is passed by hand, as the daemon does
            replays = asyncio.create_task(pass_on(broker.url, gateway, acks))
            await until(lambda: stored(database) == 160, f"{stored(database)} of 160", 30)
            await until(lambda: acks and acks[-1]["seq"] == 160, "everything is acknowledged to the gateway")
            replays.cancel()
            await asyncio.wait({replays})
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0
    assert holes(database) == []


async def start(port: int, database: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / "consumer.py"), "--url", f"mqtt://127.0.0.1:{port}"),
        *("--base", "gw/test", "--name", "historian", "--database", str(database)),
        stdout=asyncio.subprocess.DEVNULL,
    )


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


async def pass_on(url: str, gateway: Any, acks: list[Any]) -> None:
    from gatewayd.mqtt import contract
    from tests.mqtt.support import BASE, console

    topics = contract.Topics(BASE)
    async with console(url, f"{BASE}/replay/+", f"{BASE}/ack/+") as listener:
        seen = 0
        while True:
            for heard in listener.heard[seen:]:
                seen += 1
                where = topics.request(heard.topic)
                assert where is not None
                if where.what == "ack":
                    acks.append(heard.body)
                else:
                    gateway.replay(contract.decode_replay(where, heard.payload))
            await asyncio.sleep(0.01)


def query(database: Path, statement: str) -> list[Any]:
    if not database.exists():
        return []
    connection = sqlite3.connect(database)
    try:
        return connection.execute(statement).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        connection.close()


def stored(database: Path) -> int:
    found = query(database, "SELECT count(*) FROM events")
    return int(found[0][0]) if found else 0


def holes(database: Path) -> list[Any]:
    return query(database, "SELECT * FROM holes")


def test_the_command_lines_explain_themselves() -> None:
    parser = consumer.options("x")
    assert isinstance(parser, argparse.ArgumentParser)
    given = parser.parse_args(["--base", "gw/x"])
    assert given.name == "historian"
