"""The faults. Each strikes while the devices make events, and says which gap records it must have caused.

`hard` is 1 for the short form and more for longer ones: how often and how long.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from gatewayd import failpoint
from tests.chaos.oracle import Expected
from tests.chaos.simulated import now_ms
from tests.chaos.station import CAPACITIES, DEVICES, IED, RTU1, RTU2, Station, small_disk
from tests.e2e.station import children

RESTART, OVERFLOW = "device restart (IIN1.7)", "overflow"
FAIL_POINTS = (
    "journal-before-commit",
    "journal-after-commit",
    "worker-events-sent",
    "worker-events-committed",
    "events-published",
    "events-acknowledged",
)
LONG_HOLD_S = 45.0
"""Longer than the disk may take before the gateway ends its connections with the devices."""
ON_ITS_WAY_MS = 2000
"""What a device without a lasting buffer made so shortly before it died may not have got out."""


class Skip(Exception):
    """The fault cannot be had on this machine; the text says why."""


Records = list[Expected]


class Fault(NamedTuple):
    name: str
    what: str
    strike: Callable[[Station, int], Awaitable[Records]]
    drain_s: float = 60.0


async def kill_gateway(station: Station, hard: int) -> Records:
    for _ in range(2 * hard):
        await station.pause(0.3, 4.0)
        await station.restart_gateway()
    return []


async def kill_workers(station: Station, hard: int) -> Records:
    """One of each protocol in a life of the gateway: a device that ends its worker alone is left out for a while."""
    for _ in range(hard):
        await station.flows()
        for protocol in ("dnp3", "iec61850"):
            await station.pause(0.2, 1.0)
            station.kill(station.gateway.workers()[protocol])
        await station.flows()
        await station.restart_gateway()
    return []


async def fail_points(station: Station, hard: int) -> Records:
    for _ in range(hard):
        for point in FAIL_POINTS:
            await station.kill_gateway()
            await _until_killed_at(station, f"{point}:{station.chance.randint(1, 40)}")
    await station.restart_gateway()
    return []


async def _until_killed_at(station: Station, place: str) -> None:
    """Start the gateway; wait until it, or one of its workers, has killed itself there."""
    gateway = station.gateway
    logged = len(gateway.log)
    await gateway.start(**{failpoint.VARIABLE: place})
    await station.until(lambda: gateway.ended or "a worker ended" in gateway.log[logged:], f"{place} being passed")
    station.kills += 1


async def kill_broker(station: Station, hard: int) -> Records:
    for _ in range(hard):
        await station.pause(0.2, 3.0)
        await station.kill_broker()
    return []


async def forgetful_broker(station: Station, hard: int) -> Records:
    for _ in range(hard):
        await station.pause(0.2, 3.0)
        await station.kill_broker(forget=True)
    return []


async def broker_away(station: Station, hard: int) -> Records:
    await station.broker.stop()
    await asyncio.sleep(3.0 * hard)
    await station.broker.start()
    return []


async def kill_devices(station: Station, hard: int) -> Records:
    """Devices whose buffer survives: every event must arrive, and the restart must be told."""
    for _ in range(hard):
        for name in (RTU1, RTU2):
            await station.flows(name)
            await station.kill_device(name, keep=True)
            await station.flows(name)
    return [Expected(name, RESTART, hard, hard) for name in (RTU1, RTU2)]


async def forgetful_devices(station: Station, hard: int) -> Records:
    """Devices that lose their buffer: what was on its way may be gone, and a gap record says so."""
    for _ in range(hard):
        for name in DEVICES:
            await station.flows(name)
            killed = now_ms()
            await station.kill_device(name)
            await station.flows(name)
            station.excuse(name, killed - ON_ITS_WAY_MS, killed + 100)
    return [Expected(RTU1, RESTART, hard, hard), Expected(RTU2, RESTART, hard, hard), Expected(IED, "", hard, hard)]


async def partitions(station: Station, hard: int) -> Records:
    lines = [station.lines[name] for name in DEVICES] + [station.to_broker, station.to_consumer]
    station.chance.shuffle(lines)
    for _ in range(hard):
        for line in lines:
            match station.chance.randrange(5):
                case 0:
                    line.cut()
                case 1:
                    line.cut(up=False)
                case 2:
                    line.cut(down=False)
                case 3:
                    line.half_open()
                case _:
                    line.reset()
            await station.pause(0.1, 3.0)
            if station.chance.random() < 0.5:
                line.heal()
        await station.pause(1.0, 5.0)
        station.heal()
        await station.flows()
    return []


async def bad_lines(station: Station, hard: int) -> Records:
    for line in station.proxies:
        line.delay = (0.1, 0.3)
    await asyncio.sleep(4.0 * hard)
    station.heal()
    station.to_broker.octets_s = 8000.0
    await asyncio.sleep(4.0 * hard)
    station.heal()
    return []


async def disk_full(station: Station, hard: int) -> Records:
    """The journal's disk is full, and has room again. The events are held at the devices meanwhile."""
    await station.gateway.stop()
    used = sum(path.stat().st_size for path in station.state.rglob("*") if path.is_file())
    felt = 0
    try:
        with small_disk(station.state, used // 2**20 + 24):
            await station.gateway.start()
            try:
                for left in reversed(range(hard)):  # the longer first: later ones may find room in the file
                    await station.flows()
                    station.load(0.5 if left else 1.0)  # what the devices' buffers hold for so long
                    felt += await _fill_disk(station, LONG_HOLD_S if left else station.chance.uniform(3.0, 5.0))
                    station.load()
                    await station.flows()
            finally:
                await station.gateway.stop()
    except PermissionError as error:
        raise Skip(f"no tmpfs: {error}") from error
    finally:
        if station.gateway.ended:
            await station.gateway.start()
    if not felt:
        raise RuntimeError("the full disk was not felt")
    return [Expected("journal", "journal-disk-full", felt, felt)]


async def _fill_disk(station: Station, seconds: float) -> bool:
    """Take all room until the journal feels it and so long after that; what it gives up or frees is taken as well.

    Returns whether it was felt: what the files had room for before may last longer than we wait.
    """
    logged = len(station.gateway.log)
    filler = station.state / "filler"
    until = time.monotonic() + 60.0
    felt = False
    with filler.open("wb", buffering=0) as file:
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                while os.statvfs(station.state).f_bavail:
                    file.write(b"\0" * 4096)
            await asyncio.sleep(0.02)
            if not felt and "the journal cannot write" in station.gateway.log[logged:]:
                felt, until = True, time.monotonic() + seconds
    filler.unlink()
    return felt


async def failing_fsync(station: Station, hard: int) -> Records:
    """fsync of the journal fails with EIO, as a dying disk's does; healed while it runs, and over a kill."""
    trigger = station.folder / "fsync-fails"
    environment = await _shim(station, CHAOS_FSYNC_FAILS=str(trigger), CHAOS_FSYNC_UNDER=str(station.state))
    gateway = station.gateway
    await gateway.stop()
    await gateway.start(**environment)
    for turn in range(hard):
        await station.flows()
        logged = len(gateway.log)
        trigger.touch()
        await station.until(lambda at=logged: "the journal cannot write" in gateway.log[at:], "the failed fsync")
        await station.pause(2.0, 4.0)
        if turn % 2:
            await station.kill_gateway()
            trigger.unlink()
            await gateway.start(**environment)
        else:
            trigger.unlink()
        await station.flows()
    await station.restart_gateway()
    return [Expected("journal", "journal-disk-error", hard, hard)]


async def _shim(station: Station, **environment: str) -> dict[str, str]:
    """The environment of a gateway with shim.c loaded. Raises Skip."""
    library = station.folder / "shim.so"
    if not library.exists():
        await asyncio.to_thread(_compile, library)
    return {"LD_PRELOAD": str(library), **environment}


def _compile(library: Path) -> None:
    gcc = shutil.which("gcc")
    if gcc is None:
        raise Skip("no gcc")
    source = Path(__file__).with_name("shim.c")
    subprocess.run([gcc, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)


async def clock_steps(station: Station, hard: int) -> Records:
    """The gateway's clock is set: an hour, a day, back and forth. The devices' clocks stay right."""
    clock = station.folder / "clock"
    hour = 3600 * 10**9

    def put(offset_ns: int) -> None:
        with clock.open("r+b" if clock.exists() else "wb") as file:
            file.write(struct.pack("q", offset_ns))

    put(0)
    environment = await _shim(station, CHAOS_CLOCK=str(clock))
    gateway = station.gateway
    await gateway.stop()
    await gateway.start(**environment)
    for _ in range(hard):
        for step in (-hour, hour, 24 * hour, 0):
            await station.flows()
            put(step)
            await station.pause(0.5, 1.5)
    await station.flows()
    put(-hour)  # and a start with a clock that is behind
    await station.kill_gateway()
    await gateway.start(**environment)
    await station.flows()
    await gateway.stop()
    await gateway.start()
    return []


async def slow_consumer(station: Station, hard: int) -> Records:
    """The consumer's line carries less than comes, so the broker drops what it cannot queue; the consumer is killed."""
    station.to_consumer.octets_s = 2000.0
    await asyncio.sleep(4.0 * hard)
    station.heal()
    for _ in range(hard):
        await station.pause(0.2, 1.0)
        await station.consumer.kill()
        station.kills += 1
        await station.pause(0.2, 1.0)
        await station.consumer.start()
    return []


async def storm(station: Station, hard: int) -> Records:
    """Everything happens at once: first what the buffers hold, then more while the line is cut."""
    for name in DEVICES:
        station.simulators[name].tell(burst=min(CAPACITIES[name] // 2, 3000))
    await station.flows()
    expected = []
    for name in DEVICES:
        station.lines[name].cut()
        if name == IED:  # an IED with an association sends, it does not buffer
            station.lines[name].reset()
        first = station.newest(name) + 1
        station.simulators[name].tell(burst=CAPACITIES[name] + 500)
        await station.until(
            lambda name=name, first=first: station.newest(name) >= first + CAPACITIES[name] + 400, "the storm"
        )
        # what was on its way when the line was cut may be dropped as well
        count = station.excuse_dropped(name, first - 100)
        if not count:
            raise RuntimeError(f"the buffer of {name} did not overflow")
        await station.pause(0.5, 4.0)
        station.lines[name].heal()
        await station.flows(name)
        station.excuse_dropped(name, first - 100)
        expected.append(Expected(name, OVERFLOW if name != IED else "", 1, 1))
    return expected


async def stopped(station: Station, hard: int) -> Records:
    """SIGSTOP for a while: gateway, a worker, broker, a device, consumer."""
    for _ in range(hard):
        victims = [
            station.gateway.pid,
            station.chance.choice(children(station.gateway.pid)),
            station.broker.pid,
            station.simulators[station.chance.choice(DEVICES)].pid,
            station.consumer.pid,
        ]
        for pid in victims:
            station.freeze(pid)
            await station.pause(0.5, 2.0 + 2.0 * hard)
            station.thaw()
        await station.flows()
    return []


async def restarts(station: Station, hard: int) -> Records:
    """What an upgrade does: SIGTERM and a start; and SIGHUP, while events come."""
    for _ in range(hard):
        await station.pause(0.3, 2.0)
        await station.gateway.stop()
        await station.gateway.start()
        await station.flows()
        station.gateway.signal(signal.SIGHUP)
    return []


async def torn_journal(station: Station, hard: int) -> Records:
    """The WAL is cut or damaged behind a killed gateway: what is gone is told by number, and only that is gone."""
    torn = 0
    for turn in range(2 * hard):
        await station.flows()
        await station.pause(0.3, 2.0)
        await station.kill_gateway()
        torn += _tear(station.state / "journal.db-wal", station.chance.randint(1, 30), cut=bool(turn % 2))
        await station.gateway.start()
        await station.flows()
    if not torn:
        raise RuntimeError("there was never a WAL to tear")
    # a commit of marks alone that is gone takes no number with it
    return [Expected("journal", "journal-torn", 0, torn)]


def _tear(wal: Path, frames: int, *, cut: bool) -> bool:
    """Cut off or damage the last frames of a WAL that count (older ones may follow). False where there are none."""
    octets = bytearray(wal.read_bytes()) if wal.exists() else bytearray()
    if len(octets) < 32:
        return False
    size = 24 + int.from_bytes(octets[8:12], "big")
    live = 0
    while octets[32 + live * size + 8 : 32 + live * size + 16] == octets[16:24] and 32 + (live + 1) * size <= len(
        octets
    ):
        live += 1
    if not live:
        return False
    place = 32 + max(0, live - frames) * size
    if cut:
        del octets[place:]
    else:
        octets[place + 100] ^= 0x40
    wal.write_bytes(octets)
    return True


FAULTS = (
    Fault("E1", "kill -9 of the gateway", kill_gateway),
    Fault("E1w", "kill -9 of workers", kill_workers),
    Fault("E2", "kill -9 at named places", fail_points, 90.0),
    Fault("E3", "kill -9 of the broker", kill_broker),
    Fault("E4", "the broker forgets everything", forgetful_broker),
    Fault("E5", "the broker is away", broker_away),
    Fault("E6", "kill -9 of devices, buffers survive", kill_devices),
    Fault("E6l", "kill -9 of devices, buffers lost", forgetful_devices),
    Fault("E7", "partitions, resets, half-open", partitions, 90.0),
    Fault("E8", "slow and uneven lines", bad_lines, 90.0),
    Fault("E9", "the journal's disk is full", disk_full),
    Fault("E10", "fsync fails", failing_fsync),
    Fault("E11", "the gateway's clock is set", clock_steps),
    Fault("E12", "slow consumer, killed", slow_consumer, 120.0),
    Fault("E13", "event storm, buffers overflow", storm, 90.0),
    Fault("E14", "SIGSTOP of everything", stopped, 90.0),
    Fault("E15", "restart and reload", restarts),
    Fault("E16", "torn journal", torn_journal, 90.0),
)
BY_NAME = {fault.name: fault for fault in FAULTS}
