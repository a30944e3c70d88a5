"""The feeder RTU by itself and with the gateway's own driver: everything the demo and other tests rely on."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import signal
import sys
import time
from pathlib import Path

import msgspec
import pytest
from py1815.control import CommandStatus

from gatewayd.config import load
from gatewayd.control.reasons import Reason
from gatewayd.control.types import Verdict
from gatewayd.points import quality as q
from gatewayd.points.types import Kind
from gatewayd.protocols.device import Device
from gatewayd.protocols.dnp3.agenda import OVERFLOW_GAP, RESTART_GAP
from gatewayd.protocols.dnp3.driver import Dnp3Driver
from simulators.dnp3_feeder import Dnp3Feeder
from simulators.model import CLOSED, OPEN, Feeder
from tests.protocols.dnp3.support import clock_in_step, device, driving, point
from tests.protocols.watching import Watch, command, ended, until

ROOT = Path(__file__).parents[2]


def shipped(file: str, port: int) -> tuple[Device, dict[str, int]]:
    """Device FDR12 of a shipped configuration, at a port, and its rows by name."""
    made = next(one for one in load(ROOT / file).devices if one.name == "FDR12")
    return msgspec.structs.replace(made, host="127.0.0.1", port=port), {p.name: p.row for p in made.points}


@pytest.mark.parametrize("file", ["etc/demo/gatewayd.toml", "etc/gatewayd.toml"])
async def test_every_shipped_point_is_in_it(file: str) -> None:
    async with Dnp3Feeder(still=True) as rtu:
        made, _ = shipped(file, rtu.port)
        watch = Watch()
        async with driving(made, watch):
            missing = [p.name for p in made.points if p.address and not watch.samples(p.row)]
            assert missing == []
            samples = [watch.last(p.row) for p in made.points if p.address]
            assert {sample.quality for sample in samples if sample is not None} == {q.GOOD | q.RECEIPT}


async def test_a_trip_by_sbo_is_seen_at_the_contacts_and_the_current() -> None:
    async with Dnp3Feeder() as rtu:
        made, rows = shipped("etc/gatewayd.toml", rtu.port)
        watch = Watch()
        async with driving(made, watch) as (driver, _):
            began = time.monotonic()
            assert (await driver.operate(command(rows["FDR12/CB/POS"], False))).verdict is Verdict.DONE
            opened, closed = rows["FDR12/CB/POS#open"], rows["FDR12/CB/POS#closed"]
            await until(lambda: watch.values(opened, reported=True) == [True], what="52b")
            await until(lambda: watch.values(closed, reported=True) == [False], what="52a")
            await until(lambda: 0.0 in watch.values(rows["FDR12/MMXU/I"], reported=True), what="no current")
            await until(lambda: watch.values(rows["FDR12/CB/OPS"], reported=True) == [1], what="the operation counted")
            assert rtu.feeder.breaker == OPEN
            assert [(w.function, w.point, w.value, w.on_ms) for w in rtu.writes] == [
                ("SELECT", "CROB:2", 0x81, 250), ("OPERATE", "CROB:2", 0x81, 250),
            ]  # fmt: skip
            assert all(began <= write.at <= time.monotonic() for write in rtu.writes)
            event = watch.samples(opened, reported=True)[0]
            assert abs(event.time_ns - time.time_ns()) < 3e9
            assert not event.quality & q.TIME_MASK  # its own time, which it got from us
        assert abs(rtu.times[0][0] - rtu.times[0][1]) < 100


async def test_the_other_outputs() -> None:
    async with Dnp3Feeder() as rtu:
        points = [
            point(0, Kind.BINARY, "BI:6", control="sbo", command="CROB:4 latch"),
            point(1, Kind.ANALOG, "AI:4", control="sbo", command="AO:1 i16"),
            point(2, Kind.COUNTER, "AI:5", event=True, control="direct", command="CROB:6 raise-lower"),
            point(3, Kind.BINARY, "BI:1", control="direct", command="CROB:5 pulse"),
        ]
        watch = Watch()
        rtu.feeder.lockout = True
        async with driving(device(rtu.port, points), watch) as (driver, _):
            for row, value, seen in ((0, True, True), (1, 1500, 1500.0), (2, False, 9), (3, True, False)):
                reply = await driver.operate(command(row, value, sbo=row < 2))
                assert reply.verdict is Verdict.DONE, row
                await until(lambda: watch.last(row).value == seen, what=f"row {row}")  # type: ignore[union-attr]  # noqa: B023
            assert (await driver.operate(command(1, 9000))).reason is Reason.OUT_OF_RANGE
            assert (rtu.reclosing, rtu.setpoint, rtu.tap, rtu.feeder.lockout) == (True, 1500, 9, False)


async def test_it_refuses_as_a_real_one_does_and_as_it_is_told() -> None:
    async with Dnp3Feeder(still=True) as rtu:
        made, rows = shipped("etc/gatewayd.toml", rtu.port)
        async with driving(made, Watch()) as (driver, _):
            breaker = rows["FDR12/CB/POS"]
            rtu.feeder.lockout = True
            assert (await driver.operate(command(breaker, True))).reason is Reason.INTERLOCKED
            rtu.feeder.local = True
            assert (await driver.operate(command(breaker, False))).reason is Reason.LOCAL
            rtu.feeder.local = rtu.feeder.lockout = False
            rtu.refuse_select["CROB:2"] = CommandStatus.BLOCKED
            assert (await driver.operate(command(breaker, False))).reason is Reason.INHIBITED
            rtu.refuse_select.clear()
            rtu.refuse_operate["CROB:2"] = CommandStatus.HARDWARE_ERROR
            refused = await driver.operate(command(breaker, False))
            assert (refused.verdict, refused.reason) == (Verdict.UNKNOWN, Reason.BLOCKED_HEALTH)
            assert rtu.feeder.breaker == CLOSED
            rtu.refuse_operate.clear()
            rtu.ignore.add("CROB:2")
            assert (await driver.operate(command(breaker, False))).verdict is Verdict.DONE
            rtu.feeder.step(1)
            assert rtu.feeder.breaker == CLOSED


async def test_an_answer_can_get_lost() -> None:
    async with Dnp3Feeder(still=True) as rtu:
        made, rows = shipped("etc/gatewayd.toml", rtu.port)
        made = msgspec.structs.replace(made, options={**made.options, "response_timeout_s": 0.4})
        async with driving(made, Watch()) as (driver, _):
            rtu.lose.add("CROB:2")
            reply = await driver.operate(command(rows["FDR12/CB/POS"], False))
            assert reply.verdict is Verdict.UNKNOWN
            rtu.feeder.step(1)
            assert rtu.feeder.breaker == OPEN
            assert len(rtu.writes) == 2


async def test_struck_dumb_and_restarted() -> None:
    watch = Watch()
    async with Dnp3Feeder(still=True) as rtu:
        points = [point(0, Kind.BINARY, "BI:0")]
        driver = Dnp3Driver(device(rtu.port, points), clock_state=clock_in_step)
        async with driving(driver, watch) as (_, task):
            rtu.dumb = True
            assert "did not answer" in str(await ended(task))
            rtu.dumb = False
        async with driving(driver, watch) as (_, task):
            assert watch.gaps == []
            await rtu.restart()
            await ended(task)
        async with driving(driver, watch):
            assert watch.gaps == [RESTART_GAP]


async def test_an_overflow_is_told_once() -> None:
    watch = Watch()
    async with Dnp3Feeder(still=True, event_capacity=10) as rtu:
        points = [point(0, Kind.BINARY, "BI:0"), point(1, Kind.BINARY, "BI:1")]
        made = device(rtu.port, points, unsolicited=False, event_poll_s=0.3)
        async with driving(made, watch) as (driver, _):
            for n in range(30):
                rtu.feeder.local = n % 2 == 0
                rtu.report()
            await until(lambda: watch.gaps, what="gap")
            polls = driver.counters()["event_polls"]
            await until(lambda: driver.counters()["event_polls"] > polls + 1, what="polls")
            assert watch.gaps == [OVERFLOW_GAP]
            assert len(watch.samples(0, reported=True)) == 10
            rtu.feeder.lockout = True
            rtu.report()
            await until(lambda: watch.values(1, reported=True) == [True], what="what comes after it")


async def test_a_shared_feeder_is_left_to_its_owner() -> None:
    feeder = Feeder(seed=3)
    async with Dnp3Feeder(feeder) as rtu:
        assert rtu.feeder is feeder
        before = feeder.load_kw
        began = time.monotonic()
        await until(lambda: time.monotonic() > began + 0.2, what="a while")
        assert feeder.load_kw == before


async def test_the_shipped_lists_and_the_docstring_name_the_same_points() -> None:
    text = " ".join((ROOT / "simulators/dnp3_feeder.py").read_text(encoding="utf-8").split('"""')[1].split())
    with (ROOT / "etc/demo/points/fdr12.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    for row in rows:
        for address in row["address"].split("|"):
            kind, index = address.split(":")
            assert f"{kind}:0" in text, address
            assert f" {index} " in text or index == "0", address


async def test_as_a_program() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulators.dnp3_feeder", "--port", "0"), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        port = int(line.rsplit(maxsplit=1)[1])
        async with driving(device(port, [point(0, Kind.BINARY, "BI:2")]), Watch()):
            pass
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
