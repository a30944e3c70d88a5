"""Commands over real sockets: what comes in at the device, how often, and what is answered to the core."""

from __future__ import annotations

import asyncio
import time

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Native, Reply, StepKind, Verdict
from gatewayd.points.types import Kind
from gatewayd.protocols.driver import LinkLost
from gatewayd.protocols.modbus import execution
from gatewayd.protocols.modbus.driver import create
from simulators.modbus_meter import ModbusMeter
from tests.protocols.modbus.peers import CLOSE, Action, Asked, Peer
from tests.protocols.modbus.support import commanded, device, driving, point
from tests.protocols.watching import Watch, command, until

A, B, D, E = Kind.ANALOG, Kind.BINARY, Kind.DOUBLE, Kind.ENUM
DONE = Reply(Verdict.DONE)
UNKNOWN = (Verdict.UNKNOWN, Reason.UNKNOWN)

COIL, REGISTER, FLOAT, COIL15, REGISTER16, READ_BACK, PAIR, CODES, TEXT = range(9)
POINTS = [
    commanded(COIL, B, "CO:0", "DI:0"),
    commanded(REGISTER, A, "HR:120", "HR:120"),
    commanded(FLOAT, A, "HR:130:f32:cdab", "HR:130:f32:cdab"),
    commanded(COIL15, B, "CO:5 fc=15"),
    commanded(REGISTER16, A, "HR:121 fc=16"),
    commanded(READ_BACK, B, "CO:6", readback=True),
    commanded(PAIR, D, "CO:7|CO:8"),
    commanded(CODES, D, "HR:50 on=2 off=1"),
    commanded(TEXT, Kind.STRING, "HR:60:str6"),
]


def written(meter: ModbusMeter) -> list[tuple[int, int, list[int]]]:
    return [(write.function, write.address, write.values) for write in meter.writes]


@pytest.mark.parametrize(
    ("row", "value", "expected"),
    [
        (COIL, True, (5, 0, [1])),
        (COIL, False, (5, 0, [0])),
        (REGISTER, 30.0, (6, 120, [30])),
        (FLOAT, 1.5, (16, 130, [0, 0x3FC0])),
        (COIL15, True, (15, 5, [1])),
        (REGISTER16, 7, (16, 121, [7])),
        (READ_BACK, True, (5, 6, [1])),
        (PAIR, False, (5, 7, [1])),
        (PAIR, True, (5, 8, [1])),
        (CODES, True, (6, 50, [2])),
        (CODES, False, (6, 50, [1])),
        (TEXT, "AB", (16, 60, [0x4142, 0, 0])),
    ],
)
async def test_one_command_is_one_write(row: int, value, expected):
    watch = Watch()
    async with ModbusMeter() as meter, driving(device(meter.port, POINTS), watch) as (driver, _):
        assert await driver.operate(command(row, value)) == DONE
        assert written(meter) == [expected]
        assert driver.counters()["commands"] == 1


async def test_functions_15_and_16_and_the_column_readback_read_back_on_the_wire():
    watch = Watch()
    async with ModbusMeter() as meter, driving(device(meter.port, POINTS, poll_s=60), watch) as (driver, _):
        for row, value, expected in (
            (COIL15, True, (1, 5, 1)),
            (REGISTER16, 7, (3, 121, 1)),
            (FLOAT, 2.5, (3, 130, 2)),
            (READ_BACK, True, (1, 6, 1)),
        ):
            await driver.operate(command(row, value))
            assert meter.requests[-1] == expected
        await driver.operate(command(COIL, True))
        assert meter.requests[-1][0] == 5  # the echo says it all


async def test_select_and_cancel_send_nothing():
    watch = Watch()
    async with ModbusMeter() as meter, driving(device(meter.port, POINTS, poll_s=60), watch) as (driver, _):
        before = len(meter.requests)
        assert await driver.select(command(COIL, True)) == DONE
        assert await driver.cancel(command(COIL, True)) == DONE
        assert len(meter.requests) == before
        assert (await driver.select(command(REGISTER, 1.5))).reason is Reason.BAD_REQUEST
        assert (await driver.select(command(REGISTER, 70_000))).reason is Reason.OUT_OF_RANGE
        assert len(meter.requests) == before


