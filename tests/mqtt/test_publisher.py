import asyncio
import json
import socket

import pytest

from gatewayd.mqtt import contract, events
from gatewayd.mqtt.contract import ReplayRequest
from gatewayd.mqtt.publisher import DeviceInfo
from gatewayd.points import quality as q
from gatewayd.points.database import Database
from gatewayd.points.types import Kind, Link, PointSpec
from tests.brokers import Iotcore, Mosquitto, until
from tests.mqtt.support import BASE, MemoryJournal, analogs, console, good, publisher, running, settings


def event(n: int, device: str = "A") -> bytes:
    return json.dumps({"point": f"{device}/E", "value": n, "quality": "good", "t": "2026-11-24T01:02:03.004Z"}).encode()


async def test_a_late_subscriber_is_complete_at_once(broker):
    database = Database(analogs("A", 3) + analogs("B", 2, start=3))
    sender = publisher(broker.url, database)
    sender.link("A", "dnp3", Link.UP, 1_000_000_000, "")
    async with running(sender):
        sender.changed([good(database, row, row + 0.5) for row in range(5)])
        await until(lambda: sender.counters()["retained_records"] >= 5)
        async with console(broker.url) as late:
            await until(lambda: late.last("point/B/P1") and late.last("snapshot/B/0"))
            await until(lambda: late.last("status") and late.last("catalog/A") and late.last("device/A"))
            assert all(message.retain for message in late.heard if "/state/" not in message.topic)
            assert late.last("point/A/P2")["value"] == 2.5
            assert late.last("device/A") == {
                "link": "up", "since": "1970-01-01T00:00:01.000Z", "cause": "", "protocol": "dnp3",
            }  # fmt: skip
            assert [point["point"] for point in late.last("catalog/A")["points"]] == ["A/P0", "A/P1", "A/P2"]
            assert late.last("catalog/A")["points"][0]["unit"] == "kW"
            status = late.last("status")
            assert status["state"] == "online"
            assert (status["boot"], status["epoch"], status["config"]) == ("b1", "e1", "c0ffee")
            assert status["clock"] == {"synchronised": True}
            qos = {message.topic.split("/")[2]: message.qos for message in late.heard}
            assert qos["status"] == qos["catalog"] == qos["device"] == qos["snapshot"] == 1
            assert qos["point"] == 0


async def test_state_goes_out_at_once_in_one_message_for_a_batch(broker):
    database = Database(analogs("A", 100))
    sender = publisher(broker.url, database)
    async with console(broker.url, f"{BASE}/state/#") as listener, running(sender):
        await until(lambda: listener.on("state/A"))  # all points once, still unread
        assert listener.last("state/A")["points"][0]["quality"] == "invalid"
        before = len(listener.on("state/A"))
        sender.changed([good(database, row, row) for row in range(100)])
        await until(lambda: len(listener.on("state/A")) > before)
        message = listener.on("state/A")[before]
        assert [record["value"] for record in message.body["points"]] == list(range(100))
        assert (message.qos, message.retain) == (1, False)


async def test_newest_value_wins_while_the_line_is_busy(broker):
    database = Database(analogs("A", 10))
    sender = publisher(broker.url, database)
    async with console(broker.url, f"{BASE}/state/#") as listener, running(sender):
        await until(lambda: listener.on("state/A"))
        broker.freeze()
        for n in range(1000):
            sender.changed([good(database, row, n) for row in range(10)])
            await asyncio.sleep(0)
        broker.thaw()
        await until(lambda: listener.last("state/A")["points"][0]["value"] == 999)
        assert len(listener.on("state/A")) < 20


async def test_contacts_are_never_published(broker):
    specs = analogs("A", 1)
    specs.append(PointSpec(row=1, name="A/half", kind=Kind.BINARY, device="A", address="BI:1", contact=True))
    database = Database(specs)
    sender = publisher(broker.url, database)
    async with console(broker.url) as listener, running(sender):
        sender.changed([good(database, 1, True), good(database, 0, 7)])
        await until(lambda: (listener.last("point/A/P0") or {}).get("value") == 7 and listener.on("snapshot/A/0"))
    assert not [m for m in listener.heard if b"A/half" in m.payload or "half" in m.topic]


