"""RTU on a serial line: a pseudo terminal with units behind it, and several devices that share it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Verdict
from gatewayd.points import quality as q
from gatewayd.points.types import Kind
from gatewayd.protocols.device import Device, Serial
from gatewayd.protocols.driver import DeviceFault, LinkLost
from gatewayd.protocols.modbus import config
from gatewayd.protocols.modbus.driver import LINES, create
from tests.protocols.modbus.peers import Peer, bus
from tests.protocols.modbus.support import commanded, driving, point
from tests.protocols.watching import Watch, command, until

GOOD = q.SAMPLED | q.RECEIPT
OLD = GOOD | q.QUESTIONABLE | q.OLD_DATA
A, B = Kind.ANALOG, Kind.BINARY


@pytest.fixture(autouse=True)
def no_line_is_left():
    yield
    assert LINES._shared == {}


def unit(path: str, number: int = 1, *points, serial: dict | None = None, **options) -> Device:
    given = {"timeout_s": 0.2, "poll_s": 0.1, "unit": number, **options}
    made = Device(
        name=f"U{number}", protocol="modbus", serial=Serial(port=path, baud=115200, **(serial or {})), framer="rtu",
        options=given, points=points or (point(0, A, "HR:10"),),
    )  # fmt: skip
    assert config.check(made) == []
    return made


async def test_a_unit_is_read_and_commanded():
    watch, peer = Watch(), Peer()
    with bus(peer) as line:
        made = unit(line.path, 1, point(0, A, "HR:10"), point(1, B, "DI:3"), commanded(2, B, "CO:7"))
        async with driving(made, watch) as (driver, _):
            assert (watch.value(0), watch.quality(0)) == (10, GOOD)
            peer.bits[3] = True
            await until(lambda: watch.value(1) is True)
            assert (await driver.operate(command(2, True))).verdict is Verdict.DONE
            assert peer.writes == ["050007ff00"]


async def test_a_port_that_is_not_there_is_a_lost_link():
    with pytest.raises(LinkLost, match=r"/dev/nothing-here: .*No such file"):
        await create(unit("/dev/nothing-here")).run(Watch(), {})


async def test_a_port_that_does_not_do_the_settings_is_a_fault():
    with bus(Peer()) as line, pytest.raises(DeviceFault, match="cannot be set up"):  # a pseudo terminal has no parity
        await create(unit(line.path, serial={"parity": "even"})).run(Watch(), {})


async def test_an_adapter_that_is_pulled_out_is_noticed():
    watch = Watch()
    with bus(Peer()) as line:
        async with driving(unit(line.path, poll_s=0.05), watch) as (_, task):
            line.unplug()
            await until(task.done)
            with pytest.raises(LinkLost):
                task.result()


async def test_a_bad_crc_is_no_value_and_the_next_answer_is():
    watch, peer = Watch(), Peer()
    with bus(peer) as line:
        async with driving(unit(line.path, timeout_s=0.1), watch) as (driver, task):
            peer.script = lambda asked: [asked.good[:-1] + b"\0"]
            peer.registers[10] = 77
            await until(lambda: watch.quality(0) == OLD)
            assert watch.value(0) == 10
            peer.script = lambda asked: [asked.good]
            await until(lambda: (watch.value(0), watch.quality(0)) == (77, GOOD))
            assert driver.counters()["bad_answers"] >= 1
            assert not task.done()


async def test_an_adapter_that_hears_itself():
    watch, peer = Watch(), Peer()
    with bus(peer, echo=True) as line:
        made = unit(line.path, 1, point(0, A, "HR:10"), commanded(1, B, "CO:7"), echo=True, timeout_s=0.1)
        async with driving(made, watch) as (driver, _):
            assert watch.value(0) == 10
            assert (await driver.operate(command(1, True))).verdict is Verdict.DONE
            peer.script = lambda asked: [] if asked.function == 5 else [asked.good]
            reply = await driver.operate(command(1, False))
            assert (reply.verdict, reply.reason) == (Verdict.UNKNOWN, Reason.UNKNOWN)  # not its own echo
    # not told of it: no read succeeds, so no command is ever possible
    with bus(Peer(), echo=True) as line, pytest.raises(LinkLost, match="octets came that are no answer"):
        await asyncio.wait_for(create(unit(line.path, timeout_s=0.1)).run(Watch(), {}), 2)


async def test_a_late_answer_is_never_taken_for_the_next_one():
    watch, peer = Watch(), Peer()
    with bus(peer) as line:
        peer.script = lambda asked: [asked.good]
        async with driving(unit(line.path, timeout_s=0.1, poll_s=0.02), watch) as (driver, task):
            numbers = itertools.count(100)

            def script(asked):
                peer.registers[10] = value = next(numbers)
                asked.good = asked.frame(b"\3\2" + value.to_bytes(2, "big"))
                return [0.15, asked.good] if asked.number % 3 == 0 else [asked.good]

            peer.script = script
            seen = len(peer.asked)
            await until(lambda: len(peer.asked) > seen + 12)
            assert not task.done()
    late = {asked.good for asked in peer.asked if asked.number % 3 == 0 and asked.number >= seen}
    values = {int.from_bytes(frame[3:5], "big") for frame in late}
    assert not values & set(watch.values(0))
    assert line.overlaps == 0
    assert driver.counters()["timeouts"] >= 3


@contextlib.asynccontextmanager
async def several(path: str, numbers: range, watches: dict[int, Watch], **options):
    """A driver for each unit, all up."""
    async with contextlib.AsyncExitStack() as stack:
        drivers = {}
        for number in numbers:
            watches[number] = Watch()
            made = unit(path, number, point(0, A, "HR:10"), commanded(1, B, "CO:7"), **options)
            drivers[number] = await stack.enter_async_context(driving(made, watches[number]))
        yield drivers


async def test_units_share_a_line_one_transaction_at_a_time_and_in_turn():
    peer, watches = Peer(), {}
    with bus(peer, (1, 2, 3, 4)) as line:
        peer.script = lambda asked: [0.02, asked.good]
        async with several(line.path, range(1, 5), watches, poll_s=0.02):
            seen = len(peer.asked)
            await until(lambda: len(peer.asked) > seen + 20)
        assert line.overlaps == 0
        order = [asked.unit for asked in peer.asked[seen : seen + 20]]
        assert all(order.count(number) == 5 for number in range(1, 5)), order


async def test_a_command_goes_before_the_polls_of_all_units():
    peer, watches = Peer(), {}
    with bus(peer, (1, 2, 3, 4)) as line:
        async with several(line.path, range(1, 5), watches, poll_s=0.02) as drivers:
            peer.script = lambda asked: [0.05, asked.good]
            seen = len(peer.asked)
            await until(lambda: len(peer.asked) > seen + 4)  # all of them wait by now
            at = len(peer.asked)
            assert (await drivers[3][0].operate(command(1, True))).verdict is Verdict.DONE
            position = next(asked.number for asked in peer.asked[at - 1 :] if asked.function == 5)
            assert position <= at + 1
        assert line.overlaps == 0


async def test_a_dead_unit_does_not_take_the_others_along():
    peer, watches = Peer(), {}
    with bus(peer, (1, 2)) as line:
        async with several(line.path, range(1, 3), watches, timeout_s=0.25) as drivers:
            line.units = (1,)
            await until(drivers[2][1].done)
            with pytest.raises(LinkLost, match="unit 2: 3 polls without an answer"):
                drivers[2][1].result()
            peer.registers[10] = 99
            await until(lambda: watches[1].value(0) == 99)
            assert not drivers[1][1].done()
            assert {sample.quality for sample in watches[1].samples(0)} == {GOOD}
            line.units = (1, 2)
            async with driving(drivers[2][0], watches[2]):
                assert watches[2].value(0) == 99


async def test_an_unclear_write_ends_the_link_of_its_unit_only_and_nothing_overtakes_the_late_echo():
    peer, watches = Peer(), {}
    with bus(peer, (1, 2)) as line:
        async with several(line.path, range(1, 3), watches, timeout_s=0.15, poll_s=0.03) as drivers:
            peer.script = lambda asked: [0.2, asked.good] if asked.function == 5 else [asked.good]
            driver, task = drivers[2]
            reply = await driver.operate(command(1, True))
            assert (reply.verdict, reply.reason) == (Verdict.UNKNOWN, Reason.UNKNOWN)
            assert (await driver.operate(command(1, False))).reason is Reason.DEVICE_OFFLINE
            await until(task.done)
            with pytest.raises(LinkLost, match="no answer"):
                task.result()
            write = next(asked for asked in peer.asked if asked.function == 5)
            await until(lambda: len(peer.asked) > write.number + 2)
            assert peer.asked[write.number + 1].unit == 1
            assert peer.asked[write.number + 1].at - write.at >= 0.2  # the late echo came first
            assert not drivers[1][1].done()
            async with driving(driver, watches[2]):
                peer.script = lambda asked: [asked.good]
                assert (await driver.operate(command(1, False))).verdict is Verdict.DONE
        assert peer.writes == ["050007ff00", "0500070000"]
        assert line.overlaps == 0


async def test_two_units_lost_together_come_back_on_one_line():
    peer, watches = Peer(), {}
    with bus(peer, (1, 2)) as line:
        async with several(line.path, range(1, 3), watches) as drivers:
            shared = LINES._shared[line.path].line
            shared.close("pulled out")
            await until(lambda: all(task.done() for _, task in drivers.values()))
            async with driving(drivers[1][0], watches[1]), driving(drivers[2][0], watches[2]):
                assert LINES._shared[line.path].users == 2
                assert LINES._shared[line.path].line is not shared


async def test_devices_of_one_line_have_its_settings():
    with bus(Peer(), (1, 2)) as line:
        async with driving(unit(line.path, 1), Watch()):
            with pytest.raises(LinkLost, match=r"is in use with 115200 baud, parity none, 1 stop bits, this device"):
                await create(unit(line.path, 2, serial={"parity": "even"})).run(Watch(), {})


async def test_one_who_gives_up_while_the_line_is_opened_does_not_take_it_from_the_others():
    with bus(Peer(), (1, 2)) as line:
        watch = Watch()
        first = asyncio.create_task(create(unit(line.path, 1)).run(Watch(), {}))
        await asyncio.sleep(0)
        async with driving(unit(line.path, 2), watch, wait=False):
            await asyncio.sleep(0)
            first.cancel()
            await until(lambda: watch.ups == 1)


async def test_pause_and_silence_between_frames():
    watch, peer = Watch(), Peer()
    points = [point(row, A, f"HR:{200 * row}") for row in range(4)]
    with bus(peer) as line:
        async with driving(unit(line.path, 1, *points, pause_ms=50), watch):
            times = [asked.at for asked in peer.asked[:4]]
            assert all(later - earlier >= 0.049 for earlier, later in itertools.pairwise(times))


async def test_a_pulse_whose_beginning_is_not_clear_is_ended_on_the_shared_line():
    peer, watches = Peer(), {}
    with bus(peer, (1, 2)) as line:
        pulsed = unit(line.path, 2, commanded(1, B, "CO:9 pulse_ms=100"), timeout_s=0.1)
        async with several(line.path, range(1, 2), watches), driving(pulsed, Watch()) as (driver, _):
            peer.script = lambda asked: [] if asked.function == 5 and asked.pdu[3] else [asked.good]
            assert (await driver.operate(command(1, True))).verdict is Verdict.UNKNOWN
            await until(lambda: peer.writes == ["050009ff00", "0500090000"])
            await until(lambda: not driver._execution._tasks)
            assert driver.counters()["pulses_stuck"] == 0
        assert line.overlaps == 0


async def test_units_behind_a_serial_server_share_its_connection_and_those_of_a_gateway_may():
    for framer, options in (("rtu-over-tcp", {}), ("tcp", {"one_connection": True})):
        async with Peer(rtu=framer != "tcp") as peer:
            devices = [
                Device(
                    name=f"U{number}", protocol="modbus", host="127.0.0.1", port=peer.port, framer=framer,
                    options={"unit": number, "poll_s": 0.05, **options}, points=(point(0, A, "HR:10"),),
                )
                for number in (1, 2)
            ]  # fmt: skip
            async with driving(devices[0], Watch()), driving(devices[1], Watch()):
                assert {asked.unit for asked in peer.asked} == {1, 2}
            assert peer.connections == 1
    async with Peer() as peer:
        devices = [
            Device(name=f"U{number}", protocol="modbus", host="127.0.0.1", port=peer.port, framer="tcp",
                   options={"unit": number}, points=(point(0, A, "HR:10"),))
            for number in (1, 2)
        ]  # fmt: skip
        async with driving(devices[0], Watch()), driving(devices[1], Watch()):
            assert peer.connections == 2