async def test_what_cannot_be_sent_is_refused_before_anything_is():
    watch = Watch()
    points = [*POINTS, point(20, A, "HR:0")]
    async with ModbusMeter() as meter, driving(device(meter.port, points), watch) as (driver, _):
        for asked, reason in (
            (command(COIL, 0.5), Reason.BAD_REQUEST),
            (command(REGISTER, 70_000), Reason.OUT_OF_RANGE),
            (command(REGISTER, True), Reason.BAD_REQUEST),
            (command(20, 1), Reason.UNSUPPORTED),
            (command(99, 1), Reason.UNSUPPORTED),
            (command(COIL, True, test=True), Reason.UNSUPPORTED),
            (command(COIL, True, within_s=-0.001), Reason.EXPIRED),
        ):
            reply = await driver.operate(asked)
            assert (reply.verdict, reply.reason) == (Verdict.REFUSED, reason)
        assert meter.writes == []


async def test_not_connected_is_device_offline():
    async with ModbusMeter() as meter:
        driver = create(device(meter.port, POINTS))
        for call in (driver.select, driver.operate, driver.cancel):
            assert await call(command(COIL, True)) == Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE)
        async with driving(driver, Watch()) as (_, task):
            await asyncio.to_thread(meter.stop)
            await until(task.done)
        assert (await driver.operate(command(COIL, True))).reason is Reason.DEVICE_OFFLINE
        assert meter.writes == []


async def test_the_time_is_checked_when_the_write_goes_out_not_when_it_is_asked_for():
    watch = Watch()
    async with Peer() as peer:
        made = device(peer.port, [point(0, A, "HR:0"), commanded(1, B, "CO:7")], timeout_s=2)
        async with driving(made, watch) as (driver, _):
            peer.script = lambda asked: [0.3, asked.good]
            polls = len(peer.asked)
            await until(lambda: len(peer.asked) > polls)  # a read is under way: the write has to wait for its answer
            reply = await driver.operate(command(1, True, within_s=0.1))
            assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.EXPIRED)
            assert peer.writes == []


async def test_a_command_goes_before_the_rest_of_a_poll():
    watch = Watch()
    points = [*(point(row, A, f"HR:{200 * row}") for row in range(10)), commanded(20, B, "CO:7")]
    async with Peer() as peer, driving(device(peer.port, points, poll_s=30), watch) as (driver, _):
        peer.script = lambda asked: [0.05, asked.good]
        first = len(peer.asked)
        reading = asyncio.create_task(driver.interrogate())
        await until(lambda: len(peer.asked) == first + 1)
        assert await driver.operate(command(20, True)) == DONE
        await reading
        assert [asked.function for asked in peer.asked[first:]] == [3, 5, *[3] * 9]
        # what was read after the write is not made to look older by what was read before it
        write_ns = peer.asked[first + 1].at * 1e9
        for batch in watch.batches[1:]:
            if {sample.point for sample in batch.samples} & set(range(1, 10)):
                assert batch.mono_ns > write_ns


@pytest.mark.parametrize("row", [COIL, REGISTER, COIL15, REGISTER16])
@pytest.mark.parametrize(
    ("code", "verdict", "reason"),
    [
        (1, Verdict.REFUSED, Reason.UNSUPPORTED), (2, Verdict.REFUSED, Reason.UNKNOWN_POINT),
        (3, Verdict.REFUSED, Reason.OUT_OF_RANGE), (4, Verdict.UNKNOWN, Reason.UNKNOWN),
        (5, Verdict.DONE, Reason.OK), (6, Verdict.REFUSED, Reason.DEVICE_BUSY), (8, Verdict.UNKNOWN, Reason.UNKNOWN),
        (0x0A, Verdict.REFUSED, Reason.DEVICE_OFFLINE), (0x0B, Verdict.UNKNOWN, Reason.UNKNOWN),
    ],
)  # fmt: skip
@pytest.mark.case("N16")
async def test_every_exception_has_its_reason_and_is_never_tried_again(row: int, code: int, verdict, reason):
    watch = Watch()
    async with ModbusMeter() as meter, driving(device(meter.port, POINTS), watch) as (driver, task):
        for function in (5, 6, 15, 16):
            meter.refuse[function] = code
        reply = await driver.operate(command(row, 1 if row in (REGISTER, REGISTER16) else True))
        assert (reply.verdict, reply.reason) == (verdict, reason)
        assert reply.native is not None
        assert reply.native[:2] == ("modbus", code)
        assert len(meter.writes) == 1
        assert not task.done()


