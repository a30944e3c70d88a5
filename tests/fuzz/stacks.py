"""Every protocol stack in its real worker, besieged by peers that lie, with good devices beside them.

What is asked of them: the good devices' data goes on; memory is bounded; no worker hangs or crashes;
and once the peers are honest again every device comes back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

from gatewayd.points.types import Batch, Cursor, Kind, Link, PointSpec
from gatewayd.protocols.child import Child
from gatewayd.protocols.device import Device
from gatewayd.protocols.fleet import Fleet
from gatewayd.protocols.host import Core
from simulators.iec61850_bay import Iec61850Bay
from simulators.modbus_meter import ModbusMeter
from simulators.model import Feeder
from tests.fuzz import liars
from tests.fuzz.liars import Liar
from tests.protocols.modbus.peers import Peer
from tests.protocols.support import FakeCore

COMMAND = (sys.executable, str(Path(__file__).with_name("quick_worker.py")))
HOSTILE = 8
"""Lying devices at once."""
GOOD = ("GOOD-A", "GOOD-B")
"""One in the same worker as the liars, one of another protocol."""
LATE_S = 2.0
"""A good device's data is never later than this (docs/limits.md)."""
MOST_MIB = 64.0
"""A worker's memory may grow by so much while it is lied to."""
BACK_S = 30.0


class Report(NamedTuple):
    """What became of a siege."""

    connections: int
    told: Counter[str]
    restarts: int
    late_s: float
    grown_mib: float
    finding: str

    def __str__(self) -> str:
        lies = sum(self.told.values())
        return (
            f"{self.connections} connections, {lies} lies, {self.restarts} restarts,"
            f" others late by {self.late_s:.2f} s at most, memory {self.grown_mib:+.1f} MiB"
        )


class Bystanders(FakeCore):
    """A core that keeps nothing but when it last heard of whom, and how late that was at most."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, float] = {}
        self.late_s: dict[str, float] = {}

    def state(self, batch: Batch) -> None:
        now = time.monotonic()
        before = self.heard.get(batch.device, now)
        self.heard[batch.device] = now
        self.late_s[batch.device] = max(self.late_s.get(batch.device, 0.0), now - before)

    def take(self, batch: Batch, cursor: Cursor | None) -> asyncio.Future[int] | None:
        del cursor
        self.state(batch)
        return None

    def device(self, name: str, link: Link, why: str = "") -> None:
        self.links[name] = [(link, why)]

    async def cursors(self, device: str) -> list[Cursor]:
        del device
        return []

    def begin(self) -> None:
        """Judge lateness from now on."""
        self.late_s.clear()

    def lateness(self) -> dict[str, float]:
        """How late each good device's data was at most, the present silence too."""
        now = time.monotonic()
        return {name: max(self.late_s.get(name, 0.0), now - self.heard[name]) for name in GOOD}


def _iec61850(name: str, port: int, row: int) -> Device:
    ld = "BAY1LD0"
    addresses = [("XCBR1.Pos", Kind.DOUBLE), ("MMXU1.TotW", Kind.ANALOG), ("GGIO1.Ind1", Kind.BINARY)]
    points = tuple(
        PointSpec(row=row + at, name=f"{name}/{at}", kind=kind, device=name, address=f"{ld}/{address}", event=False)
        for at, (address, kind) in enumerate(addresses)
    )
    options = {
        "reports": [f"{ld}/LLN0.BR.brcbST", f"{ld}/LLN0.RP.urcbMX"],
        "timeout_s": 0.15,
        "connect_timeout_s": 0.6,
        "poll_s": 0.2,
        "keepalive_s": 0.5,
        "integrity_s": 1,
    }
    if name.startswith("GOOD"):
        options |= {"reports": [], "timeout_s": 3.0, "connect_timeout_s": 5.0}  # polled: heard of every 0.2 s
    return Device(name=name, protocol="iec61850", host="127.0.0.1", port=port, options=options, points=points)


def _modbus(name: str, port: int, row: int, framer: str = "tcp") -> Device:
    addresses = ["IR:0:f32", "HR:0:u16", "HR:9:str4", "DI:0"]
    kinds = [Kind.ANALOG, Kind.ANALOG, Kind.STRING, Kind.BINARY]
    points = tuple(
        PointSpec(row=row + at, name=f"{name}/{at}", kind=kind, device=name, address=address, event=False)
        for at, (address, kind) in enumerate(zip(addresses, kinds, strict=True))
    )
    options = {"poll_s": 0.05, "timeout_s": 0.2, "connect_timeout_s": 1.0, "read_retries": 0, "unit": 1}
    if name.startswith("GOOD"):
        points = points[:1]
        options |= {"poll_s": 0.2, "timeout_s": 3.0, "connect_timeout_s": 5.0, "read_retries": 2}
    return Device(
        name=name, protocol="modbus", host="127.0.0.1", port=port, framer=framer, options=options, points=points
    )


