from __future__ import annotations

import asyncio
import csv
import signal
import sys
import time
from pathlib import Path

import pytest

from gatewayd.points import quality as q
from gatewayd.points.types import ControlMode, Kind
from gatewayd.protocols.modbus import config
from simulators.modbus_meter import ModbusMeter
from simulators.model import OPEN, Feeder
from tests.protocols.modbus.support import device, driving, point
from tests.protocols.watching import Watch, command, until

ROOT = Path(__file__).parents[2]
GOOD = q.SAMPLED | q.RECEIPT


def points_of(name: str):
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    delimiter = ";" if ";" in lines[0] else ","
    for row, given in enumerate(csv.DictReader(lines, delimiter=delimiter)):
        more = {"feedback": f"P{row}"} if given["control"] else {}
        yield point(
            row,
            Kind(given["kind"]),
            given["address"],
            control=ControlMode(given["control"] or "none"),
            command=given["command"],
            **more,
        )


@pytest.mark.parametrize("name", ["etc/points/mtr3.csv", "etc/demo/points/mtr3.csv"])
async def test_every_point_of_the_shipped_lists_is_in_the_meter(name: str):
    watch = Watch()
    async with ModbusMeter() as meter:
        made = device(meter.port, points_of(name))
        assert config.check(made) == []
        async with driving(made, watch):
            assert {watch.quality(p.row) for p in made.points} == {GOOD}


async def test_opening_the_breaker_takes_the_current_to_zero_and_stops_the_energy():
    watch = Watch()
    u, i, p, _, pf, f, wh, breaker = range(8)
    async with ModbusMeter() as meter, driving(device(meter.port, points_of("etc/demo/points/mtr3.csv")), watch) as (
        driver, _task,
    ):  # fmt: skip
        assert watch.value(u) == pytest.approx(20_000, rel=0.01)
        assert watch.value(i) == pytest.approx(72.9, rel=0.1)
        assert watch.value(f) == pytest.approx(50, abs=0.2)
        assert watch.value(pf) == pytest.approx(0.95)
        assert watch.value(breaker) is True
        await until(lambda: isinstance(value := watch.value(wh), int) and value > 0)
        assert (await driver.operate(command(breaker, False))).verdict == "done"
        await until(lambda: watch.value(breaker) is False)
        await until(lambda: watch.value(i) == 0 and watch.value(p) == 0)
        await until(lambda: meter.feeder.breaker == OPEN)
        counted = int(meter.feeder.energy_wh)
        await until(lambda: watch.value(wh) == counted)
        before = meter.feeder._now_s
        await until(lambda: meter.feeder._now_s > before + 0.5)
        assert int(meter.feeder.energy_wh) == counted
        assert [(write.function, write.address, write.values) for write in meter.writes] == [(5, 0, [0])]


async def test_a_meter_on_a_shared_feeder_shows_what_others_do_to_it():
    feeder, watch = Feeder(seed=2), Watch()
    async with ModbusMeter(feeder) as meter, driving(device(meter.port, [point(0, Kind.BINARY, "DI:0")]), watch):
        feeder.trip()
        await until(lambda: watch.value(0) is False)


async def test_it_refuses_in_local_and_goes_away_and_comes_back():
    watch = Watch()
    points = list(points_of("etc/demo/points/mtr3.csv"))
    async with ModbusMeter() as meter:
        async with driving(device(meter.port, points), watch) as (driver, task):
            meter.feeder.local = True
            reply = await driver.operate(command(7, False))
            assert (reply.verdict, reply.reason) == ("refused", "unsupported")
            await asyncio.to_thread(meter.stop)
            await until(task.done)
        meter.start()
        async with driving(driver, watch):
            assert watch.ups == 2


async def test_lockout_refuses_closing_only():
    points = list(points_of("etc/demo/points/mtr3.csv"))
    async with ModbusMeter() as meter, driving(device(meter.port, points), Watch()) as (driver, _):
        meter.feeder.lockout = True
        assert (await driver.operate(command(7, True))).verdict == "refused"
        assert (await driver.operate(command(7, False))).verdict == "done"


async def test_answers_can_be_late_in_all_or_for_one_function():
    points = list(points_of("etc/demo/points/mtr3.csv"))
    async with ModbusMeter() as meter, driving(device(meter.port, points, timeout_s=2), Watch()) as (driver, _):
        meter.slow[5] = 0.2
        began = time.monotonic()
        assert (await driver.operate(command(7, False))).verdict == "done"
        assert 0.2 <= time.monotonic() - began < 1
        meter.delay_s = 0.05
        began = time.monotonic()
        await driver.interrogate()
        assert time.monotonic() - began >= 0.15


async def test_the_command_line_serves():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators.modbus_meter", "--port", "0", "--seed", "3",
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 10)).decode()
        assert line.startswith("MTR3 (Modbus TCP) on 127.0.0.1 port ")
        watch = Watch()
        async with driving(device(int(line.rsplit(" ", 1)[1]), [point(0, Kind.BINARY, "DI:0")]), watch):
            assert watch.value(0) is True
    finally:
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 0