async def test_a_silent_device_is_unknown_and_the_connection_is_closed_before_anything_else():
    watch = Watch()
    async with ModbusMeter() as meter, driving(device(meter.port, POINTS, timeout_s=0.2), watch) as (driver, task):
        meter.silent.add(5)
        reply = await driver.operate(command(COIL, True))
        seen = len(meter.requests)
        assert reply == Reply(*UNKNOWN, Native("modbus", 0, "no-answer"))
        assert (await driver.operate(command(COIL, True))).reason is Reason.DEVICE_OFFLINE
        await until(task.done)
        with pytest.raises(LinkLost, match="closed after a write without a clear answer"):
            task.result()
        await until(lambda: meter.connections == 0)
        assert meter.requests[seen:] == []
        async with driving(driver, watch):  # and nothing is sent again on the next one
            assert len(meter.writes) == 1
        assert driver.counters()["unclear_commands"] == 1


WRONG: dict[str, tuple[str, object]] = {
    "another coil": ("bad-answer", lambda a: [a.frame(bytes.fromhex("050008ff00"))]),
    "the opposite": ("bad-answer", lambda a: [a.frame(bytes.fromhex("0500070000"))]),
    "another function": ("bad-answer", lambda a: [a.frame(bytes.fromhex("060007ff00"))]),
    "exception of another function": ("bad-answer", lambda a: [a.frame(b"\x86\x02")]),
    "too short": ("bad-answer", lambda a: [a.frame(bytes.fromhex("050007"))]),
    "too long": ("bad-answer", lambda a: [a.frame(bytes.fromhex("050007ff0000"))]),
    "another unit": ("bad-answer", lambda a: [a.frame(a.pdu, unit=2)]),
    "another transaction": ("no-answer", lambda a: [a.frame(a.pdu, tid=b"\0\0")]),
    "nothing": ("no-answer", lambda _: []),
    "too late": ("no-answer", lambda a: [0.5, a.good]),
    "half, then closed": ("connection-lost", lambda a: [a.good[:9], CLOSE]),
    "closed": ("connection-lost", lambda _: [CLOSE]),
    "no Modbus": ("connection-lost", lambda _: [b"HTTP/1.1 400 Bad Request\r\n\r\n"]),
}


@pytest.mark.parametrize("wrong", list(WRONG))
async def test_an_unclear_answer_is_unknown_sent_once_and_the_connection_is_gone(wrong: str):
    name, script = WRONG[wrong]
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, [commanded(0, B, "CO:7")], timeout_s=0.2), watch) as (
        driver, task,
    ):  # fmt: skip
        peer.script = script
        reply = await driver.operate(command(0, True))
        assert reply == Reply(*UNKNOWN, Native("modbus", 0, name))
        assert (await driver.operate(command(0, True))).reason is Reason.DEVICE_OFFLINE
        await until(task.done)
        peer.script = lambda asked: [asked.good]
        async with driving(driver, watch):
            assert await driver.operate(command(0, False)) == DONE
        assert peer.writes == ["050007ff00", "0500070000"]
        assert [asked.connection for asked in peer.asked] == [1, 2]


async def test_a_value_read_back_that_differs_is_unknown():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, POINTS, poll_s=60), watch) as (driver, _):
        peer.script = lambda asked: [asked.frame(b"\1\1\0") if asked.function == 1 else asked.good]
        for row in (COIL15, READ_BACK):
            reply = await driver.operate(command(row, True))
            assert reply == Reply(*UNKNOWN, Native("modbus", 0, "readback-differs"))
        peer.script = lambda asked: [asked.exception(2) if asked.function == 3 else asked.good]
        reply = await driver.operate(command(REGISTER16, 5))
        assert reply == Reply(*UNKNOWN, Native("modbus", 2, "not-read-back"))
        assert len(peer.writes) == 3


async def test_two_commands_at_once_go_one_after_the_other_and_of_one_output_the_second_is_refused():
    watch = Watch()
    points = [commanded(0, B, "CO:7"), commanded(1, B, "CO:8")]
    async with Peer() as peer, driving(device(peer.port, points, timeout_s=2), watch) as (driver, _):
        peer.script = lambda asked: [0.1, asked.good]
        replies = await asyncio.gather(*(driver.operate(command(row, True)) for row in (0, 1, 0)))
        assert [reply.reason for reply in replies] == [Reason.OK, Reason.OK, Reason.DEVICE_BUSY]
        assert peer.writes == ["050007ff00", "050008ff00"]
        assert peer.asked[1].at - peer.asked[0].at >= 0.1


