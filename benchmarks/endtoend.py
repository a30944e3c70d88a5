"""What the whole gateway costs and how fast it is: field device -> worker -> core -> mosquitto -> subscriber.

    python -m benchmarks.endtoend [iec61850] [dnp3] [dnp3-bursts] [dnp3-events] [modbus] [start] [--seconds 10]
                                  [--retain both]

Each scenario starts a load generator, a mosquitto and the daemon as processes of their own, and prints one table:
values delivered and lost, latency, CPU of every process (from /proc, over the measured seconds), memory. It asserts
nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.brokers import Mosquitto

ROOT = Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PATIENCE_S = 60.0


class Load:
    """A load generator as a process: its ports, a start, and what it offered."""

    def __init__(self, process: asyncio.subprocess.Process, ports: Sequence[int]) -> None:
        self.process = process
        self.ports = list(ports)

    @classmethod
    async def start(cls, module: str, *words: object) -> Load:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"benchmarks.{module}", *map(str, words)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            limit=1 << 26,
        )
        return cls(process, (await cls._line(process))["ports"])

    @staticmethod
    async def _line(process: asyncio.subprocess.Process) -> dict[str, Any]:
        assert process.stdout is not None
        while True:
            line = await process.stdout.readline()
            if not line:
                raise RuntimeError(f"the load generator ended with status {await process.wait()}")
            if line.startswith(b"{"):
                found: dict[str, Any] = json.loads(line)
                return found

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")

    async def offered(self) -> dict[str, Any]:
        return await self._line(self.process)

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()


class Heard(NamedTuple):
    topic: str
    payload: bytes
    mono_ns: int
    utc_ns: int


class Listener:
    """A subscriber in a thread of its own (paho) that keeps messages with the time they came."""

    def __init__(self, port: int, *topics: str) -> None:
        self.heard: list[Heard] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = self._message
        self._client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in topics])
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _message(self, _: object, __: object, message: paho.MQTTMessage) -> None:
        self.heard.append(Heard(message.topic, message.payload, time.monotonic_ns(), time.time_ns()))

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Usage(NamedTuple):
    cpu_s: float
    rss_mib: float


def usage(pid: int) -> Usage:
    """CPU seconds and memory that is this process's own (resident less shared)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    size = Path(f"/proc/{pid}/statm").read_text().split()
    return Usage((int(fields[11]) + int(fields[12])) / TICKS, int(size[1]) * PAGE / 2**20)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def processes(gateway: int, broker: int) -> dict[str, int]:
    """The gateway's processes by what they are, and the broker."""
    found = {"core": gateway}
    for number, pid in enumerate(children(gateway), 1):
        found[f"worker {number}"] = pid
    found["(mosquitto)"] = broker
    return found


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class Record(msgspec.Struct):
    point: str
    value: Any
    t: str = ""
    quality: str = ""


class State(msgspec.Struct):
    t_recv: str = ""
    points: list[Record] = []
    events: list[Record] = []


class _Event(msgspec.Struct):
    events: list[dict[str, Any]] = []


_state = msgspec.json.Decoder(State)
_event = msgspec.json.Decoder(_Event)


def way(heard: Iterable[Heard]) -> str:
    """Where the time goes: from the device's own time to the gateway's receipt, and from there to the subscriber."""
    inward, outward = [], []
    for one in heard:
        if "/state/" in one.topic:
            message = _state.decode(one.payload)
            received = utc_ns(message.t_recv)
            outward.append((one.utc_ns - received) / 1e6)
            inward += [(received - utc_ns(record.t)) / 1e6 for record in message.points[-1:]]
    return (
        f"on the way: device to gateway p50 {percentile(inward, 0.5):.2f} p99 {percentile(inward, 0.99):.2f} ms, "
        f"gateway to subscriber p50 {percentile(outward, 0.5):.2f} p99 {percentile(outward, 0.99):.2f} ms"
    )


def utc_ns(text: str) -> int:
    whole, _, rest = text.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 1_000_000_000 + int(rest.ljust(9, "0")[:9])