class Siege:
    """Liars in front of real devices, the fleet that serves them, and two good devices."""

    def __init__(self, core: Bystanders, fleet: Fleet, liars_: list[Liar], worker: str) -> None:
        self.core = core
        self.fleet = fleet
        self.liars = liars_
        self._worker = worker

    @property
    def rss_mib(self) -> float:
        """Of the besieged worker, 0 while there is none."""
        pid = self.fleet.workers().get(self._worker, 0)
        try:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
        except OSError:
            return 0.0

    async def run(self, seconds: float, late_s: float = LATE_S) -> Report:
        """Let the liars lie for so long, then be honest; what came of it."""
        names = [f"EVIL{at}" for at in range(len(self.liars))]
        await _until(lambda: self.core.up(*GOOD), BACK_S, "the good devices are up")
        self.core.begin()
        before = self.rss_mib
        await asyncio.sleep(seconds)
        lateness = self.core.lateness()
        grown = self.rss_mib - before
        for liar in self.liars:
            liar.honest = True
        finding = ""
        try:
            await _until(lambda: self.core.up(*names, *GOOD), BACK_S, "all are up once the peers are honest")
        except AssertionError as error:
            finding = f"{error}: {[(name, self.core.links.get(name)) for name in names]}"
        worst = max(lateness.values())
        if worst > late_s:
            finding = finding or f"data of others was late by {worst:.1f} s: {lateness}"
        if grown > MOST_MIB:
            finding = finding or f"the worker grew by {grown:.0f} MiB"
        if self.fleet.restarts:
            finding = finding or f"a worker ended {self.fleet.restarts} times"
        told = sum((liar.told for liar in self.liars), Counter[str]())
        return Report(sum(liar.connections for liar in self.liars), told, self.fleet.restarts, worst, grown, finding)


async def _until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None


@contextlib.asynccontextmanager
async def _good(feeder: Feeder) -> AsyncIterator[tuple[Iec61850Bay, ModbusMeter]]:
    async def pass_time() -> None:
        while True:
            await asyncio.sleep(0.1)
            feeder.step(0.1)

    async with Iec61850Bay(feeder) as bay, ModbusMeter(feeder) as meter:
        task = asyncio.create_task(pass_time())
        try:
            yield bay, meter
        finally:
            task.cancel()
            await asyncio.wait({task})


@contextlib.asynccontextmanager
async def _siege(evil: list[Device], liars_: list[Liar], bay: Iec61850Bay, meter: ModbusMeter) -> AsyncIterator[Siege]:
    core = Bystanders()

    def host(name: str, core: Core) -> Child:
        return Child(name, core, log_level="critical", command=COMMAND)

    fleet = Fleet(core, core.cursors, make_host=host)
    in_iec61850, in_modbus = GOOD if evil[0].protocol == "iec61850" else tuple(reversed(GOOD))
    good = [_iec61850(in_iec61850, bay.port, 1000), _modbus(in_modbus, meter.port, 1100)]
    try:
        await fleet.configure([*good, *evil])
        yield Siege(core, fleet, liars_, f"{evil[0].protocol}-0")
    finally:
        await fleet.close()


async def iec61850(seconds: float, seed: int, late_s: float = LATE_S) -> Report:
    """MMS, TPKT, COTP: truncated, lying, oversized, at any moment of an association."""
    async with contextlib.AsyncExitStack() as stack:
        bay, meter = await stack.enter_async_context(_good(Feeder()))
        bays = [await stack.enter_async_context(Iec61850Bay()) for _ in range(HOSTILE)]
        them = [
            await stack.enter_async_context(Liar(one.port, liars.MMS, seed * HOSTILE + at))
            for at, one in enumerate(bays)
        ]
        evil = [_iec61850(f"EVIL{at}", liar.port, at * 10) for at, liar in enumerate(them)]
        siege = await stack.enter_async_context(_siege(evil, them, bay, meter))
        return await siege.run(seconds, late_s)


async def modbus(seconds: float, seed: int, late_s: float = LATE_S) -> Report:
    """Modbus on TCP and RTU through serial servers."""
    async with contextlib.AsyncExitStack() as stack:
        bay, meter = await stack.enter_async_context(_good(Feeder()))
        them, evil = [], []
        for at in range(HOSTILE):
            rtu = at % 2 == 1
            peer = await stack.enter_async_context(Peer(rtu=rtu))
            damages = (*liars.MODBUS, *(liars.rtu_fits,) * 8) if rtu else liars.MODBUS
            them.append(await stack.enter_async_context(Liar(peer.port, damages, seed * HOSTILE + at)))
            evil.append(_modbus(f"EVIL{at}", them[-1].port, at * 10, "rtu-over-tcp" if rtu else "tcp"))
        siege = await stack.enter_async_context(_siege(evil, them, bay, meter))
        return await siege.run(seconds, late_s)


STACKS = {"iec61850_stack": iec61850, "modbus_stack": modbus}