async def test_a_command_given_up_by_its_asker_is_still_carried_out_once_and_brought_to_its_end():
    watch = Watch()
    async with Peer() as peer:
        made = device(peer.port, [commanded(0, B, "CO:7 pulse_ms=100")], timeout_s=2)
        async with driving(made, watch) as (driver, _):
            peer.script = lambda asked: [0.1, asked.good]
            asking = asyncio.create_task(driver.operate(command(0, True)))
            await until(lambda: peer.writes)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await until(lambda: peer.writes == ["050007ff00", "0500070000"])


# ---- guards


GUARDED = [commanded(0, B, "CO:7", guard="DI:3=1 HR:10.2=0 IR:5:f32>=1.5")]


async def test_guards_are_read_before_the_write_and_must_all_hold():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, GUARDED, poll_s=60), watch) as (driver, _):
        peer.bits[3] = True
        peer.registers |= {10: 0xFFFB, 5: 0x3FC0, 6: 0}
        assert await driver.operate(command(0, True)) == DONE
        assert [asked.pdu.hex() for asked in peer.asked] == [
            "0200030001", "03000a0001", "0400050002", "050007ff00",
        ]  # fmt: skip
        peer.registers[10] = 4
        reply = await driver.operate(command(0, False))
        assert reply[:3] == (
            Verdict.REFUSED,
            Reason.INTERLOCKED,
            Native("modbus", 0, "guard HR:10.2 is 1; =0 is needed"),
        )
        assert len(peer.writes) == 1
        assert len(peer.asked) == 6  # the third was not asked for any more


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda a: [a.exception(2)], Reason.UNKNOWN_POINT),
        (lambda a: [a.exception(4)], Reason.DEVICE_REJECTED),
        (lambda a: [a.exception(6)], Reason.DEVICE_BUSY),
        (lambda _: [], Reason.DEVICE_NO_ANSWER),
        (lambda a: [a.frame(b"\2\2\1\1")], Reason.DEVICE_NO_ANSWER),
        (lambda _: [CLOSE], Reason.DEVICE_NO_ANSWER),
    ],
)
async def test_a_guard_that_cannot_be_read_refuses(answer, reason: Reason):
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, GUARDED, timeout_s=0.1, poll_s=60), watch) as (driver, _):
        peer.bits[3] = True
        peer.script = answer
        reply = await driver.operate(command(0, True))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, reason)
        assert peer.writes == []


# ---- pulses


PULSED = [commanded(0, D, "CO:7|CO:8 pulse_ms=150"), commanded(1, B, "CO:9")]


async def test_a_pulse_is_answered_at_its_beginning_and_ended_in_time():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, PULSED), watch) as (driver, _):
        assert await driver.operate(command(0, False)) == DONE
        assert peer.writes == ["050007ff00"]
        assert (await driver.operate(command(0, False))).reason is Reason.DEVICE_BUSY
        assert await driver.operate(command(1, True)) == DONE
        await until(lambda: len(peer.writes) == 3)
        assert peer.writes[2] == "0500070000"
        on, _, off = (asked.at for asked in peer.asked if asked.function == 5)
        assert 0.14 <= off - on < 0.3
        assert await driver.operate(command(0, True)) == DONE
        await until(lambda: peer.writes[3:] == ["050008ff00", "0500080000"])
        counters = driver.counters()
        assert (counters["pulses"], counters["pulses_stuck"]) == (2, 0)
        assert watch.steps == []


async def test_a_pulse_that_was_refused_needs_no_end():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, PULSED), watch) as (driver, _):
        peer.script = lambda asked: [asked.exception(6)]
        assert (await driver.operate(command(0, True))).reason is Reason.DEVICE_BUSY
        peer.script = lambda asked: [asked.good]
        assert await driver.operate(command(0, False)) == DONE
        await until(lambda: len(peer.writes) == 3)
        assert peer.writes == ["050008ff00", "050007ff00", "0500070000"]


@pytest.mark.parametrize("first", [lambda a: [a.exception(4)], lambda _: [], lambda _: [CLOSE]])
async def test_a_pulse_that_may_have_begun_is_ended(first):
    """Also where the connection is gone: on one made for it, since no driver reconnects here."""
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, PULSED, timeout_s=0.1), watch) as (driver, _):
        peer.script = lambda asked: first(asked) if asked.pdu[3] else [asked.good]
        reply = await driver.operate(command(0, True))
        assert reply[:2] == UNKNOWN
        await until(lambda: peer.writes == ["050008ff00", "0500080000"])
        await until(lambda: driver.counters()["pulses"] == 1)
        assert driver.counters()["pulses_stuck"] == 0