async def test_retained_points_are_paced_but_the_first_value_is_not_held_back(broker):
    database = Database(analogs("A", 400))
    sender = publisher(broker.url, database, retain_rate=1)
    async with running(sender):
        sender.changed([good(database, row, 1) for row in range(400)])
        await until(lambda: not sender._points._first)
        done = sender.counters()["retained_records"]
        assert done >= 400
        sender.changed([good(database, row, 2) for row in range(400)])
        await until(lambda: sender._points.state_records >= 1200 or not sender._points.groups[0].dirty)
        assert len(sender._points._retain) > 390


async def test_a_device_can_do_without_retained_points(broker):
    database = Database(analogs("A", 2))
    sender = publisher(broker.url, database)
    sender.configure(database, [DeviceInfo("A", "modbus", retain_points=False)], "x")
    async with console(broker.url) as listener, running(sender):
        sender.changed([good(database, 0, 1)])
        await until(lambda: listener.last("snapshot/A/0") and listener.last("state/A"))
        assert not listener.on("point/")


async def test_offline_is_said_at_the_end_and_by_the_will_when_we_vanish(broker):
    sender = publisher(broker.url, Database(analogs("A", 1)))
    async with console(broker.url, f"{BASE}/status") as listener:
        async with running(sender):
            await until(lambda: (listener.last("status") or {}).get("state") == "online")
        await until(lambda: listener.last("status")["state"] == "offline")
        heard = len(listener.on("status"))
        async with running(sender):
            await until(lambda: len(listener.on("status")) > heard and listener.last("status")["state"] == "online")
            assert sender._session is not None
            sender._session._paho.socket().shutdown(socket.SHUT_RDWR)  # no DISCONNECT: the broker speaks for us
            await until(lambda: any(m.body["state"] == "offline" for m in listener.on("status")[heard + 1 :]))
            await until(lambda: listener.last("status")["state"] == "online")
        assert all(message.retain for message in listener.heard[1:])


async def test_events_are_numbered_ordered_and_marked_as_handed_over(broker):
    journal = MemoryJournal()
    sender = publisher(broker.url, Database(analogs("A", 1)), journal)
    async with console(broker.url) as listener, running(sender):
        await until(lambda: sender._session)
        journal.add(*(event(n) for n in range(1, 6)))
        journal.add(contract.gap_event("A", "overflow", from_ns=None, to_ns=0))
        await until(lambda: journal.handed_over == 6)
        await until(lambda: len(listener.events()) == 6 and listener.on("gap"))
        assert [e["seq"] for e in listener.events()] == [1, 2, 3, 4, 5, 6]
        assert listener.on("event")[0].body["epoch"] == "e1"
        assert all((m.qos, m.retain) == (1, False) for m in listener.on("event"))
        gap = listener.last("gap")
        assert (gap["seq"], gap["epoch"], gap["device"], gap["cause"]) == (6, "e1", "A", "overflow")


async def test_a_backlog_of_10000_events_arrives_whole_and_in_order_with_state_current_at_once(broker):
    journal = MemoryJournal()
    journal.add(*(event(n) for n in range(1, 10_001)), recorded_ns=1)
    database = Database(analogs("A", 10))
    sender = publisher(broker.url, database, journal, backlog_rate=5000)
    good(database, 3, 33)
    async with console(broker.url) as listener, running(sender):
        await until(lambda: listener.on("state/A"))
        assert len(listener.events()) < 10_000  # the present does not wait for the past
        await until(lambda: journal.handed_over == 10_000 and len(listener.events()) >= 10_000)
        assert [e["seq"] for e in listener.events()] == list(range(1, 10_001))
        assert all(e["historical"] for e in listener.events())
        assert all(len(m.body["events"]) <= 500 for m in listener.on("event"))
        assert all(len(m.payload) <= 64 * 1024 for m in listener.heard)
        assert journal.marks == sorted(journal.marks)


