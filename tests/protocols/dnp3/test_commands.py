"""Commands on the wire: what goes out, how often, and what each answer means."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Reply, Verdict
from gatewayd.points.types import ControlMode, Kind, Value
from gatewayd.protocols.dnp3 import commanding
from gatewayd.protocols.dnp3.driver import Dnp3Driver
from gatewayd.protocols.driver import Interrogable, Operable
from tests.protocols.dnp3.outstation import (
    BAD_PARAMETER,
    NO_FUNCTION,
    NO_OBJECT,
    Answer,
    Function,
    Outstation,
    Request,
    indexed,
    ranged,
    time48,
)
from tests.protocols.dnp3.support import device, driving, point
from tests.protocols.dnp3.test_status import REFUSALS
from tests.protocols.watching import Watch, command, ended, until

CONTROLS = (Function.SELECT, Function.OPERATE, Function.DIRECT_OPERATE)
COMMANDS = {
    0: (Kind.DOUBLE, "CROB:2 trip-close on=250"),
    1: (Kind.BINARY, "CROB:4 latch"),
    2: (Kind.BINARY, "CROB:7 pulse open=300 on=20 off=30"),
    3: (Kind.ANALOG, "AO:1 i16"),
    4: (Kind.ANALOG, "AO:2 i32"),
    5: (Kind.ANALOG, "AO:3 f32"),
    6: (Kind.ANALOG, "AO:4 f64"),
    7: (Kind.COUNTER, "CROB:6 raise-lower"),
    8: (Kind.BINARY, "CROB:5 pulse"),
    9: (Kind.BINARY, "CROB:9 codes true=0x63 false=0xA4 nonstandard"),
}
READ = 20
POINTS = [
    point(READ, Kind.BINARY, "BI:0"),
    *(point(row, kind, "", control=ControlMode.SBO, command=text) for row, (kind, text) in COMMANDS.items()),
]
STATIC = ranged(1, 2, 0, [b"\x01"])


@contextlib.asynccontextmanager
async def standing(
    *, watch: Watch | None = None, **options: Any
) -> AsyncIterator[tuple[Outstation, Dnp3Driver, asyncio.Task[None]]]:
    made = {"event_poll_s": 60, "response_timeout_s": 0.4, **options}
    async with (
        Outstation(static=STATIC) as rtu,
        driving(device(rtu.port, POINTS, **made), watch or Watch()) as (driver, task),
    ):
        await until(lambda: rtu.count(Function.ENABLE_UNSOLICITED) == 1, what="start")
        rtu.requests.clear()
        yield rtu, driver, task


def controls(rtu: Outstation) -> list[int]:
    return [request.function for request in rtu.requests if request.function in CONTROLS]


def crob(index: int, code: int, on: int = 100, off: int = 100) -> bytes:
    return bytes((12, 1, 0x28, 1, 0)) + struct.pack("<HBBIIB", index, code, 1, on, off, 0)


def analog(index: int, variation: int, form: str, value: float) -> bytes:
    return bytes((41, variation, 0x28, 1, 0)) + struct.pack(f"<H{form}B", index, value, 0)


OUTGOING: list[tuple[int, Value, bytes]] = [
    (0, True, crob(2, 0x41, 250)),
    (0, False, crob(2, 0x81, 250)),
    (1, True, crob(4, 0x03)),
    (1, False, crob(4, 0x04)),
    (2, True, crob(7, 0x01, 20, 30)),
    (2, False, crob(300, 0x01, 20, 30)),
    (3, -1234, analog(1, 2, "h", -1234)),
    (4, 123456.0, analog(2, 1, "i", 123456)),
    (5, 1.5, analog(3, 3, "f", 1.5)),
    (6, 0.1, analog(4, 4, "d", 0.1)),
    (7, True, crob(6, 0x41)),
    (7, False, crob(6, 0x81)),
    (8, True, crob(5, 0x01)),
    (9, True, crob(9, 0x63)),
    (9, False, crob(9, 0xA4)),
]


async def test_what_goes_out_for_each_form_and_value() -> None:
    async with standing() as (rtu, driver, _):
        for row, value, octets in OUTGOING:
            for sbo in (True, False):
                rtu.requests.clear()
                reply = await driver.operate(command(row, value, sbo=sbo))
                assert (reply.verdict, reply.reason) == (Verdict.DONE, Reason.OK), (row, value)
                functions = CONTROLS[:2] if sbo else CONTROLS[2:]
                assert [(r.function, r.objects) for r in rtu.requests] == [(code, octets) for code in functions]
        assert driver.counters()["commands"] == 2 * len(OUTGOING)


async def test_operate_follows_select_with_the_next_sequence_number() -> None:
    async with standing() as (rtu, driver, _):
        await driver.operate(command(0, True))
        select, operate = rtu.requests
        assert operate.sequence == (select.sequence + 1) & 0x0F
        assert operate.objects == select.objects


async def test_one_octet_of_index_where_the_device_wants_it() -> None:
    async with standing(control_index_octets=1) as (rtu, driver, _):
        await driver.operate(command(0, True, sbo=False))
        assert rtu.requests[-1].objects[:4] == bytes((12, 1, 0x17, 1))
        await driver.operate(command(2, False, sbo=False))  # index 300 does not fit into one
        assert rtu.requests[-1].objects[:3] == bytes((12, 1, 0x28))


@pytest.mark.case("R19")
@pytest.mark.case("R20")
async def test_no_request_comes_between_select_and_operate() -> None:
    async with standing(event_poll_s=0.05) as (rtu, driver, _):
        ms = time.time_ns() // 1_000_000

        def select(request: Request) -> Answer:
            rtu.unsolicited(indexed(2, 2, [(0, b"\x81" + time48(ms))]))
            return Answer(request.objects)

        rtu.answers[Function.SELECT] = select
        for _ in range(20):
            assert (await driver.operate(command(0, True))).verdict is Verdict.DONE
        functions = [r.function for r in rtu.requests if r.function != Function.CONFIRM]
        for at, function in enumerate(functions):
            if function == Function.SELECT:
                assert functions[at + 1] == Function.OPERATE


def status(code: int) -> Callable[[Request], Answer]:
    return lambda request: Answer(request.objects[:-1] + bytes((code,)))


@pytest.mark.case("N14")
@pytest.mark.parametrize("stage", [Function.SELECT, Function.OPERATE, Function.DIRECT_OPERATE])
async def test_every_status_code_at_every_stage(stage: Function) -> None:
    async with standing() as (rtu, driver, _):
        for code in range(1, 128):
            rtu.requests.clear()
            rtu.answers = {stage: status(code)}
            reply = await driver.operate(command(0, True, sbo=stage != Function.DIRECT_OPERATE))
            if stage == Function.SELECT:
                reason = REFUSALS.get(code, "device-rejected")
                assert (reply.verdict, reply.reason) == (Verdict.REFUSED, reason), code
                assert controls(rtu) == [Function.SELECT]  # no OPERATE after a refused SELECT
            elif code in REFUSALS:
                verdict = Verdict.UNKNOWN if code in (6, 18) else Verdict.REFUSED
                assert (reply.verdict, reply.reason) == (verdict, REFUSALS[code]), code
            else:
                assert (reply.verdict, reply.reason) == (Verdict.UNKNOWN, Reason.UNKNOWN), code
            assert len(controls(rtu)) == len(set(controls(rtu)))
            if code in REFUSALS:
                assert reply.native is not None
                assert (reply.native.proto, reply.native.code) == ("dnp3", code)


def other(at: int) -> Callable[[Request], Answer]:
    return lambda request: Answer(bytes(o ^ (at == n) for n, o in enumerate(request.objects)))


BAD_ECHOES: dict[str, Callable[[Request], Any]] = {
    "nothing": lambda _: Answer(),
    "another index": other(5),
    "another code": other(7),
    "another count": other(8),
    "another time": other(9),
    "another object": other(0),
    "another qualifier": lambda request: Answer(b"\x0c\x01\x17\x01" + request.objects[5:6] + request.objects[7:]),
    "two objects": lambda request: Answer(request.objects[:3] + b"\x02\x00" + request.objects[5:] * 2),
    "cut": lambda request: Answer(request.objects[:-2]),
    "values instead": lambda _: Answer(STATIC),
    "rubbish": lambda _: Answer(b"\xde\xad\xbe\xef"),
}  # fmt: skip


@pytest.mark.parametrize("echo", sorted(BAD_ECHOES))
async def test_a_wrong_echo(echo: str) -> None:
    """To the SELECT it is a refusal, since no OPERATE follows; to an OPERATE nobody knows."""
    async with standing() as (rtu, driver, _):
        rtu.answers = {Function.SELECT: BAD_ECHOES[echo]}
        reply = await driver.operate(command(0, True))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.DEVICE_REJECTED)
        assert controls(rtu) == [Function.SELECT]
        for stage in (Function.OPERATE, Function.DIRECT_OPERATE):
            rtu.answers = {stage: BAD_ECHOES[echo]}
            reply = await driver.operate(command(0, True, sbo=stage == Function.OPERATE))
            assert (reply.verdict, reply.reason) == (Verdict.UNKNOWN, Reason.UNKNOWN)


@pytest.mark.parametrize("stage", [Function.SELECT, Function.OPERATE, Function.DIRECT_OPERATE])
@pytest.mark.parametrize(
    ("iin", "reason"), [(NO_FUNCTION, "unsupported"), (NO_OBJECT, "unknown-point"), (BAD_PARAMETER, "bad-request")]
)
async def test_error_indications_are_refusals(stage: Function, iin: int, reason: str) -> None:
    async with standing() as (rtu, driver, _):
        rtu.answers = {stage: lambda _: Answer(iin=iin)}
        reply = await driver.operate(command(0, True, sbo=stage != Function.DIRECT_OPERATE))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, reason)
        assert reply.native is not None
        assert reply.native.proto == "dnp3-iin"


@pytest.mark.parametrize(
    ("stage", "verdict", "reason"),
    [
        (Function.SELECT, Verdict.REFUSED, Reason.DEVICE_NO_ANSWER),
        (Function.OPERATE, Verdict.UNKNOWN, Reason.UNKNOWN),
        (Function.DIRECT_OPERATE, Verdict.UNKNOWN, Reason.UNKNOWN),
    ],
)
async def test_no_answer(stage: Function, verdict: Verdict, reason: Reason) -> None:
    async with standing() as (rtu, driver, task):
        rtu.answers = {stage: lambda _: None}
        reply = await driver.operate(command(0, True, sbo=stage != Function.DIRECT_OPERATE))
        assert (reply.verdict, reply.reason) == (verdict, reason)
        assert len(controls(rtu)) == (2 if stage == Function.OPERATE else 1)
        assert not task.done()


@pytest.mark.parametrize(
    ("stage", "verdict", "reason"),
    [
        (Function.SELECT, Verdict.REFUSED, Reason.DEVICE_OFFLINE),
        (Function.OPERATE, Verdict.UNKNOWN, Reason.UNKNOWN),
        (Function.DIRECT_OPERATE, Verdict.UNKNOWN, Reason.UNKNOWN),
    ],
)
async def test_the_link_is_lost_at_each_stage(stage: Function, verdict: Verdict, reason: Reason) -> None:
    async with standing(response_timeout_s=5) as (rtu, driver, task):
        rtu.answers = {stage: lambda _: rtu.hang_up()}  # type: ignore[dict-item, func-returns-value]
        began = time.monotonic()
        reply = await driver.operate(command(0, True, sbo=stage != Function.DIRECT_OPERATE))
        assert (reply.verdict, reply.reason) == (verdict, reason)
        assert time.monotonic() - began < 2
        await ended(task)
        assert (await driver.operate(command(0, True))).reason is Reason.DEVICE_OFFLINE


async def test_nothing_is_sent_after_its_time() -> None:
    async with standing() as (rtu, driver, _):
        reply = await driver.operate(command(0, True, within_s=-0.001))
        assert reply == Reply(Verdict.REFUSED, Reason.EXPIRED)
        assert controls(rtu) == []


async def test_an_operate_that_would_be_late_is_stopped_at_the_gate() -> None:
    """The answer to the SELECT comes after `not_after`; opendnp3 goes on to OPERATE, the gate does not let it out."""
    async with standing(response_timeout_s=1) as (rtu, driver, _):

        def late(request: Request) -> None:
            asyncio.get_running_loop().call_later(0.4, rtu.respond, request, Answer(request.objects))

        rtu.answers = {Function.SELECT: late}
        reply = await driver.operate(command(0, True, within_s=0.2))
        assert reply == Reply(Verdict.REFUSED, Reason.EXPIRED)
        assert controls(rtu) == [Function.SELECT]
        rtu.answers = {}
        assert (await driver.operate(command(0, True))).verdict is Verdict.DONE


async def test_a_command_held_up_inside_opendnp3_is_stopped_at_the_gate() -> None:
    """A callback of the line waits for the disk when the command is handed over: it goes out late, and is stopped."""
    watch = Watch()
    async with standing(watch=watch, response_timeout_s=1) as (rtu, driver, _):
        watch.disk = asyncio.Event()
        rtu.unsolicited(indexed(2, 1, [(0, b"\x81")]))
        await until(lambda: watch.waiting, what="the event at the disk")
        operating = asyncio.create_task(driver.operate(command(0, True, within_s=0.2, sbo=False)))
        began = time.monotonic()
        await until(lambda: time.monotonic() > began + 0.4, what="too late")
        watch.disk.set()
        assert await operating == Reply(Verdict.REFUSED, Reason.EXPIRED)
        assert controls(rtu) == []


async def test_a_command_that_opendnp3_never_ends_is_answered_and_disarmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commanding, "LAST_WORD_S", -1.3)
    watch = Watch()
    async with standing(watch=watch, response_timeout_s=0.5) as (rtu, driver, _):
        watch.disk = asyncio.Event()
        rtu.unsolicited(indexed(2, 1, [(0, b"\x81")]))
        await until(lambda: watch.waiting, what="the event at the disk")
        reply = await driver.operate(command(0, True, within_s=60, sbo=False))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.DEVICE_BUSY)  # nothing has left
        watch.disk.set()
        await until(lambda: rtu.count(Function.CONFIRM) == 1, what="confirm")
        assert (await driver.operate(command(1, True))).verdict is Verdict.DONE
        assert controls(rtu) == [Function.SELECT, Function.OPERATE]  # of the second one only


async def test_a_line_that_is_busy_refuses_after_a_second() -> None:
    async with standing(response_timeout_s=3) as (rtu, driver, _):
        rtu.answers = {Function.READ: lambda _: None}
        await driver.interrogate()
        await until(lambda: rtu.count(Function.READ) == 1, what="the poll")
        began = time.monotonic()
        reply = await driver.operate(command(0, True))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.DEVICE_BUSY)
        assert 0.9 < time.monotonic() - began < 1.5
        assert controls(rtu) == []


async def test_a_command_goes_before_the_polls_that_wait() -> None:
    async with standing(response_timeout_s=3) as (rtu, driver, _):

        def slow(request: Request) -> None:
            asyncio.get_running_loop().call_later(0.3, rtu.respond, request, Answer(STATIC))

        rtu.answers = {Function.READ: slow}
        await driver.interrogate()
        await until(lambda: rtu.count(Function.READ) == 1, what="the poll")
        await driver.interrogate()
        assert (await driver.operate(command(0, True))).verdict is Verdict.DONE
        assert rtu.functions()[:3] == [Function.READ, Function.SELECT, Function.OPERATE]


async def test_two_commands_at_once_go_one_after_the_other() -> None:
    async with standing() as (rtu, driver, _):
        replies = await asyncio.gather(*(driver.operate(command(row, True)) for row in (0, 1, 2)))
        assert [reply.verdict for reply in replies] == [Verdict.DONE] * 3
        assert controls(rtu) == [Function.SELECT, Function.OPERATE] * 3


async def test_cancelling_the_caller_does_not_take_back_what_was_sent() -> None:
    async with standing(response_timeout_s=2) as (rtu, driver, task):
        rtu.answers = {Function.SELECT: lambda _: None}
        operating = asyncio.create_task(driver.operate(command(0, True)))
        await until(lambda: controls(rtu), what="select")
        operating.cancel()
        await asyncio.gather(operating, return_exceptions=True)
        assert operating.cancelled()
        rtu.answers = {}
        reply = await driver.operate(command(1, True))  # waits for the line, which is still the first one's
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.DEVICE_BUSY)
        assert controls(rtu) == [Function.SELECT]
        assert not task.done()


@pytest.mark.parametrize(
    ("row", "value", "more", "reason"),
    [
        (READ, True, {}, Reason.UNKNOWN_POINT),
        (0, 1.0, {}, Reason.BAD_REQUEST),
        (8, False, {}, Reason.UNSUPPORTED),
        (3, 40000, {}, Reason.OUT_OF_RANGE),
        (3, 1.5, {}, Reason.BAD_REQUEST),
        (0, True, {"test": True}, Reason.UNSUPPORTED),
    ],
)
async def test_what_cannot_be_sent_is_refused(row: int, value: Value, more: dict[str, Any], reason: Reason) -> None:
    async with standing() as (rtu, driver, _):
        assert await driver.operate(command(row, value, **more)) == Reply(Verdict.REFUSED, reason)
        assert controls(rtu) == []


async def test_select_and_cancel_are_the_gateways_own() -> None:
    async with standing() as (rtu, driver, _):
        assert isinstance(driver, Operable)
        assert isinstance(driver, Interrogable)
        assert (await driver.select(command(0, True))).verdict is Verdict.DONE
        assert (await driver.cancel(command(0, True))).verdict is Verdict.DONE
        assert rtu.requests == []


async def test_no_command_before_everything_was_read() -> None:
    async with Outstation(static=STATIC) as rtu:
        rtu.answers[Function.READ] = lambda _: None
        made = device(rtu.port, POINTS, response_timeout_s=2)
        async with driving(made, Watch(), wait=False) as (driver, _):
            await until(lambda: rtu.count(Function.READ) == 1, what="the integrity poll")
            for ask in (driver.select, driver.operate, driver.cancel):
                assert await ask(command(0, True)) == Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE)
            assert controls(rtu) == []


async def test_nothing_is_commanded_by_starts_polls_and_reconnects() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        driver = Dnp3Driver(device(rtu.port, POINTS, event_poll_s=0.05))
        for _ in range(5):
            async with driving(driver, watch) as (_, task):
                rtu.hang_up()
                await ended(task)
        assert controls(rtu) == []