async def test_the_end_of_a_pulse_is_the_only_write_that_repeats(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(execution, "RESET_EVERY_S", 0.02)
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, PULSED), watch) as (driver, _):

        def script(asked: Asked) -> list[Action]:
            return [asked.good] if asked.pdu[3] or len(peer.writes) > 3 else [asked.exception(6)]

        peer.script = script
        assert await driver.operate(command(0, True)) == DONE
        await until(lambda: len(peer.writes) == 4)
        assert peer.writes == ["050008ff00", *["0500080000"] * 3]
        await until(lambda: not driver._execution._tasks)
        assert watch.steps == []


@pytest.mark.case("F15")
@pytest.mark.parametrize(("answer", "code"), [(lambda a: [a.exception(4)], 4), (lambda _: [CLOSE], 0)])
async def test_a_pulse_that_cannot_be_ended_is_told(answer, code: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(execution, "RESET_EVERY_S", 0.02)
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, PULSED), watch) as (driver, _):
        peer.script = lambda asked: [asked.good] if asked.pdu[3] else answer(asked)
        asked = command(0, True)
        assert await driver.operate(asked) == DONE
        await until(lambda: watch.steps)
        ((id_, step),) = watch.steps
        assert (id_, step.kind, step.reason) == (asked.id, StepKind.TERMINATED_NEGATIVE, Reason.UNKNOWN)
        assert step.native == Native("modbus", code, "pulse-stuck")
        assert peer.writes == ["050008ff00", *["0500080000"] * 5]
        assert driver.counters()["pulses_stuck"] == 1


async def test_a_stop_brings_pulses_to_their_end_and_cuts_long_ones_short(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gatewayd.protocols.modbus.driver.LONGEST_STOP_S", 0.2)
    watch = Watch()
    points = [commanded(0, B, "CO:7 pulse_ms=60000"), commanded(1, B, "CO:8 pulse_ms=100")]
    async with Peer() as peer:
        async with driving(device(peer.port, points), watch) as (driver, task):
            assert await driver.operate(command(0, True)) == DONE
            assert await driver.operate(command(1, True)) == DONE
            stopped = time.monotonic()
            task.cancel()
            await until(lambda: driver._stopping)
            assert (await driver.operate(command(1, True))).reason is Reason.DEVICE_OFFLINE
            await asyncio.wait({task})
            assert time.monotonic() - stopped < 2
        assert peer.writes == ["050007ff00", "050008ff00", "0500080000", "0500070000"]
        assert {asked.connection for asked in peer.asked} == {1}


async def test_a_pulse_goes_on_over_a_lost_link_and_its_end_takes_the_next_connection():
    watch = Watch()
    async with Peer() as peer:
        made = device(peer.port, [point(5, A, "HR:0"), commanded(0, B, "CO:7 pulse_ms=400")])
        async with driving(made, watch) as (driver, task):
            assert await driver.operate(command(0, True)) == DONE
            await peer.stop()
            await until(task.done)
            await peer.start()
        async with driving(driver, watch):
            await until(lambda: peer.writes == ["050007ff00", "0500070000"])
            assert peer.connections == 2


# ---- recipes


RECIPE = "recipe=select HR:200=0x5A5A|0xA5A5 > verify HR:201=1 within_ms=300 > operate CO:7|CO:8 > release HR:200=0"
SELECT, VERIFY, OPERATE, RELEASE = "0600c8a5a5", "0300c90001", "050008ff00", "0600c80000"
WITH_RECIPE = [commanded(0, D, RECIPE)]


def answering(at: str, answer):
    """Only the request with this PDU is answered otherwise."""
    return lambda asked: answer(asked) if asked.pdu.hex() == at else [asked.good]


async def test_a_recipe_selects_verifies_operates_and_releases():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, WITH_RECIPE), watch) as (driver, _):
        peer.registers[201] = 1
        assert await driver.operate(command(0, True)) == DONE
        await until(lambda: len(peer.writes) == 3)
        assert [asked.pdu.hex() for asked in peer.asked] == [SELECT, VERIFY, OPERATE, RELEASE]
        assert await driver.operate(command(0, False)) == DONE
        await until(lambda: len(peer.writes) == 6)
        assert peer.writes[3:] == ["0600c85a5a", "050007ff00", RELEASE]