async def test_after_kill_9_of_the_broker_no_event_is_missing_and_state_is_current(broker):
    journal = MemoryJournal()
    database = Database(analogs("A", 5))
    sender = publisher(broker.url, database, journal)
    seen: list[int] = []
    async with running(sender):
        for round_ in range(3):
            async with console(broker.url) as listener:
                await until(lambda: sender._session)
                for _ in range(20):
                    journal.add(*(event(journal.newest + 1) for _ in range(50)))
                    await asyncio.sleep(0)
                await until(lambda: journal.handed_over > round_ * 1500)  # noqa: B023
                await broker.kill()
                seen += [e["seq"] for e in listener.events()]
            # goes on in the field while there is no broker
            journal.add(*(event(n) for n in range(500)))
            sender.changed([good(database, row, round_) for row in range(5)])
            await until(lambda: not sender.connection.connected)
            await broker.start()
            async with console(broker.url) as listener:
                await until(lambda: (listener.last("point/A/P4") or {}).get("value") == round_)  # noqa: B023
                await until(lambda: journal.handed_over == journal.newest)
                await until(lambda: [e["seq"] for e in listener.events()][-1:] == [journal.newest])
                numbers = [e["seq"] for e in listener.events()]
                assert numbers == sorted(numbers)
                await until(lambda: listener.last("snapshot/A/0") and listener.last("catalog/A"))
                assert listener.last("status")["state"] == "online"
                seen += [e["seq"] for e in listener.events()]
    assert journal.marks == sorted(journal.marks)
    # What the broker acknowledged and then lost with its life, the consumer sees as a hole and asks for.
    lost = sorted(set(range(1, journal.newest + 1)) - set(seen))
    if lost:
        async with console(broker.url, f"{BASE}/replayed/#") as listener, running(sender):
            sender.replay(ReplayRequest("hist", "e1", lost[0], lost[-1]))
            await until(lambda: ended(listener, "hist"))
            *messages, done = [m.body for m in listener.on("replayed/hist")]
            assert done["missing"] == []
            seen += [e["seq"] for m in messages for e in m["events"]]
    assert set(seen) == set(range(1, 4501))


async def test_state_that_was_on_its_way_when_the_broker_died_is_sent_again(broker):
    database = Database(analogs("A", 3) + analogs("B", 3, start=3))
    sender = publisher(broker.url, database)
    async with running(sender):
        await until(lambda: sender._session)
        await until(lambda: not any(group.dirty or group.in_flight for group in sender._points.groups))
        broker.freeze()
        sender.changed([good(database, 1, 42)])
        await until(lambda: sender._points.groups[0].in_flight)
        sender.connection._settings = settings("mqtt://127.0.0.1:1")  # nobody there, until somebody listens
        await broker.kill()
        await until(lambda: not sender.connection.connected)
        await broker.start()
        async with console(broker.url, f"{BASE}/state/#") as listener:
            sender.connection._settings = settings(broker.url)
            await until(lambda: listener.on("state/A"))
            assert [record["value"] for record in listener.last("state/A")["points"]] == [42]
            assert not listener.on("state/B")  # no storm of what did not change


async def test_events_continue_behind_the_last_acknowledged_one(tmp_path):
    journal = MemoryJournal()
    journal.add(*(event(n) for n in range(1, 11)))
    journal.handed_over = 4
    async with Mosquitto(tmp_path) as broker, console(broker.url) as listener:
        async with running(publisher(broker.url, Database([]), journal)):
            await until(lambda: journal.handed_over == 10)
            await until(lambda: len(listener.events()) >= 6)
        assert [e["seq"] for e in listener.events()] == [5, 6, 7, 8, 9, 10]


async def test_a_refusal_is_no_acknowledgement(tmp_path):
    journal = MemoryJournal()
    journal.add(*(event(n) for n in range(1, 1201)))
    reader = ["user reader", "topic readwrite #"]
    deny = ["user gw", "topic readwrite gw/#", "topic deny gw/test/event", *reader]
    users = {"gw": "secret", "reader": "r"}
    (tmp_path / "password").write_text("secret\n")
    async with Mosquitto(tmp_path / "broker", acl=deny, users=users) as broker:
        sender = publisher(
            broker.url, Database(analogs("A", 1)), journal, username="gw", password_file=str(tmp_path / "password")
        )
        async with console(broker.url, username="reader", password="r") as listener, running(sender):
            await until(lambda: sender.counters()["refused"] >= 3)
            await until(lambda: listener.on("state/A"))  # the rest goes on
            assert journal.handed_over == 0
            assert not journal.marks
            broker.set_acl(["user gw", "topic readwrite gw/#", *reader])
            broker.reload_acl()
            await until(lambda: journal.handed_over == 1200)
            await until(lambda: len(listener.events()) >= 1200)
            assert [e["seq"] for e in listener.events()] == list(range(1, 1201))


