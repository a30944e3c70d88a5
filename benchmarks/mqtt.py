"""What publishing costs: messages a second and CPU of this process for each record, over loopback to a mosquitto.

    .venv/bin/python -m benchmarks.mqtt [--seconds 5]

Prints a table; asserts nothing. The journal is in memory: the disk is measured elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from gatewayd.mqtt import contract
from gatewayd.mqtt.client import Connection, Session
from gatewayd.mqtt.publisher import Publisher
from gatewayd.points.database import Database
from tests.brokers import Mosquitto, until
from tests.mqtt.support import MemoryJournal, analogs, publisher, running, settings

PATIENCE_S = 300.0


def line(what: str, count: int, unit: str, messages: int, seconds: float, cpu: float) -> None:
    print(
        f"{what:<52} {count / seconds:>10,.0f} {unit}/s {messages / seconds:>8,.0f} messages/s"
        f" {cpu / count * 1e6:>7.2f} us/{unit} {cpu / seconds * 100:>5.1f} % of a core"
    )


@contextlib.asynccontextmanager
async def measured(what: str, unit: str, read: Callable[[], tuple[int, int]]) -> AsyncIterator[None]:
    """read() gives (units, messages) so far."""
    before, started, cpu = read(), time.perf_counter(), time.process_time()
    yield
    after = read()
    seconds, used = time.perf_counter() - started, time.process_time() - cpu
    line(what, after[0] - before[0], unit, after[1] - before[1], seconds, used)


def station(devices: int, points: int) -> Database:
    specs = []
    for device in range(devices):
        specs += analogs(f"D{device}", points, start=len(specs))
    return Database(specs)


def quiet(sender: Publisher) -> bool:
    return not any(group.dirty or group.in_flight for group in sender._points.groups)  # noqa: SLF001


async def settled(sender: Publisher) -> None:
    await until(lambda: sender.connection.connected and quiet(sender), "the first state", PATIENCE_S)


def turn(database: Database, rows: range, value: float) -> None:
    now = time.time_ns()
    for row in rows:
        state = database.states[row]
        state.value, state.quality, state.time_ns, state.recv_ns = value, 0, now, now


async def polled(url: str, seconds: float, *, retain: bool) -> None:
    """20 devices of 500 points, all changing once a second, spread over the second: 10,000 values/s."""
    database = station(20, 500)
    sender = publisher(url, database, retain_rate=500)
    if not retain:
        sender.configure(database, [info._replace(retain_points=False) for info in sender._devices.values()], "x")  # noqa: SLF001
    async with running(sender):
        await settled(sender)
        points = sender._points  # noqa: SLF001
        what = f"20 devices x 500 points at 1 Hz, {'with' if retain else 'without'} retained points"
        loop = asyncio.get_running_loop()
        async with measured(what, "record", lambda: (points.state_records, points.state_messages)):
            at = loop.time()
            for n in range(int(seconds * 20)):
                rows = range(n % 20 * 500, n % 20 * 500 + 500)
                turn(database, rows, n * 1.1)
                sender.changed(rows)
                at += 0.05
                await asyncio.sleep(max(0.0, at - loop.time()))
            await until(lambda: quiet(sender), "the last state", PATIENCE_S)


async def flooded(url: str, seconds: float, batch: int) -> None:
    """Batches as fast as the loop takes them: what gathers is sent once."""
    database = station(20, 500)
    sender = publisher(url, database, retain_rate=1)
    async with running(sender):
        await settled(sender)
        points = sender._points  # noqa: SLF001
        async with measured(
            f"state, batches of {batch} as fast as they go",
            "record",
            lambda: (points.state_records, points.state_messages),
        ):
            end = time.perf_counter() + seconds
            n = 0
            while time.perf_counter() < end:
                start = n * batch % (10_000 - batch)
                rows = range(start, start + batch)
                turn(database, rows, n * 1.1)
                sender.changed(rows)
                n += 1
                await asyncio.sleep(0)
            await until(lambda: quiet(sender), "the last state", PATIENCE_S)


async def backlog(url: str, count: int) -> None:
    journal = MemoryJournal()
    [spec] = analogs("D", 1)
    database = Database([spec])
    state = database.states[0]
    state.value, state.quality, state.time_ns, state.recv_ns = 1.5, 0, time.time_ns(), time.time_ns()
    journal.add(*([contract.point_event(spec, state)] * count))
    sender = publisher(url, database, journal, backlog_rate=10_000_000)
    events = sender._events  # noqa: SLF001
    what = f"a backlog of {count:,} events"
    async with measured(what, "event", lambda: (events.events_sent, events.event_messages)), running(sender):
        await until(lambda: journal.handed_over == count, "the backlog", PATIENCE_S)


async def live_events(url: str, seconds: float, rate: int, batch: int) -> None:
    journal = MemoryJournal()
    [spec] = analogs("D", 1)
    database = Database([spec])
    sender = publisher(url, database, journal)
    events = sender._events  # noqa: SLF001
    state = database.states[0]
    loop = asyncio.get_running_loop()
    async with running(sender):
        await settled(sender)
        what = f"{rate:,} events/s in commits of {batch}, payloads made here"
        async with measured(what, "event", lambda: (events.events_sent, events.event_messages)):
            at = loop.time()
            for n in range(int(seconds * rate / batch)):
                now = time.time_ns()
                payloads = []
                for m in range(batch):
                    state.value, state.quality, state.time_ns, state.recv_ns = (
                        n + m,
                        0,
                        now // 10**6 * 10**6 + m * 10**6,
                        now,
                    )
                    payloads.append(contract.point_event(spec, state))
                journal.add(*payloads)
                at += batch / rate
                await asyncio.sleep(max(0.0, at - loop.time()))
            await until(lambda: journal.handed_over == journal.newest, "the last event", PATIENCE_S)


async def retained(url: str, count: int) -> None:
    database = station(20, count // 20)
    turn(database, range(count), 1.5)
    sender = publisher(url, database, retain_rate=1_000_000)
    points = sender._points  # noqa: SLF001
    what = f"{count:,} retained points, first pass"
    async with measured(what, "record", lambda: (points.retained_records,) * 2), running(sender):
        await until(lambda: points.retained_records >= count and quiet(sender), "all points", PATIENCE_S)


async def bare(url: str, count: int) -> None:
    """Session.send alone: 200 octets, QoS 1."""
    acknowledged = 0

    def done(_: int) -> None:
        nonlocal acknowledged
        acknowledged += 1

    finished = asyncio.Event()

    async def serve(session: Session) -> None:
        async with measured("Session.send, 200 octets, QoS 1", "message", lambda: (acknowledged, acknowledged)):
            for n in range(count):
                await session.wait_room()
                session.send(f"bench/{n % 1000}", b"x" * 200, done)
            await until(lambda: acknowledged == count, "all PUBACKs", PATIENCE_S)
        finished.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Connection(settings(url), client_id="bench").run(serve))
    await finished.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def main(seconds: float) -> None:
    runs: list[Callable[[str], Awaitable[None]]] = [
        lambda url: bare(url, 20_000),
        lambda url: polled(url, seconds, retain=False),
        lambda url: polled(url, seconds, retain=True),
        lambda url: flooded(url, seconds, 10),
        lambda url: flooded(url, seconds, 100),
        lambda url: live_events(url, seconds, 10_000, 50),
        lambda url: backlog(url, 100_000),
        lambda url: retained(url, 10_000),
    ]
    for run in runs:
        with tempfile.TemporaryDirectory() as folder:
            async with Mosquitto(Path(folder)) as broker:
                await run(broker.url)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the timed loads run")
    asyncio.run(main(parser.parse_args().seconds))