def states(heard: Iterable[Heard]) -> Iterable[tuple[Heard, Record]]:
    for one in heard:
        if "/state/" in one.topic:
            for record in _state.decode(one.payload).points:
                yield one, record


def events(heard: Iterable[Heard]) -> Iterable[tuple[Heard, dict[str, Any]]]:
    for one in heard:
        if one.topic.endswith("/event"):
            for event in _event.decode(one.payload).events:
                if "point" in event and event.get("type", "point") == "point":
                    yield one, event


class Station:
    """mosquitto, the daemon and a subscriber around a configuration."""

    def __init__(
        self, folder: Path, devices: str, lists: dict[str, str], *, retain: bool, topics: Sequence[str]
    ) -> None:
        self.folder = folder
        self._devices = devices
        self._lists = lists
        self._retain = retain
        self._topics = topics
        self.broker = Mosquitto(folder / "broker")
        self.heard: list[Heard] = []

    async def __aenter__(self) -> Self:
        await self.broker.start()
        config = self.folder / "gatewayd.toml"
        text = f'[gateway]\nname = "bench"\nstate_dir = "state"\n[mqtt]\nurl = "{self.broker.url}"\n{self._devices}'
        if not self._retain:
            text = text.replace("[[device]]", "[[device]]\nretain_points = false")
        config.write_text(text)
        for name, rows in self._lists.items():
            (self.folder / name).write_text(rows)
        self.listener = Listener(self.broker.port, *self._topics)
        self.started = time.monotonic()
        with (self.folder / "gateway.log").open("wb") as log:
            self.gateway = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gatewayd", "run", "-c", str(config), "--log-level", "warning"),
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.listener.close()
        if self.gateway.returncode is None:
            self.gateway.terminate()
            await self.gateway.wait()
        log = (self.folder / "gateway.log").read_text()
        if log:
            print(f"  the gateway's log:\n{log[-2000:]}")
        await self.broker.kill()

    async def good(self, points: int) -> float:
        """Seconds from the start of the daemon until so many points were published as good."""
        good: set[str] = set()
        seen = 0
        while len(good) < points:
            if time.monotonic() - self.started > PATIENCE_S:
                raise RuntimeError(f"only {len(good)} of {points} points became good")
            await asyncio.sleep(0.02)
            heard = self.listener.heard[seen:]
            seen += len(heard)
            for _, record in states(heard):
                (good.add if record.quality == "good" else good.discard)(record.point)
        return time.monotonic() - self.started

    async def up(self, devices: int) -> None:
        """Wait until so many devices are up."""
        up: set[str] = set()
        while len(up) < devices:
            if time.monotonic() - self.started > PATIENCE_S:
                raise RuntimeError(f"only {len(up)} of {devices} devices are up")
            await asyncio.sleep(0.05)
            for one in list(self.listener.heard):
                if "/device/" in one.topic and json.loads(one.payload)["link"] == "up":
                    up.add(one.topic)

    async def measure(
        self, load: Load, seconds: float | None = None
    ) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
        """Let the load run; what it offered, and CPU share and memory of each process meanwhile.

        seconds: of a load that runs by itself until it is ended
        """
        await asyncio.sleep(1.0)  # the start is over
        self.listener.heard.clear()
        pids = processes(self.gateway.pid, self.broker.pid)
        before = {name: usage(pid) for name, pid in pids.items()}
        began = time.monotonic()
        if seconds is None:
            load.go()
            offered = await load.offered()
        else:
            await asyncio.sleep(seconds)
        took = time.monotonic() - began
        after = {name: usage(pid) for name, pid in pids.items()}
        await asyncio.sleep(1.0)  # what is on its way
        self.heard = list(self.listener.heard)
        if seconds is not None:
            load.process.terminate()
            offered = await load.offered()
        return offered, {
            name: ((after[name].cpu_s - before[name].cpu_s) / took * 100, after[name].rss_mib) for name in pids
        }