async def test_a_refused_retained_document_is_tried_again(tmp_path):
    users = {"gw": "secret", "reader": "r"}
    reader = ["user reader", "topic readwrite #"]
    deny = ["user gw", "topic readwrite gw/#", "topic deny gw/test/device/+", *reader]
    (tmp_path / "password").write_text("secret\n")
    async with Mosquitto(tmp_path / "broker", acl=deny, users=users) as broker:
        sender = publisher(
            broker.url, Database(analogs("A", 1)), username="gw", password_file=str(tmp_path / "password")
        )
        sender.link("A", "dnp3", Link.CONNECTING, 0, "first")
        async with console(broker.url, username="reader", password="r") as listener, running(sender):
            await until(lambda: sender.counters()["refused"] and listener.last("catalog/A"))
            sender.link("A", "dnp3", Link.UP, 0, "second")
            await until(lambda: sender.counters()["refused"] >= 2)
            broker.set_acl(["user gw", "topic readwrite gw/#", *reader])
            broker.reload_acl()
            await until(lambda: listener.last("device/A"))
            assert [m.body["cause"] for m in listener.on("device/A")] == ["second"]


async def test_an_older_refused_document_never_follows_a_newer_one(tmp_path):
    users = {"gw": "secret", "reader": "r"}
    reader = ["user reader", "topic readwrite #"]
    (tmp_path / "password").write_text("secret\n")
    deny = ["user gw", "topic readwrite gw/#", "topic deny gw/test/device/+", *reader]
    async with Mosquitto(tmp_path / "broker", acl=deny, users=users) as broker:
        sender = publisher(
            broker.url, Database(analogs("A", 1)), username="gw", password_file=str(tmp_path / "password")
        )
        sender.link("A", "dnp3", Link.CONNECTING, 0, "old")
        async with console(broker.url, username="reader", password="r") as listener, running(sender):
            await until(lambda: sender._held)
            broker.set_acl(["user gw", "topic readwrite gw/#", *reader])
            broker.reload_acl()
            while not listener.on("device/A"):
                sender.link("A", "dnp3", Link.UP, 0, "new")
                await asyncio.sleep(0.02)
            await until(lambda: not sender._held and not sender._outbox)
            assert {m.body["cause"] for m in listener.on("device/A")} == {"new"}


async def test_the_brokers_receive_maximum_is_respected(tmp_path):
    journal = MemoryJournal()
    journal.add(*(event(n) for n in range(1, 5001)))
    database = Database([spec for n in range(30) for spec in analogs(f"D{n}", 2, start=2 * n)])
    async with Mosquitto(tmp_path, max_inflight=20) as broker:
        sender = publisher(broker.url, database, journal)
        async with running(sender):
            await until(lambda: sender._session)
            session = sender._session
            assert session.window == 20
            most = 0
            inner = session.send

            def send(*args, **more):
                nonlocal most
                inner(*args, **more)
                most = max(most, len(session._pending))

            session.send = send
            sender.republish(None)
            await until(lambda: journal.handed_over == 5000)
            assert 1 <= most <= 20
            assert sender.connection.connects == 1


async def test_what_left_the_configuration_is_cleared(broker):
    database = Database(analogs("A", 3) + analogs("B", 2, start=3))
    sender = publisher(broker.url, database)
    sender.link("B", "dnp3", Link.UP, 0)
    async with running(sender):
        await until(lambda: sender.counters()["retained_records"] >= 5)
        smaller = Database(analogs("A", 2))
        sender.configure(smaller, [DeviceInfo("A", "dnp3")], "new")
        async with console(broker.url) as listener:
            await until(lambda: (listener.last("status") or {}).get("config") == "new" and not stored(listener) & GONE)
        async with console(broker.url) as late:
            await until(lambda: late.last("snapshot/A/0") and late.last("status") and late.last("point/A/P1"))
            assert late.last("status")["config"] == "new"
            assert not {m.topic for m in late.heard} & GONE


