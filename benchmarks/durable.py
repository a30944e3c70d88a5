"""What "nothing lost" costs, every event: device -> worker -> journal on disk -> confirm -> mosquitto -> consumer.

    python -m benchmarks.durable [floor] [dnp3] [iec61850] [drain] [start] [--seconds 10] [--events 10000000]

Every event is numbered, on disk before it is confirmed, and counted at the consumer: lost and repeated ones are said.
`floor` is what the same work costs with nothing around it: plain SQLite commits of the same octets, and bare PUBLISHes
of the same messages. It asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.endtoend import PATIENCE_S, Load, Station, events, latency, percentile, report, states, utc_ns
from benchmarks.journal import filled
from gatewayd.mqtt import contract
from gatewayd.mqtt.client import Connection, Session
from gatewayd.points import quality as q
from gatewayd.points.database import PointState
from gatewayd.points.types import Kind, PointSpec
from gatewayd.store import schema
from tests.brokers import Mosquitto
from tests.mqtt.support import settings

OUTSTATIONS, POINTS, MEMBERS = 20, 500, 100
TOPICS = ("gw/bench/event", "gw/bench/device/+", "gw/bench/state/#")


def written(pid: int) -> int:
    """Octets the kernel was asked to bring to the disk for this process."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    return 0


def sample_event() -> bytes:
    """An event of a point as the gateway makes it."""
    spec = PointSpec(row=0, name="D12/MEAS/P", kind=Kind.ANALOG, device="D12", address="AI:0", unit="kW")
    now = time.time_ns() // 10**6 * 10**6
    return contract.point_event(spec, PointState(value=12345.0, quality=q.GOOD, time_ns=now, recv_ns=now + 700_000))


async def up(station: Station, devices: int) -> None:
    """Wait until so many devices are up."""
    ready: set[str] = set()
    while len(ready) < devices:
        if time.monotonic() - station.started > PATIENCE_S:
            raise RuntimeError(f"only {len(ready)} of {devices} devices are up")
        await asyncio.sleep(0.05)
        ready = {h.topic for h in list(station.listener.heard) if "/device/" in h.topic and b'"link":"up"' in h.payload}


async def handed_on(station: Station, expected: int, since: int = 0) -> None:
    """Wait until the consumer has so many events, or nothing has come for three seconds."""
    count, grew = 0, time.monotonic()
    while count < expected and time.monotonic() - grew < 3.0:
        await asyncio.sleep(0.1)
        heard = station.listener.heard[since:]
        since += len(heard)
        more = sum(1 for _ in events(heard))
        grew = time.monotonic() if more else grew
        count += more


# --- from the field to the consumer ---------------------------------------------------------------------------------


def dnp3_station(ports: Sequence[int]) -> tuple[str, dict[str, str]]:
    lists = {
        f"d{d}.csv": "point,kind,address,event\n" + "".join(f"D{d}/A{n},analog,AI:{n},yes\n" for n in range(POINTS))
        for d in range(OUTSTATIONS)
    }
    devices = "".join(
        f'[[device]]\nname = "D{d}"\nprotocol = "dnp3"\nhost = "127.0.0.1"\nport = {port}\npoints = "d{d}.csv"\n'
        "[device.dnp3]\n"
        for d, port in enumerate(ports)
    )
    return devices, lists


async def dnp3(folder: Path, rate: int, seconds: float) -> None:
    """20 outstations of 500 analog inputs; rate 0 is flat out: more than can be taken, what counts is what is."""
    words = ("--outstations", OUTSTATIONS, "--points", POINTS, "--seconds", seconds, "--buffer", 2_000_000)
    load = await Load.start("load_dnp3", *words, "--rate", rate or 50_000, "--drain", 60)
    try:
        async with Station(folder, *dnp3_station(load.ports), retain=False, topics=TOPICS[:2]) as s:
            await up(s, OUTSTATIONS)
            before = written(s.gateway.pid)
            offered, cpu = await s.measure(load)
            made = sum(offered["made"])
            await handed_on(s, made)
            octets = written(s.gateway.pid) - before
            seen: dict[tuple[str, int], float] = {}
            repeated = 0
            first, last = 0, 0
            for one, event in events(list(s.listener.heard)):
                key = event["point"].partition("/")[0], int(event["value"])
                repeated += key in seen
                seen.setdefault(key, (one.utc_ns - utc_ns(event["t"])) / 1e6)
                first, last = first or one.mono_ns, one.mono_ns
            lost = sum((f"D{d}", n) not in seen for d, count in enumerate(offered["made"]) for n in range(1, count + 1))
            lines = [
                (
                    f"made {made} in {offered['seconds']:.1f} s, confirmed after {offered['confirmed_after_s']:.1f} s "
                    f"({sum(offered['confirmed']) / offered['confirmed_after_s']:,.0f}/s), "
                    f"buffers of the devices overflowed {offered['overflowed']} times"
                ),
                (
                    f"delivered {len(seen)} ({len(seen) / ((last - first) / 1e9):,.0f}/s), "
                    f"lost {lost}, repeated {repeated}"
                ),
                *([f"from the device's time (whole ms), {latency(list(seen.values()))}"] if rate else []),
                f"written to disk: {octets / max(made, 1):,.0f} octets an event",
            ]
            report(f"DNP3, {f'{rate:,} events/s' if rate else 'flat out'}, {OUTSTATIONS} outstations", lines, cpu)
    finally:
        await load.end()