def report(title: str, lines: Sequence[str], cpu: dict[str, tuple[float, float]]) -> None:
    print(f"\n{title}")
    for line in lines:
        print(f"  {line}")
    ours = {name: share for name, share in cpu.items() if not name.startswith("(")}
    for name, (share, rss) in cpu.items():
        print(f"  {name:<12} {share:6.1f} % of a core  {rss:6.1f} MiB")
    total, memory = sum(share for share, _ in ours.values()), sum(rss for _, rss in ours.values())
    print(f"  {'gateway':<12} {total:6.1f} % of a core  {memory:6.1f} MiB (shared pages counted in each)", flush=True)


def delivery(offered: dict[str, Any], delivered: int) -> str:
    values, seconds = offered["values"], offered["seconds"]
    return (
        f"offered {values} values in {seconds:.1f} s; delivered {delivered} ({delivered / seconds:,.0f}/s), "
        f"lost {values - delivered}"
    )


def latency(values: Sequence[float]) -> str:
    if not values:
        return "latency: nothing measured"
    return (
        f"latency p50 {statistics.median(values):.2f} ms, p99 {percentile(values, 0.99):.2f} ms, "
        f"max {max(values):.2f} ms ({len(values)} values)"
    )


# --- scenarios ------------------------------------------------------------------------------------------------------


async def iec61850(folder: Path, seconds: float, *, retain: bool) -> None:
    """100-member reports at 100/s: 10,000 values/s; and 100 events/s from a buffered block."""
    load = await Load.start("load_iec61850", "--members", 100, "--rate", 100, "--seconds", seconds)
    rows = "".join(f"L/A{n},analog,LOADLD0/GGIO1.AnIn{n + 1}\n" for n in range(100))
    rows = f"point,kind,address\n{rows}L/IND,binary,LOADLD0/GGIO1.Ind1\n"
    device = (
        f'[[device]]\nname = "L"\nprotocol = "iec61850"\nhost = "127.0.0.1"\nport = {load.ports[0]}\npoints = "l.csv"\n'
        '[device.iec61850]\nreports = ["LOADLD0/LLN0.RP.urcbMX", "LOADLD0/LLN0.BR.brcbST"]\n'
    )
    try:
        async with Station(
            folder, device, {"l.csv": rows}, retain=retain, topics=["gw/bench/state/#", "gw/bench/event"]
        ) as s:
            await s.good(101)
            offered, cpu = await s.measure(load)
            ticks = offered["ticks"]
            seen: dict[tuple[str, int], float] = {}
            for one, record in states(s.heard):
                if record.point != "L/IND":
                    key = record.point, int(record.value)
                    if 1 <= key[1] <= len(ticks):
                        seen.setdefault(key, (one.mono_ns - ticks[key[1] - 1]) / 1e6)
            fired = [(one, event) for one, event in events(s.heard) if event["point"] == "L/IND"]
            lines = [
                delivery(offered, len(seen)),
                latency(list(seen.values())),
                way(s.heard),
                f"events offered {offered['events']}, delivered {len(fired)}",
                "events " + latency([(one.mono_ns - ticks[at]) / 1e6 for at, (one, _) in enumerate(fired)]),
            ]
            report(f"IEC 61850: reports of 100 members at 100/s ({_retained(retain)})", lines, cpu)
    finally:
        await load.end()


async def dnp3(folder: Path, seconds: float, *, retain: bool) -> None:
    """20 outstations of 500 analog inputs, 10,000 unsolicited events/s with time, as measurements."""
    await _dnp3(folder, seconds, retain=retain, event=False, tick_s=0.01)


async def dnp3_bursts(folder: Path, seconds: float, *, retain: bool) -> None:
    """The same, 50 events at a time, as outstations do that gather for a tenth of a second."""
    await _dnp3(folder, seconds, retain=retain, event=False, tick_s=0.1)


async def dnp3_events(folder: Path, seconds: float, *, retain: bool) -> None:
    """10,000 events/s, every one of them numbered and on disk before it is confirmed."""
    await _dnp3(folder, seconds, retain=retain, event=True, tick_s=0.01)


