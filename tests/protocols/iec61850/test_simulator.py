from __future__ import annotations

import asyncio
import csv
import signal
import sys
from pathlib import Path

import pytest

from gatewayd.points.types import ControlMode, Kind
from gatewayd.protocols.iec61850 import config
from simulators.iec61850_bay import LD, Iec61850Bay, running
from tests.protocols.iec61850.support import device, driving, point
from tests.protocols.watching import Watch, until

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["etc/points/bay1.csv", "etc/demo/points/bay1.csv"])
async def test_every_point_of_the_shipped_lists_is_in_the_bay(name: str):
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    points = [
        point(
            row,
            Kind(given["kind"]),
            given["address"],
            control=ControlMode(given["control"] or "none"),
            command=given["command"],
            check=tuple((given.get("check") or "").split(",")) if given.get("check") else (),
        )
        for row, given in enumerate(csv.DictReader(lines))
    ]
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        made = device(sim.port, points)
        assert config.check(made) == []
        async with driving(made, watch) as (driver, _):
            assert driver.counters()["unknown_points"] == 0
            assert all((sample := watch.last(p.row)) is not None and sample.value is not None for p in points)
            assert {s.quality for p in points for s in watch.samples(p.row)} == {0}


async def test_a_bay_that_is_not_still_moves_by_itself():
    watch = Watch()
    async with (
        Iec61850Bay() as sim,
        driving(device(sim.port, [point(0, Kind.ANALOG, f"{LD}/MMXU1.TotW")]), watch),
    ):
        await until(lambda: len({sample.value for sample in watch.samples(0, reported=True)}) >= 3)


def test_every_member_of_its_data_sets_is_there():
    with running() as sim:
        assert {str(name): len(members) for name, members in sim.model.data_sets.items()} == {
            f"{LD}/LLN0$dsST": 18,
            f"{LD}/LLN0$dsMX": 10,
        }
        for members in sim.model.data_sets.values():
            assert all(sim.model.node(member) is not None for member in members)


async def test_the_command_line_serves():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators.iec61850_bay", "--port", "0", "--seed", "3",
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 10)).decode()
        assert line.startswith("BAY1 (IEC 61850) on 127.0.0.1 port ")
        watch = Watch()
        points = [point(0, Kind.DOUBLE, f"{LD}/XCBR1.Pos")]
        async with driving(device(int(line.rsplit(" ", 1)[1]), points), watch):
            last = watch.last(0)
            assert last is not None
            assert last.value == 2
    finally:
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 0