async def test_a_verify_waits_for_its_value():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, WITH_RECIPE), watch) as (driver, _):
        peer.registers[201] = 0
        operating = asyncio.create_task(driver.operate(command(0, True)))
        await until(lambda: len(peer.reads) >= 3)
        assert peer.writes == [SELECT]
        peer.registers[201] = 1
        assert await operating == DONE


NO, MAYBE = Verdict.REFUSED, Verdict.UNKNOWN
NOTHING, HANGS_UP = (lambda _: []), (lambda _: [CLOSE])


def refuses(code: int):
    return lambda asked: [asked.exception(code)]


@pytest.mark.parametrize(
    ("at", "answer", "verdict", "reason"),
    [
        (SELECT, refuses(6), NO, Reason.DEVICE_BUSY),
        (SELECT, refuses(4), NO, Reason.DEVICE_REJECTED),
        (SELECT, NOTHING, NO, Reason.DEVICE_NO_ANSWER),
        (SELECT, HANGS_UP, NO, Reason.DEVICE_NO_ANSWER),
        (VERIFY, lambda asked: [asked.frame(b"\3\2\0\0")], NO, Reason.DEVICE_REJECTED),
        (VERIFY, refuses(2), NO, Reason.UNKNOWN_POINT),
        (VERIFY, NOTHING, NO, Reason.DEVICE_NO_ANSWER),
        (OPERATE, refuses(3), NO, Reason.OUT_OF_RANGE),
        (OPERATE, refuses(4), MAYBE, Reason.UNKNOWN),
        (OPERATE, NOTHING, MAYBE, Reason.UNKNOWN),
        (OPERATE, HANGS_UP, MAYBE, Reason.UNKNOWN),
    ],
)
async def test_a_recipe_is_released_on_every_path_and_each_step_tried_once(at: str, answer, verdict, reason):
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, WITH_RECIPE), watch) as (driver, _):
        peer.registers[201] = 1
        peer.script = answering(at, answer)
        reply = await driver.operate(command(0, True))
        assert (reply.verdict, reply.reason) == (verdict, reason)
        writes = [SELECT, OPERATE, RELEASE] if at == OPERATE else [SELECT, RELEASE]
        await until(lambda: peer.writes == writes)
        await until(lambda: not driver._execution._tasks)
        assert peer.writes == writes
        assert driver.counters()["releases_failed"] == 0


async def test_a_recipe_past_its_time_is_not_operated_but_released():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, WITH_RECIPE), watch) as (driver, _):
        reply = await driver.operate(command(0, True, within_s=-0.001))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.EXPIRED)
        await until(lambda: not driver._execution._tasks)
        assert peer.writes == []  # nothing was selected either
        peer.registers[201] = 1
        peer.script = answering(VERIFY, lambda a: [0.2, a.good])
        reply = await driver.operate(command(0, True, within_s=0.1))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.EXPIRED)
        await until(lambda: peer.writes == [SELECT, RELEASE])


async def test_a_release_that_fails_is_counted_and_not_repeated():
    watch = Watch()
    async with Peer() as peer, driving(device(peer.port, WITH_RECIPE), watch) as (driver, _):
        peer.registers[201] = 1
        peer.script = answering(RELEASE, refuses(4))
        assert await driver.operate(command(0, True)) == DONE
        await until(lambda: driver.counters()["releases_failed"] == 1)
        await until(lambda: not driver._execution._tasks)
        assert peer.writes == [SELECT, OPERATE, RELEASE]


async def test_a_second_recipe_on_the_same_registers_waits_for_the_first_to_be_released():
    watch = Watch()
    points = [commanded(0, D, RECIPE), commanded(1, D, RECIPE.replace("CO:7|CO:8", "CO:17|CO:18"))]
    async with Peer() as peer, driving(device(peer.port, points), watch) as (driver, _):
        peer.registers[201] = 1
        peer.script = answering(RELEASE, lambda a: [0.1, a.good])
        first, second = await asyncio.gather(*(driver.operate(command(row, True)) for row in (0, 1)))
        assert (first.reason, second.reason) == (Reason.OK, Reason.DEVICE_BUSY)
        await until(lambda: not driver._execution._tasks)
        assert await driver.operate(command(1, True)) == DONE