async def _dnp3(folder: Path, seconds: float, *, retain: bool, event: bool, tick_s: float) -> None:
    outstations, points, rate = 20, 500, 10_000
    words = ("--outstations", outstations, "--points", points, "--rate", rate, "--seconds", seconds)
    words += ("--tick", tick_s, "--linger", 60)
    load = await Load.start("load_dnp3", *words)
    rows = {
        f"d{d}.csv": "point,kind,address,event\n"
        + "".join(f"D{d}/A{n},analog,AI:{n},{'yes' if event else 'no'}\n" for n in range(points))
        for d in range(outstations)
    }
    config = "".join(
        f'[[device]]\nname = "D{d}"\nprotocol = "dnp3"\nhost = "127.0.0.1"\nport = {load.ports[d]}\n'
        f'points = "d{d}.csv"\n[device.dnp3]\n'
        for d in range(outstations)
    )
    topics = ["gw/bench/event"] if event else ["gw/bench/state/#"]
    try:
        async with Station(folder, config, rows, retain=retain, topics=[*topics, "gw/bench/device/+"]) as s:
            await s.up(outstations) if event else await s.good(outstations * points)
            offered, cpu = await s.measure(load)
            seen: dict[tuple[str, int], float] = {}
            repeated = 0
            told = ((one, record.point, record.value, record.t) for one, record in states(s.heard))
            numbered = ((one, record["point"], record["value"], record["t"]) for one, record in events(s.heard))
            for one, point, value, t in numbered if event else told:
                key = point.partition("/")[0], int(value)
                repeated += key in seen
                seen.setdefault(key, (one.utc_ns - utc_ns(t)) / 1e6)
            made = sum(offered["made"])
            lost = made - sum(
                (f"D{d}", n) in seen for d in range(outstations) for n in range(1, offered["made"][d] + 1)
            )
            lines = [
                f"offered {made} events in {offered['seconds']:.1f} s, confirmed {sum(offered['confirmed'])}",
                f"in {offered['fragments']} fragments ({offered['fragments'] / offered['seconds']:,.0f}/s)",
                f"at the outstations: {offered['overflowed']} lost to full buffers, {offered['retries']} retries",
                f"delivered {len(seen)} ({len(seen) / offered['seconds']:,.0f}/s), lost {lost}, twice {repeated}",
                "from the device's time (whole ms), " + latency(list(seen.values())),
            ]
            if not event:
                lines.append(way(s.heard))
            floor = await floor_dnp3(s.broker.port, words)
            lines.append(f"the afternoon script (benchmarks.floor_dnp3) on the same load: {floor:.1f} % of a core")
            how = "every event journaled" if event else f"as measurements, {_retained(retain)}"
            report(f"DNP3: {rate} events/s from {outstations} outstations ({how})", lines, cpu)
    finally:
        await load.end()


async def floor_dnp3(broker: int, words: Sequence[object]) -> float:
    """CPU of the floor, % of a core, against a load of its own."""
    load = await Load.start("load_dnp3", *words)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.floor_dnp3", str(broker), *map(str, load.ports)), cwd=ROOT
    )
    try:
        await asyncio.sleep(3.0)
        before, began = usage(process.pid), time.monotonic()
        load.go()
        await load.offered()
        return (usage(process.pid).cpu_s - before.cpu_s) / (time.monotonic() - began) * 100
    finally:
        process.kill()
        await process.wait()
        await load.end()