async def iec61850(folder: Path, rate: int, seconds: float) -> None:
    """One IED whose 100 measurements are in a buffered block, all changing at once; rate 0 is flat out."""
    ticks_a_second = (rate or 50_000) / MEMBERS
    words = ("--members", MEMBERS, "--rate", ticks_a_second, "--seconds", seconds, "--buffered")
    load = await Load.start("load_iec61850", *words)
    rows = "".join(f"L/A{n},analog,LOADLD0/GGIO1.AnIn{n + 1},yes\n" for n in range(MEMBERS))
    device = (
        f'[[device]]\nname = "L"\nprotocol = "iec61850"\nhost = "127.0.0.1"\nport = {load.ports[0]}\npoints = "l.csv"\n'
        '[device.iec61850]\nreports = ["LOADLD0/LLN0.BR.brcbMX01"]\n'
    )
    try:
        lists = {"l.csv": f"point,kind,address,event\n{rows}"}
        async with Station(folder, device, lists, retain=False, topics=TOPICS[:2]) as s:
            await up(s, 1)
            before = written(s.gateway.pid)
            offered, cpu = await s.measure(load)
            ticks, made = offered["ticks"], offered["values"]
            await handed_on(s, made)
            octets = written(s.gateway.pid) - before
            seen: dict[tuple[str, int], float] = {}
            repeated = 0
            first, last = 0, 0
            for one, event in events(list(s.listener.heard)):
                key = event["point"], int(event["value"])
                if 1 <= key[1] <= len(ticks):
                    repeated += key in seen
                    seen.setdefault(key, (one.mono_ns - ticks[key[1] - 1]) / 1e6)
                    first, last = first or one.mono_ns, one.mono_ns
            lines = [
                f"made {made} in {offered['seconds']:.1f} s ({made / offered['seconds']:,.0f}/s)",
                (
                    f"delivered {len(seen)} ({len(seen) / ((last - first) / 1e9):,.0f}/s), "
                    f"lost {made - len(seen)}, repeated {repeated}"
                ),
                *([latency(list(seen.values()))] if rate else []),
                f"written to disk: {octets / max(made, 1):,.0f} octets an event",
            ]
            report(f"IEC 61850, {f'{rate:,} events/s' if rate else 'flat out'}, reports of {MEMBERS}", lines, cpu)
    finally:
        await load.end()


# --- after an outage ------------------------------------------------------------------------------------------------


async def drain(folder: Path, count: int = 500_000) -> None:
    """A journal with events that were never handed over; how fast they go out, and how soon the state is current."""
    (folder / "state").mkdir()
    await filled(folder / "state", count, sample_event())
    load = await Load.start("load_modbus", "--devices", 1, "--registers", 100, "--seconds", 600)
    device = (
        f'[[device]]\nname = "M"\nprotocol = "modbus"\nhost = "127.0.0.1"\nport = {load.ports[0]}\npoints = "m.csv"\n'
        "[device.modbus]\nunit = 1\npoll_s = 1.0\n"
    )
    rows = "point,kind,address\n" + "".join(f"M/R{n},analog,HR:{n}:u16\n" for n in range(100))
    try:
        async with Station(folder, device, {"m.csv": rows}, retain=False, topics=TOPICS) as s:
            current_s = await s.good(100)
            await handed_on(s, count)
            heard = list(s.listener.heard)
            arrived = [one.mono_ns for one, _ in events(heard)]
            order = [event["seq"] for _, event in events(heard) if event["seq"] <= count]
            took = (arrived[-1] - arrived[0]) / 1e9
            fresh = [(one.utc_ns - utc_ns(r.t)) / 1e6 for one, r in states(heard) if r.quality == "good"]
            print(
                f"\nbacklog of {count:,} events: {len(arrived)} delivered in {took:.1f} s "
                f"({len(arrived) / took:,.0f}/s), "
                f"{'in order' if order == sorted(order) else 'OUT OF ORDER'}, {count - len(set(order))} lost\n"
                f"  state was current {current_s:.2f} s after the start; meanwhile it was "
                f"p50 {percentile(fresh, 0.5):.1f} p99 {percentile(fresh, 0.99):.1f} ms old",
                flush=True,
            )
    finally:
        await load.end()


