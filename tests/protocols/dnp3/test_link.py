"""How a connection begins and ends: every end is a LinkLost with a cause, within bounded time."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import time
from itertools import repeat
from typing import Any

import pytest

from gatewayd.points.types import Cursor, Kind
from gatewayd.protocols.dnp3.driver import Dnp3Driver
from gatewayd.protocols.driver import LinkLost
from gatewayd.protocols.supervise import keep_running
from tests.protocols.dnp3.outstation import (
    NO_FUNCTION,
    Answer,
    Function,
    Outstation,
    Request,
    indexed,
    ranged,
    time48,
)
from tests.protocols.dnp3.support import HUNG_UP, clock_in_step, device, driving, point
from tests.protocols.watching import Watch, ended, until

POINTS = [point(0, Kind.BINARY, "BI:0")]
STATIC = ranged(1, 2, 0, [b"\x81"])
HOUSEKEEPING = (Function.DISABLE_UNSOLICITED, Function.READ, Function.ENABLE_UNSOLICITED)


async def lost(made: Any, within_s: float = 8.0) -> str:
    watch = Watch()
    async with driving(made, watch, wait=False) as (_, task):
        error = await ended(task, within_s)
    assert isinstance(error, LinkLost), error
    assert watch.ups == 0
    return str(error)


async def free_port() -> int:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_the_requests_of_a_start() -> None:
    async with Outstation(static=STATIC) as rtu, driving(device(rtu.port, POINTS, event_poll_s=60), Watch()):
        await until(lambda: len(rtu.requests) == 3, what="start")
        assert tuple(rtu.functions()) == HOUSEKEEPING
        assert rtu.requests[1].objects == bytes((60, 2, 6, 60, 3, 6, 60, 4, 6, 60, 1, 6))
        assert rtu.connections == 1


async def test_unsolicited_off_never_asks_for_it() -> None:
    async with Outstation(static=STATIC) as rtu:
        async with driving(device(rtu.port, POINTS, unsolicited=False, event_poll_s=0.05), Watch()):
            await until(lambda: rtu.count(Function.READ) > 5, what="polls")
        assert rtu.count(Function.ENABLE_UNSOLICITED) == 0
        assert rtu.functions()[0] == Function.DISABLE_UNSOLICITED


async def test_refused() -> None:
    port = await free_port()
    assert await lost(device(port, POINTS)) == f"no connection to 127.0.0.1 port {port}: refused"


async def test_a_name_that_does_not_exist() -> None:
    assert "the name cannot be resolved" in await lost(device(1, POINTS, host="no-such-host.invalid"))


async def test_a_peer_that_accepts_and_closes() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        text = await lost(device(server.sockets[0].getsockname()[1], POINTS))
    assert text in HUNG_UP


async def test_a_mute_peer_is_given_up_after_two_requests() -> None:
    async with Outstation(deaf=True) as rtu:
        began = time.monotonic()
        text = await lost(device(rtu.port, POINTS, response_timeout_s=0.4))
        assert text == "outstation 10 did not answer 2 requests in a row, the last the integrity poll"
        assert 0.8 <= time.monotonic() - began < 1.6


async def test_a_peer_that_becomes_mute() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        made = device(rtu.port, POINTS, response_timeout_s=0.3, event_poll_s=0.3)
        async with driving(made, watch) as (driver, task):
            rtu.deaf = True
            began = time.monotonic()
            error = await ended(task)
            assert time.monotonic() - began < 0.3 + 2 * 0.3 + 0.7
            assert driver.counters()["response_timeouts"] == 2
    assert "did not answer 2 requests in a row" in str(error)


async def test_a_mute_peer_without_polls_is_noticed_by_link_status() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        made = device(rtu.port, POINTS, response_timeout_s=0.3, event_poll_s=0, keepalive_s=1)
        async with driving(made, watch) as (_, task):
            await until(lambda: rtu.link_statuses == 1, what="link status")
            assert not task.done()
            rtu.deaf = True
            error = await ended(task)
    assert str(error) == "outstation 10 did not answer 2 requests in a row, the last REQUEST_LINK_STATUS"


async def test_rubbish() -> None:
    rubbish = random.Random(7)

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(rubbish.randbytes(400))
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        text = await lost(device(server.sockets[0].getsockname()[1], POINTS, response_timeout_s=0.3))
    assert "did not answer 2 requests in a row" in text


async def test_another_address_answers() -> None:
    async with Outstation(address=10) as rtu:

        def answer(request: Request) -> None:
            rtu.address = 12
            rtu.respond(request, Answer())
            rtu.address = 10

        rtu.answers = dict.fromkeys((Function.DISABLE_UNSOLICITED, Function.READ), answer)
        text = await lost(device(rtu.port, POINTS, response_timeout_s=0.3))
    assert text.endswith("; frames came from address 12")


async def test_a_peer_that_answers_something_but_not_the_requests() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        made = device(rtu.port, POINTS, response_timeout_s=0.2, event_poll_s=0.1)
        async with driving(made, watch) as (_, task):
            rtu.answers[Function.READ] = lambda _: rtu.unsolicited(b"", confirm=False)  # type: ignore[func-returns-value]
            error = await ended(task)
    assert "did not answer 4 requests in a row" in str(error)


async def test_answers_with_a_wrong_sequence_number_are_none() -> None:
    async with Outstation() as rtu:

        def answer(request: Request) -> None:
            rtu.respond(request._replace(control=request.control + 5 & 0x0F), Answer(STATIC))

        rtu.answers = dict.fromkeys((Function.DISABLE_UNSOLICITED, Function.READ), answer)
        assert "did not answer" in await lost(device(rtu.port, POINTS, response_timeout_s=0.2))


async def test_cut_and_reopened_reads_everything_again() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        driver = Dnp3Driver(device(rtu.port, POINTS), clock_state=clock_in_step)
        for _ in range(3):
            before = sum(request.class0 for request in rtu.requests)
            async with driving(driver, watch) as (_, task):
                assert sum(request.class0 for request in rtu.requests) == before + 1
                rtu.hang_up()
                assert str(await ended(task)) in HUNG_UP
        assert driver.counters()["connections"] == 3
        assert watch.gaps == []


async def test_opendnp3_does_not_reconnect_by_itself() -> None:
    async with Outstation(static=STATIC) as rtu:
        async with driving(device(rtu.port, POINTS), Watch()) as (_, task):
            rtu.hang_up()
            await ended(task)
            began = time.monotonic()
            await until(lambda: time.monotonic() > began + 1.0, what="a while")
        assert rtu.connections == 1


async def test_the_retry_loop_brings_it_back() -> None:
    watch = Watch()

    async def cursors() -> dict[str, Cursor]:
        return watch.cursors

    async with Outstation(static=STATIC) as rtu:
        driver = Dnp3Driver(device(rtu.port, POINTS), clock_state=clock_in_step)
        running = asyncio.create_task(keep_running(driver, "FDR12", watch, cursors, pauses=lambda: iter([0.05] * 100)))
        try:
            await until(lambda: watch.ups == 1, what="up")
            await rtu.stop()
            await until(lambda: any("refused" in call[3] for call in watch.of("device")), what="refused")
            await rtu.listen()
            await until(lambda: watch.ups == 2, what="up again")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_functions_the_device_does_not_have() -> None:
    """IIN2.0 to unsolicited functions: opendnp3's own startup tasks would block every poll for ever."""
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        rtu.refuses = {Function.DISABLE_UNSOLICITED, Function.ENABLE_UNSOLICITED}
        driver = Dnp3Driver(device(rtu.port, POINTS, event_poll_s=0.05), clock_state=clock_in_step)
        async with driving(driver, watch) as (_, task):
            await until(lambda: rtu.count(Function.READ) > 4, what="polls")
            rtu.hang_up()
            await ended(task)
        rtu.requests.clear()
        async with driving(driver, watch):
            assert Function.DISABLE_UNSOLICITED not in rtu.functions()