GONE = {f"{BASE}/{topic}" for topic in ("point/A/P2", "point/B/P0", "point/B/P1", "device/B", "catalog/B")} | {
    f"{BASE}/snapshot/B/0"
}


def stored(listener):
    """Topics whose newest message is not a clearing one."""
    return {topic for topic, payload in {m.topic: m.payload for m in listener.heard}.items() if payload}


async def test_a_point_that_comes_back_is_not_cleared(broker):
    database = Database(analogs("A", 3))
    sender = publisher(broker.url, database)
    sender.configure(Database(analogs("A", 1)), [DeviceInfo("A", "dnp3")], "without")
    assert f"{BASE}/point/A/P2" in sender._outbox
    sender.configure(database, [DeviceInfo("A", "dnp3")], "again")
    async with console(broker.url) as listener, running(sender):
        await until(lambda: listener.on("point/A/P2") and listener.on("snapshot/A/0") and not sender._outbox)
        assert all(message.payload for message in listener.heard)


async def test_a_start_clears_what_an_earlier_configuration_left(broker):
    old = Database(analogs("A", 3) + analogs("B", 2, start=3))
    before = publisher(broker.url, old)
    before.link("B", "dnp3", Link.UP, 0)
    async with console(broker.url) as witness:
        async with running(before):
            await until(lambda: {m.topic for m in witness.heard if m.payload} >= GONE)
        after = publisher(broker.url, Database(analogs("A", 2)))
        async with running(after):
            await until(lambda: {m.topic for m in witness.heard if not m.payload} >= GONE)
            await until(lambda: after.counters()["retained_records"] >= 2)
    async with console(broker.url) as late:
        await until(lambda: late.last("status") and late.last("snapshot/A/0"))
        assert not {m.topic for m in late.heard} & GONE


async def test_replay_sends_the_wanted_events_again_and_says_what_is_missing(broker):
    journal = MemoryJournal(oldest=101)
    journal.add(*(event(n) for n in range(2000)))
    journal.handed_over = journal.newest
    sender = publisher(broker.url, Database([]), journal)
    async with console(broker.url, f"{BASE}/replayed/#") as listener, running(sender):
        sender.replay(ReplayRequest("hist", "e1", 50, 1200))
        sender.replay(ReplayRequest("other", "e0", 1, 5))
        sender.replay(ReplayRequest("late", "e1", 2090, 9999))
        sender.replay(ReplayRequest("wrong", "", 0, 0, "from is missing"))
        await until(lambda: all(ended(listener, c) for c in ("hist", "other", "late", "wrong")))
        *messages, done = [m.body for m in listener.on("replayed/hist")]
        assert [e["seq"] for m in messages for e in m["events"]] == list(range(101, 1201))
        assert done == {"done": True, "from": 50, "to": 1200, "missing": [[50, 100]], "reason": "trimmed"}
        assert listener.last("replayed/other")["reason"] == "unknown-epoch"
        assert listener.last("replayed/late")["missing"] == [[2101, 9999]]
        assert listener.last("replayed/late")["reason"] == "beyond-newest"
        assert listener.last("replayed/wrong")["reason"] == "from is missing"


def ended(listener, client):
    return (listener.last(f"replayed/{client}") or {}).get("done")


async def test_more_replays_than_allowed_are_told_busy(broker):
    journal = MemoryJournal()
    journal.add(event(1))
    sender = publisher(broker.url, Database([]), journal)
    count = events.REPLAYS_WAITING + 3
    for n in range(count):
        sender.replay(ReplayRequest(f"c{n}", "e1", 1, 1))
    async with console(broker.url, f"{BASE}/replayed/#") as listener, running(sender):
        await until(lambda: all(ended(listener, f"c{n}") for n in range(count)))
        reasons = [listener.last(f"replayed/c{n}")["reason"] for n in range(count)]
        assert reasons == ["ok"] * events.REPLAYS_WAITING + ["busy"] * 3


