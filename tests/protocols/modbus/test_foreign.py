"""Against libmodbus, on TCP and RTU: its own process, compiled here from a page of C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Reply, Verdict
from gatewayd.points import quality as q
from gatewayd.points.types import Kind, PointSpec
from gatewayd.protocols.device import Device, Serial
from gatewayd.protocols.driver import LinkLost
from gatewayd.protocols.modbus import config
from tests.protocols.modbus.support import commanded, driving, point
from tests.protocols.watching import Watch, command, until

GOOD = q.SAMPLED | q.RECEIPT
DONE = Reply(Verdict.DONE)
A, B, C = Kind.ANALOG, Kind.BINARY, Kind.COUNTER
UNIT = 3


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled server. `make test` installs what it needs (TEST_PACKAGES)."""
    if shutil.which("gcc") is None or subprocess.run(["pkg-config", "--exists", "libmodbus"], check=False).returncode:
        pytest.fail("gcc, pkg-config and libmodbus-dev are needed: make test names them")
    program = tmp_path_factory.mktemp("libmodbus") / "server"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libmodbus"], check=True, capture_output=True, text=True
    ).stdout.split()
    source = Path(__file__).with_name("libmodbus_server.c")
    subprocess.run(["gcc", "-Wall", "-Werror", "-O1", "-o", str(program), str(source), *flags], check=True)
    return program


class Foreign:
    """The running server. writes: what it says it received."""

    def __init__(self, port: int, kill: Callable[[], None]) -> None:
        self.port = port
        self.kill = kill
        self.writes: list[str] = []