async def test_a_device_that_hangs_up_on_a_function_it_does_not_have_is_spared_it() -> None:
    watch = Watch()

    async def cursors() -> dict[str, Cursor]:
        return watch.cursors

    async with Outstation(static=STATIC) as rtu:
        unknown = (Function.DISABLE_UNSOLICITED, Function.ENABLE_UNSOLICITED)
        rtu.answers = dict.fromkeys(unknown, lambda _: rtu.hang_up())
        driver = Dnp3Driver(device(rtu.port, POINTS), clock_state=clock_in_step)
        running = asyncio.create_task(keep_running(driver, "FDR12", watch, cursors, pauses=lambda: repeat(0.01)))
        try:
            await until(lambda: watch.ups == 1, what="up")
            await until(lambda: rtu.functions().count(unknown[1]) == 3 and rtu.connected, what="the other one too")
            assert rtu.functions().count(unknown[0]) == 3
            rtu.requests.clear()
            await until(lambda: rtu.count(Function.READ) > 4, what="polls")
            assert not set(unknown) & set(rtu.functions())
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_functions_the_device_does_not_answer_cost_one_timeout_once() -> None:
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        rtu.answers = dict.fromkeys((Function.DISABLE_UNSOLICITED, Function.ENABLE_UNSOLICITED), lambda _: None)
        driver = Dnp3Driver(
            device(rtu.port, POINTS, event_poll_s=0.05, response_timeout_s=0.3), clock_state=clock_in_step
        )
        async with driving(driver, watch) as (_, task):
            await until(lambda: rtu.count(Function.READ) > 4, what="polls")
            assert driver.counters()["response_timeouts"] == 2
            rtu.hang_up()
            await ended(task)
        rtu.requests.clear()
        async with driving(driver, watch):
            await until(lambda: rtu.count(Function.READ) > 4, what="polls")
            assert set(rtu.functions()) == {Function.READ}
            assert driver.counters()["response_timeouts"] == 2


