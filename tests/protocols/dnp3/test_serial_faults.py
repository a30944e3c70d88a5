"""What serial lines do to frames: noise, broken bits, an adapter that hears itself, answers that come too late."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Verdict
from tests.protocols.dnp3.bus import event, on_bus, on_serial, serial_pair
from tests.protocols.dnp3.outstation import Answer, Function, Outstation, Request
from tests.protocols.dnp3.support import driving
from tests.protocols.watching import Watch, command, until

POLLED = {"unsolicited": False, "event_poll_s": 0.05, "response_timeout_s": 0.3}
"""As several outstations on one line are set up."""


def through(stations: list[Outstation], line: Callable[[bytes], bytes]) -> None:
    """Have everything that the outstations send go through `line`."""
    send = stations[0]._write
    assert send is not None
    for station in stations:
        station._write = lambda data: send(line(data))


async def test_an_adapter_that_hears_itself() -> None:
    watch = Watch()
    with serial_pair() as (far, path):
        async with on_bus(far, 10) as (rtu,):
            feed, write = rtu.feed, rtu._write
            assert write is not None

            def echoing(data: bytes, *readers: object) -> None:
                write(data)
                feed(data, *readers)  # type: ignore[arg-type]

            rtu.feed = echoing  # type: ignore[method-assign]
            async with driving(on_serial(path), watch) as (driver, task):
                for on in (True, False, True):
                    rtu.requests.clear()
                    assert (await driver.operate(command(1, on))).verdict is Verdict.DONE
                    controls = [code for code in rtu.functions() if code in (3, 4, 5)]
                    assert controls == [Function.SELECT, Function.OPERATE]
                rtu.unsolicited(event(False))
                await until(lambda: watch.values(0, reported=True) == [False], what="event")
                rtu.deaf = True  # its own requests are no answers
                reply = await driver.operate(command(1, True))
                assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.DEVICE_NO_ANSWER)
                await until(task.done, what="the end: nobody answers")


async def test_noise_and_broken_bits_on_a_line_of_three() -> None:
    """Noise around every frame, a broken bit in every seventh: nobody is lost, no event is, and none is doubled."""
    rng = random.Random(5)
    frames = broken = 0

    def line(data: bytes) -> bytes:
        nonlocal frames, broken
        frames += 1
        if frames % 7 == 0:
            broken += 1
            at = rng.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
        return rng.randbytes(rng.randrange(4)) + data + rng.choice((b"", b"\x05", b"\x05\x64", b"\xff\x00"))

    watches = {10: Watch(), 11: Watch(), 12: Watch()}
    with serial_pair() as (far, path):
        async with on_bus(far, *watches) as stations:
            through(stations, line)
            sent = {station.address: [event(bool(n % 2)) for n in range(6)] for station in stations}
            runs = [driving(on_serial(path, a, name=f"R{a}", **POLLED), watches[a]) for a in watches]
            async with runs[0] as (_, first), runs[1] as (_, second), runs[2] as (_, third):
                for station in stations:
                    station.events = list(sent[station.address])
                tasks = (first, second, third)
                await until(
                    lambda: not any(station.events for station in stations) or any(t.done() for t in tasks),
                    15,
                    "everything confirmed",
                )
                assert not any(task.done() for task in tasks)
                for watch in watches.values():
                    assert watch.values(0, reported=True) == [False, True] * 3
                    assert watch.gaps == []
            assert broken > 3


async def test_an_answer_that_comes_too_late_is_nobodys() -> None:
    watches = Watch(), Watch()
    with serial_pair() as (far, path):
        async with on_bus(far, 10, 11) as (slow, other):
            first = driving(on_serial(path, 10, name="A", **POLLED), watches[0])
            second = driving(on_serial(path, 11, name="B", **POLLED), watches[1])
            async with first as (_, task_a), second as (_, task_b):
                late: list[Request] = []

                def answer(request: Request) -> Answer | None:
                    """Every third poll is answered after the gateway has given it up."""
                    if slow.count(Function.READ) % 3:
                        return slow.read(request)  # type: ignore[return-value]
                    late.append(request)
                    loop = asyncio.get_running_loop()
                    loop.call_later(0.35, slow.respond, request, Answer(b""))
                    return None

                slow.answers[Function.READ] = answer
                slow.events = [event(False), event(True)]
                other.events = [event(False), event(True)]
                await until(lambda: len(late) >= 3 or task_a.done() or task_b.done(), 10, "late answers")
                assert not task_a.done()
                assert not task_b.done()
                await until(lambda: not slow.events and not other.events, what="all events read")
            for watch in watches:
                assert watch.values(0, reported=True) == [False, True]
                assert watch.gaps == []


async def test_a_late_answer_to_a_select_operates_nothing() -> None:
    watch = Watch()
    with serial_pair() as (far, path):
        async with (
            on_bus(far, 10) as (rtu,),
            driving(on_serial(path, unsolicited=False, event_poll_s=60, response_timeout_s=0.3), watch) as (driver, _),
        ):
            loop = asyncio.get_running_loop()
            answered: list[Request] = []

            def too_late(request: Request) -> None:
                def respond() -> None:
                    answered.append(request)
                    rtu.respond(request, Answer(request.objects))

                loop.call_later(0.4, respond)

            rtu.answers[Function.SELECT] = too_late  # type: ignore[assignment]
            reply = await driver.operate(command(1, True))
            assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.DEVICE_NO_ANSWER)
            await until(lambda: bool(answered), what="the late answer")
            del rtu.answers[Function.SELECT]
            rtu.answers[Function.OPERATE] = lambda request: Answer(request.objects)
            assert rtu.count(Function.OPERATE) == 0
            assert (await driver.operate(command(1, True))).verdict is Verdict.DONE
            assert rtu.count(Function.OPERATE) == 1
            assert rtu.count(Function.SELECT) == 2


async def test_octets_that_come_one_by_one() -> None:
    """As a slow line gives them: a frame is put together from as many reads as it takes."""
    watch = Watch()
    with serial_pair() as (far, path):
        async with on_bus(far, 10) as (rtu,):
            pending = bytearray()
            rtu._write = pending.extend

            async def trickle() -> None:
                while True:
                    if pending:
                        os.write(far, bytes(pending[:1]))
                        del pending[:1]
                    await asyncio.sleep(0.0005 if pending else 0.005)

            trickling = asyncio.create_task(trickle())
            try:
                async with driving(on_serial(path), watch) as (driver, _):
                    assert (await driver.operate(command(1, True))).verdict is Verdict.DONE
                    assert driver.counters()["response_timeouts"] == 0
            finally:
                trickling.cancel()
