"""Against an opendnp3 outstation: what py1815 does not have (double-bit, frozen counters), and a death in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Verdict
from gatewayd.points import quality as q
from gatewayd.points.types import ControlMode, Kind
from gatewayd.protocols.dnp3.agenda import RESTART_GAP
from gatewayd.protocols.dnp3.driver import Dnp3Driver
from tests.protocols.dnp3.support import clock_in_step, device, driving, point
from tests.protocols.watching import Watch, command, ended, until

TYPES = {
    "BI": Kind.BINARY, "DBI": Kind.DOUBLE, "AI": Kind.ANALOG, "CT": Kind.COUNTER,
    "FC": Kind.COUNTER, "BO": Kind.BINARY, "AO": Kind.ANALOG,
}  # fmt: skip
ROWS = {kind: row * 4 for row, kind in enumerate(TYPES)}
POINTS = [
    *(point(ROWS[t] + n, kind, f"{t}:{n}", event=True) for t, kind in TYPES.items() for n in range(4)),
    point(40, Kind.STRING, "OS:0"),
    point(50, Kind.DOUBLE, "", control=ControlMode.SBO, command="CROB:0 trip-close"),
    point(51, Kind.ANALOG, "", control=ControlMode.SBO, command="AO:1 f64"),
    point(53, Kind.BINARY, "", control=ControlMode.SBO, command="CROB:3 latch"),
]


class Process:
    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process
        self.port = 0
        self.said: list[dict[str, Any]] = []
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.said.clear()
        arguments = [sys.executable, "-m", "tests.protocols.dnp3.opendnp3_outstation", str(self.port)]
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe)
        self._reading = asyncio.create_task(self._read())
        await until(lambda: self.said and "listening" in self.said[-1], what="listening")
        self.port = self.said[-1]["listening"]

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))

    def tell(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        if self._reading is not None:
            await self._reading

    @property
    def controls(self) -> list[tuple[str, int]]:
        return [(one["control"], one["index"]) for one in self.said if "control" in one]


@contextlib.asynccontextmanager
async def outstation() -> AsyncIterator[Process]:
    made = Process()
    await made.start()
    try:
        yield made
    finally:
        await made.kill()


async def test_every_type_of_point() -> None:
    watch, ms = Watch(), time.time_ns() // 1_000_000
    async with outstation() as peer, driving(device(peer.port, POINTS, response_timeout_s=2), watch) as (driver, _):
        values = {"BI": True, "DBI": 2, "AI": 1.0, "CT": 7, "BO": True, "AO": 3.0}
        for kind, value in values.items():
            peer.tell(do="update", type=kind, index=1, value=value, time=ms)
        peer.tell(do="freeze", index=1)
        values["FC"] = 7
        for kind, value in values.items():
            row = ROWS[kind] + 1
            await until(lambda: value in watch.values(row, reported=True), what=kind)  # noqa: B023
            assert watch.last(row).quality & ~q.TIME_MASK == q.GOOD  # type: ignore[union-attr]
        await driver.interrogate()
        for kind, value in values.items():
            row = ROWS[kind] + 1
            await until(lambda: value in watch.values(row, reported=False), what=f"static {kind}")  # noqa: B023
        assert watch.samples(40)  # octet strings are not in its class 0
        assert driver.counters()["not_understood"] == 0


async def test_all_double_bit_states_and_flags() -> None:
    watch = Watch()
    async with outstation() as peer, driving(device(peer.port, POINTS, response_timeout_s=2), watch):
        for flags in (0x01, 0x00, 0x03, 0x05, 0x09, 0x11, 0x21, 0x3F):
            for state in range(4):
                peer.tell(do="update", type="DBI", index=0, value=state, flags=flags)
                native = flags | state << 6
                await until(lambda: any(s.native == native for s in watch.samples(0 + ROWS["DBI"])), what=str(native))  # noqa: B023
    found = {sample.native: sample.value for sample in watch.samples(ROWS["DBI"], reported=True)}
    assert all(value == native >> 6 for native, value in found.items())
    assert len(found) == 32


async def test_events_without_time_are_asked_for_with_time() -> None:
    """opendnp3's default variations carry no time; without unsolicited responses they are asked for with it."""
    watch, ms = Watch(), time.time_ns() // 1_000_000 - 500
    async with outstation() as peer, driving(device(peer.port, POINTS, unsolicited=False), watch) as (driver, _):
        peer.tell(do="update", type="BI", index=0, value=True, time=ms)
        await until(lambda: watch.values(0, reported=True), what="the event without time")
        assert watch.samples(0, reported=True)[0].quality & q.RECEIPT
        for state, at in ((False, ms + 1), (True, ms + 2)):
            peer.tell(do="update", type="BI", index=0, value=state, time=at)
            await until(lambda: any(s.time_ns == at * 1_000_000 for s in watch.samples(0)), what="with time")  # noqa: B023
        assert driver.counters()["unsolicited"] == 0


async def test_commands() -> None:
    async with outstation() as peer, driving(device(peer.port, POINTS, response_timeout_s=2), Watch()) as (driver, _):
        assert (await driver.operate(command(50, True))).verdict is Verdict.DONE
        assert (await driver.operate(command(51, 2.5, sbo=False))).verdict is Verdict.DONE
        refused = await driver.operate(command(53, True))
        assert (refused.verdict, refused.reason) == (Verdict.REFUSED, Reason.LOCAL)
        await until(lambda: len(peer.controls) == 5, what="what it was told")
        assert peer.controls == [("SELECT", 0), ("OPERATE", 0), ("OPERATE", 1), ("SELECT", 3), ("OPERATE", 3)]


async def test_killed_and_started_again() -> None:
    watch = Watch()
    async with outstation() as peer:
        driver = Dnp3Driver(device(peer.port, POINTS, response_timeout_s=2), clock_state=clock_in_step)
        async with driving(driver, watch) as (_, task):
            assert watch.gaps == []  # it was restarted before we knew it
            await peer.kill()
            await ended(task)
        await peer.start()
        async with driving(driver, watch):
            assert watch.gaps == [RESTART_GAP]
            peer.tell(do="restart")
            await until(lambda: len(watch.gaps) == 2, what="the second restart")


async def test_an_overflow_of_its_buffers() -> None:
    watch = Watch()
    async with outstation() as peer:
        made = device(peer.port, POINTS, unsolicited=False, event_poll_s=0.5, response_timeout_s=1)
        async with driving(made, watch) as (driver, _):
            for n in range(120):
                peer.tell(do="update", type="AI", index=0, value=n)
            await until(lambda: driver.counters()["overflows"], what="overflow")
            await until(lambda: watch.values(ROWS["AI"], reported=True)[-1:] == [119.0], what="the newest")
            polls = driver.counters()["event_polls"]
            await until(lambda: driver.counters()["event_polls"] > polls + 1, what="polls")
            assert len(watch.gaps) == 1
            events = watch.values(ROWS["AI"], reported=True)
            assert events == [float(n) for n in range(120 - len(events), 120)]