async def modbus(folder: Path, seconds: float, *, retain: bool) -> None:
    """20 devices of 500 registers, polled at 1 Hz, all changing: 10,000 values/s."""
    devices, registers = 20, 500
    load = await Load.start("load_modbus", "--devices", devices, "--registers", registers, "--seconds", 600)
    rows = {
        f"m{d}.csv": "point,kind,address\n" + "".join(f"M{d}/R{n},analog,HR:{n}:u16\n" for n in range(registers))
        for d in range(devices)
    }
    config = "".join(
        f'[[device]]\nname = "M{d}"\nprotocol = "modbus"\nhost = "127.0.0.1"\nport = {load.ports[d]}\n'
        f'points = "m{d}.csv"\n[device.modbus]\nunit = 1\npoll_s = 1.0\n'
        for d in range(devices)
    )
    try:
        async with Station(folder, config, rows, retain=retain, topics=["gw/bench/state/#"]) as s:
            await s.good(devices * registers)
            load_ports = load.ports
            offered, cpu = await s.measure(load, seconds)
            heard = s.heard
            values: dict[str, set[float]] = {}
            late: list[float] = []
            for one, record in states(heard):
                values.setdefault(record.point, set()).add(record.value)
                late.append((one.utc_ns - utc_ns(record.t)) / 1e6)
            # every register has another value each second: between two values heard none may be missing
            lost = sum(int(max(seen) - min(seen)) + 1 - len(seen) for seen in values.values() if max(seen) < 65535)
            delivered = sum(map(len, values.values()))
            asked = f"the devices were asked {offered.get('requests')} times"
            lines = [
                f"{delivered} values delivered ({delivered / seconds:,.0f}/s), lost {lost}; {asked}",
                "from the middle of the request, " + latency(late),
            ]
            floor = await floor_modbus(s.broker.port, registers, load_ports, seconds)
            lines.append(f"the afternoon script (benchmarks.floor_modbus) on the same load: {floor:.1f} % of a core")
            report(f"Modbus: {devices} devices x {registers} registers at 1 Hz ({_retained(retain)})", lines, cpu)
    finally:
        await load.end()


async def floor_modbus(broker: int, registers: int, ports: Sequence[int], seconds: float) -> float:
    """CPU of the floor, % of a core, against a load of its own on as many devices."""
    load = await Load.start("load_modbus", "--devices", len(ports), "--registers", registers, "--seconds", 600)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.floor_modbus", str(broker), str(registers), *map(str, load.ports)), cwd=ROOT
    )
    try:
        await asyncio.sleep(3.0)
        before = usage(process.pid)
        await asyncio.sleep(seconds)
        return (usage(process.pid).cpu_s - before.cpu_s) / seconds * 100
    finally:
        process.kill()
        await process.wait()
        await load.end()


async def start(folder: Path, _seconds: float, *, retain: bool) -> None:
    """10,000 points of 20 Modbus devices: from the start of the daemon until every one is published as good."""
    devices, registers = 20, 500
    load = await Load.start("load_modbus", "--devices", devices, "--registers", registers, "--seconds", 600)
    rows = {
        f"m{d}.csv": "point,kind,address\n" + "".join(f"M{d}/R{n},analog,HR:{n}:u16\n" for n in range(registers))
        for d in range(devices)
    }
    config = "".join(
        f'[[device]]\nname = "M{d}"\nprotocol = "modbus"\nhost = "127.0.0.1"\nport = {load.ports[d]}\n'
        f'points = "m{d}.csv"\n[device.modbus]\nunit = 1\n'
        for d in range(devices)
    )
    try:
        async with Station(folder, config, rows, retain=retain, topics=["gw/bench/state/#"]) as s:
            took = await s.good(devices * registers)
            print(
                f"\nstart: {devices * registers} points all good {took:.2f} s after the daemon was started", flush=True
            )
    finally:
        await load.end()


def _retained(retain: bool) -> str:
    return "with retained points" if retain else "without retained points"


SCENARIOS = {
    "iec61850": iec61850,
    "dnp3": dnp3,
    "dnp3-bursts": dnp3_bursts,
    "dnp3-events": dnp3_events,
    "modbus": modbus,
    "start": start,
}


ONCE = ("dnp3-events", "start")
"""Scenarios for which retained points make little difference."""


async def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endtoend")
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], default=[])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--retain", choices=("yes", "no", "both"), default="both", help="a retained topic a point")
    given = parser.parse_args(arguments)
    for name in given.scenarios or SCENARIOS:
        both = (True, False) if name not in ONCE else (True,)
        for retain in {"yes": (True,), "no": (False,), "both": both}[given.retain]:
            with tempfile.TemporaryDirectory(prefix="gatewayd-bench-") as folder:
                await SCENARIOS[name](Path(folder), given.seconds, retain=retain)


if __name__ == "__main__":
    asyncio.run(main())