async def test_health_carries_the_counters_and_the_end_of_the_stream(broker):
    journal = MemoryJournal()
    sender = publisher(broker.url, Database([]), journal)
    async with console(broker.url, f"{BASE}/health") as listener, running(sender):
        await until(lambda: sender._session)
        journal.add(event(1))
        await until(lambda: journal.handed_over == 1)
        sender.health({"loop_lag_ms": 1})
        await until(lambda: listener.last("health"))
        health = listener.last("health")
        assert (health["epoch"], health["newest"], health["handed_over"], health["loop_lag_ms"]) == ("e1", 1, 1, 1)
        assert health["mqtt"]["events"] == 1
        assert (listener.on("health")[0].qos, listener.on("health")[0].retain) == (0, False)


async def test_interrogation_sends_state_and_retained_again(broker):
    database = Database(analogs("A", 2) + analogs("B", 1, start=2))
    sender = publisher(broker.url, database)
    async with running(sender):
        sender.changed([good(database, row, 5) for row in range(3)])
        await until(lambda: sender.counters()["retained_records"] >= 6 or not sender._points._first)
        async with console(broker.url) as listener:
            await until(lambda: listener.last("status"))
            before = len(listener.on("point/A/P0"))
            sender.republish("A")
            await until(lambda: listener.last("state/A") and len(listener.on("point/A/P0")) > before)
            assert len(listener.last("state/A")["points"]) == 2
            assert not listener.on("state/B")


async def test_big_devices_come_in_parts_of_64_kib(broker):
    database = Database(analogs("A", 2000, description="a feeder's active power, mean of a quarter of an hour"))
    sender = publisher(broker.url, database)
    async with console(broker.url) as listener, running(sender):
        sender.changed([good(database, row, row / 3) for row in range(2000)])
        await until(lambda: listener.on("snapshot/A/") and listener.on("catalog/A/"))
        await until(lambda: len(listener.on("snapshot/A/")) >= listener.on("snapshot/A/")[0].body["parts"])
        await until(lambda: len(listener.on("catalog/A/")) >= listener.on("catalog/A/")[0].body["parts"])
        parts = {m.topic: m.body for m in listener.on("catalog/A/")}
        assert sum(len(body["points"]) for body in parts.values()) == 2000
        assert len(parts) > 1
        assert max(len(m.payload) for m in listener.heard) <= 64 * 1024


async def test_a_broker_that_is_not_there_at_the_start_is_found_later(tmp_path):
    broker = Mosquitto(tmp_path)
    database = Database(analogs("A", 1))
    sender = publisher(broker.url, database)
    async with running(sender):
        await until(lambda: sender.connection._said_down)
        sender.changed([good(database, 0, 1)])
        async with broker, console(broker.url) as listener:
            await until(lambda: (listener.last("point/A/P0") or {}).get("value") == 1)


@pytest.mark.parametrize("mqtt5", [True, False])
async def test_iotcore_gets_the_data_with_mqtt_5_and_with_3_1_1(tmp_path, mqtt5):
    journal = MemoryJournal()
    journal.add(*(event(n) for n in range(1, 101)))
    database = Database(analogs("A", 3))
    sender = publisher("", database, journal) if False else None
    async with Iotcore(tmp_path, mqtt5=mqtt5) as broker:
        sender = publisher(broker.url, database, journal)
        sender.link("A", "dnp3", Link.UP, 0)
        async with running(sender):
            sender.changed([good(database, row, 1.5) for row in range(3)])
            await until(lambda: journal.handed_over == 100)
            await until(lambda: sender.counters()["retained_records"] >= 3)
            assert sender._session is not None
            assert sender._session.mqtt5 is mqtt5


async def test_quality_of_a_lost_link_reaches_the_consumer(broker):
    database = Database(analogs("A", 2))
    sender = publisher(broker.url, database)
    async with console(broker.url) as listener, running(sender):
        sender.changed([good(database, row, 5) for row in range(2)])
        await until(lambda: (listener.last("point/A/P1") or {}).get("value") == 5)
        sender.changed(database.mark("A", q.COMM_LOST, 1))
        await until(lambda: (listener.last("point/A/P1") or {}).get("quality") == "questionable")
        record = listener.last("state/A")["points"][0]
        assert (record["value"], record["flags"]) == (5, ["comm-lost"])