async def test_the_answer_to_everything_is_no() -> None:
    async with Outstation() as rtu:
        rtu.answers = {code: lambda _: Answer(iin=NO_FUNCTION) for code in range(1, 30)}
        text = await lost(device(rtu.port, POINTS))
    assert text.startswith("the outstation has none of the points of the list")


async def test_a_peer_that_speaks_at_once_is_heard() -> None:
    """A null unsolicited response before anything was asked, as many send it after TCP is up."""
    watch = Watch()
    async with Outstation(static=STATIC) as rtu:
        serve = rtu._serve

        async def speak_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            rtu._write = writer.write
            rtu.unsolicited(b"")
            await serve(reader, writer)

        rtu._serve = speak_first  # type: ignore[method-assign]
        await rtu.stop()
        await rtu.listen()
        async with driving(device(rtu.port, POINTS), watch):
            assert Function.CONFIRM in rtu.functions()[:2]  # beside the first request


async def test_a_response_that_never_ends_is_not_taken_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from gatewayd.protocols.dnp3 import session

    monkeypatch.setattr(session, "LONGEST_JOB_S", 0.5)
    async with Outstation() as rtu:
        sending: list[asyncio.Task[None]] = []

        async def for_ever(request: Request) -> None:
            control = 0x80 | request.sequence
            while rtu.connected:
                rtu.send(0x81, control, STATIC)
                control = (control + 1) & 0x0F
                await asyncio.sleep(0.005)

        def answer(request: Request) -> None:
            sending.append(asyncio.create_task(for_ever(request)))

        rtu.answers[Function.READ] = answer
        text = await lost(device(rtu.port, POINTS))
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
    assert text == "the answer to the integrity poll did not end within 0.5 s"


async def test_hostile_frames_of_every_sort() -> None:
    """Truncated, bit-flipped and lying fragments between good ones: the driver stays up and says what it lost."""
    rng = random.Random(int(os.environ.get("DNP3_FUZZ_SEED", "3")))
    watch = Watch()
    good = [
        STATIC,
        indexed(2, 2, [(0, b"\x81" + time48(1)), (9, b"\x01" + time48(2))]),
        indexed(32, 7, [(1, struct.pack("<Bf", 1, 2.0) + time48(3))]),
        bytes((51, 1, 7, 1)) + time48(9) + indexed(2, 3, [(0, b"\x81\x01\x00")]),
        bytes((110, 5, 0, 0, 0)) + b"hello",
    ]
    async with Outstation(static=STATIC) as rtu:
        async with driving(device(rtu.port, POINTS, event_poll_s=0.05, response_timeout_s=1), watch) as (driver, task):
            for _ in range(300):
                data = bytearray(rng.choice(good))
                for _ in range(rng.randrange(4)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                cut = bytes(data[: rng.randrange(len(data) + 1)])
                match rng.randrange(4):
                    case 0:
                        rtu.unsolicited(cut, confirm=bool(rng.randrange(2)))
                    case 1:
                        rtu.send_fragment(rng.randbytes(rng.randrange(20)))
                    case 2:
                        rtu.send_raw(rng.randbytes(rng.randrange(80)))
                    case _:
                        rtu.send(rng.randrange(256), rng.randrange(256), cut, iin=0)
                await asyncio.sleep(0)
            polls = rtu.count(Function.READ)
            await until(lambda: rtu.count(Function.READ) > polls + 3 or task.done(), what="polls")
            assert not task.done(), task.exception()
            assert driver.counters()["callback_errors"] == 0
            assert driver.counters()["garbage_octets"] == 0  # counted when the line is closed
        assert driver.counters()["garbage_octets"] > 0
        assert driver.counters()["not_understood"] > 0