async def start(folder: Path, count: int) -> None:
    """The daemon with a journal of ten million events: from exec to its status on the broker."""
    for n in (0, count):
        state = folder / f"{n}" / "state"
        state.mkdir(parents=True)
        if n:
            await filled(state, n, sample_event(), handed_over=True)
        load = await Load.start("load_modbus", "--devices", 1, "--registers", 1, "--seconds", 600)
        device = (
            f'[[device]]\nname = "M"\nprotocol = "modbus"\nhost = "127.0.0.1"\nport = {load.ports[0]}\n'
            'points = "m.csv"\n[device.modbus]\nunit = 1\n'
        )
        try:
            rows = {"m.csv": "point,kind,address\nM/R0,analog,HR:0:u16\n"}
            async with Station(folder / f"{n}", device, rows, retain=False, topics=["gw/bench/status"]) as s:
                while not any(b'"state":"online"' in one.payload for one in list(s.listener.heard)):
                    if time.monotonic() - s.started > PATIENCE_S:
                        raise RuntimeError("the daemon does not come online")
                    await asyncio.sleep(0.005)
                took = time.monotonic() - s.started
            path = state / schema.FILE
            print(
                f"\nstart with {n:,} events ({path.stat().st_size / 1e6:,.0f} MB): online after {took:.2f} s",
                flush=True,
            )
        finally:
            await load.end()
        if n:
            path.unlink()


# --- with nothing around it -----------------------------------------------------------------------------------------


def sqlite_floor(folder: Path, group: int, seconds: float = 3.0) -> None:
    """Commits of `group` events of the gateway's size, WAL, fsync: nothing else."""
    db = sqlite3.connect(folder / "floor.db", isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={schema.WAL_LIMIT // schema.PAGE}"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE IF NOT EXISTS e(seq INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
    payload = sample_event()
    took: list[float] = []
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        at = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO e(payload) VALUES(?)", [(payload,)] * group)
        db.execute("COMMIT")
        took.append((time.perf_counter() - at) * 1e3)
        count += group
    rate = count / (time.perf_counter() - began)
    db.close()
    print(
        f"  plain SQLite, commits of {group:>4}: {rate:>9,.0f} events/s, "
        f"p50 {percentile(took, 0.5):.2f} p99 {percentile(took, 0.99):.2f} ms"
    )


async def publish_floor(folder: Path, group: int, seconds: float = 3.0) -> None:
    """Messages of `group` events over the gateway's own session, nothing read, nothing marked."""
    event = sample_event()
    numbered = [type("E", (), {"seq": n, "recorded_ns": time.time_ns(), "payload": event})() for n in range(group)]
    payload = contract.event_messages("e", numbered, time.time_ns())[0].payload
    acknowledged, finished = 0, asyncio.Event()

    def done(_: int) -> None:
        nonlocal acknowledged
        acknowledged += 1

    async def serve(session: Session) -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            await session.wait_room()
            session.send("gw/bench/event", payload, done)
        rate = acknowledged / (time.perf_counter() - began)
        print(f"  bare PUBLISH, messages of {group:>3}: {rate * group:>9,.0f} events/s, {rate:,.0f} messages/s")
        finished.set()

    async with Mosquitto(folder / f"floor{group}") as broker:
        task = asyncio.create_task(Connection(settings(broker.url), client_id="floor").run(serve))
        await finished.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def floor(folder: Path) -> None:
    print(f"floor: an event is {len(sample_event())} octets")
    for group in (1, 10, 150):
        sqlite_floor(folder, group)
    for group in (1, 10, 150):
        await publish_floor(folder, group)


async def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durable")
    names = ["floor", "dnp3", "iec61850", "drain", "start"]
    parser.add_argument("scenarios", nargs="*", choices=[*names, []], default=[])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rates", type=int, nargs="*", default=[1_000, 10_000, 20_000, 0], help="0: flat out")
    parser.add_argument("--events", type=int, default=10_000_000, help="in the journal of `start`")
    given = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, others' load {os.getloadavg()[0]:.1f} at the start (1 is one busy process)")
    runs: list[Callable[[Path], Awaitable[None]]] = []
    for name in given.scenarios or names:
        if name in ("dnp3", "iec61850"):
            one = {"dnp3": dnp3, "iec61850": iec61850}[name]
            runs += [lambda folder, one=one, rate=rate: one(folder, rate, given.seconds) for rate in given.rates]  # type: ignore[misc]
        else:
            runs.append({"floor": floor, "drain": drain, "start": lambda f: start(f, given.events)}[name])
    for run in runs:
        with tempfile.TemporaryDirectory(prefix="gatewayd-durable-") as folder:
            await run(Path(folder))


if __name__ == "__main__":
    asyncio.run(main())