@contextlib.asynccontextmanager
async def running(program: Path, *arguments: str) -> AsyncIterator[Foreign]:
    process = await asyncio.create_subprocess_exec(program, *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    stdout = process.stdout
    foreign = Foreign(int(await asyncio.wait_for(stdout.readline(), 5)), process.kill)

    async def listen() -> None:
        while line := await stdout.readline():
            foreign.writes.append(line.decode().strip())

    listening = asyncio.create_task(listen())
    try:
        yield foreign
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await listening


@contextlib.contextmanager
def bridge() -> Iterator[tuple[str, str]]:
    """Two pseudo terminals joined: what goes into one comes out of the other. The paths of both ends."""
    loop = asyncio.get_running_loop()
    ends = [os.openpty() for _ in range(2)]
    for descriptors in ends:
        for descriptor in descriptors:
            tty.setraw(descriptor)
    masters = [master for master, _ in ends]
    for source, target in (masters, reversed(masters)):

        def carry(source: int = source, target: int = target) -> None:
            with contextlib.suppress(OSError):
                os.write(target, os.read(source, 4096))

        loop.add_reader(source, carry)
    try:
        yield os.ttyname(ends[0][1]), os.ttyname(ends[1][1])
    finally:
        for master, slave in ends:
            loop.remove_reader(master)
            os.close(master)
            os.close(slave)


@contextlib.asynccontextmanager
async def connected(
    program: Path, framer: str, points: list[PointSpec], watch: Watch, **options
) -> AsyncIterator[tuple]:
    given = {"unit": UNIT, "poll_s": 0.05, "timeout_s": 0.5, **options}
    common = {"name": "F1", "protocol": "modbus", "options": given, "points": tuple(points)}
    async with contextlib.AsyncExitStack() as stack:
        if framer == "tcp":
            foreign = await stack.enter_async_context(running(program, "tcp"))
            made = Device(host="127.0.0.1", port=foreign.port, framer="tcp", **common)
        else:
            ours, theirs = stack.enter_context(bridge())
            foreign = await stack.enter_async_context(running(program, "rtu", theirs, str(UNIT)))
            made = Device(serial=Serial(port=ours, baud=115200), framer="rtu", **common)
        assert config.check(made) == []
        driver, task = await stack.enter_async_context(driving(made, watch))
        yield driver, task, foreign


FRAMERS = pytest.mark.parametrize("framer", ["tcp", "rtu"])


@FRAMERS
async def test_all_tables_and_types_are_read(server: Path, framer: str):
    watch = Watch()
    points = [point(0, A, "HR:7"), point(1, C, "IR:8:u32"), point(2, C, "IR:8:u64:ghefcdab"), point(3, B, "DI:1"),
              point(4, B, "DI:2"), point(5, B, "CO:99"), point(6, B, "HR:5.2"), point(7, A, "HR:5.0-2"),
              point(8, A, "IR:199")]  # fmt: skip
    async with connected(server, framer, points, watch):
        values = [watch.value(row) for row in range(9)]
        assert values == [7, 8 << 16 | 9, 0x000B000A00090008, True, False, False, True, 5, 199]
        assert {watch.quality(row) for row in range(9)} == {GOOD}


@FRAMERS
async def test_a_full_read_of_125_registers_and_100_coils(server: Path, framer: str):
    watch = Watch()
    points = [point(row, A, f"HR:{row}") for row in range(125)]
    points += [point(125 + at, B, f"CO:{at}", event=False) for at in range(100)]
    async with connected(server, framer, points, watch) as (driver, _, _foreign):
        assert [watch.value(row) for row in range(125)] == list(range(125))
        assert driver.counters()["requests"] == 2


@FRAMERS
async def test_all_writes_are_what_the_other_stack_understands(server: Path, framer: str):
    watch = Watch()
    points = [
        commanded(0, B, "CO:7", "CO:7"), commanded(1, B, "CO:8 fc=15", "CO:8"), commanded(2, A, "HR:120", "HR:120"),
        commanded(3, A, "HR:121 fc=16", "HR:121"), commanded(4, A, "HR:130:f32:cdab", "HR:130:f32:cdab"),
        commanded(5, Kind.STRING, "HR:140:str8", "HR:140:str8"), commanded(6, B, "CO:9", "CO:9", readback=True),
    ]  # fmt: skip
    async with connected(server, framer, points, watch) as (driver, _, foreign):
        for row, value in ((0, True), (1, True), (2, 300), (3, 301), (4, -2.5), (5, "SN 1"), (6, True), (0, False)):
            assert await driver.operate(command(row, value)) == DONE
        await until(lambda: len(foreign.writes) == 8)
        assert foreign.writes[:5] == [
            "050007ff00", "0f000800010101", "060078012c", "1000790001" + "02012d", "1000820002" + "040000c020",
        ]  # fmt: skip
        expected = [False, True, 300, 301, -2.5, "SN 1", True]
        await until(lambda: [watch.value(row) for row in range(7)] == expected)


@FRAMERS
async def test_what_is_not_there_is_found_and_refused(server: Path, framer: str):
    watch = Watch()
    points = [point(0, A, "HR:195"), point(1, A, "HR:199"), point(2, A, "HR:201"), commanded(3, B, "CO:100")]
    async with connected(server, framer, points, watch) as (driver, _, _foreign):
        assert (watch.value(0), watch.value(1)) == (195, 199)
        assert watch.quality(2) == GOOD | q.INVALID | q.CONFIG_ERROR
        reply = await driver.operate(command(3, True))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.UNKNOWN_POINT)
        assert reply.native == ("modbus", 2, "illegal-data-address")


@FRAMERS
async def test_guards_and_a_recipe(server: Path, framer: str):
    watch = Watch()
    points = [
        commanded(0, B, "CO:7", guard="DI:1=1 IR:5>=5"), commanded(1, B, "CO:8", guard="DI:2=1"),
        commanded(2, B, "recipe=select HR:50=7 > verify HR:50=7 > operate CO:9 > release HR:50=0"),
    ]  # fmt: skip
    async with connected(server, framer, points, watch) as (driver, _, foreign):
        assert await driver.operate(command(0, True)) == DONE
        assert (await driver.operate(command(1, True))).reason is Reason.INTERLOCKED
        assert await driver.operate(command(2, True)) == DONE
        await until(lambda: foreign.writes == ["050007ff00", "0600320007", "050009ff00", "0600320000"])


@pytest.mark.parametrize(("framer", "why"), [("tcp", "closed|reset"), ("rtu", "3 polls without an answer")])
async def test_a_killed_server_is_a_lost_link(server: Path, framer: str, why: str):
    watch = Watch()
    async with connected(server, framer, [point(0, A, "HR:7")], watch, timeout_s=0.1) as (_, task, foreign):
        foreign.kill()
        await until(task.done)
        with pytest.raises(LinkLost, match=why):
            task.result()
