from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Verdict
from gatewayd.points.types import Cursor, Kind, Link
from gatewayd.protocols.driver import Counting, Interrogable, LinkLost, Operable
from gatewayd.protocols.iec61850 import connection as connection_module
from gatewayd.protocols.iec61850 import driver as driver_module
from gatewayd.protocols.iec61850.driver import create
from gatewayd.protocols.supervise import keep_running
from simulators.iec61850_bay import Iec61850Bay
from tests.protocols.iec61850.support import LD, commanded, device, driving, point
from tests.protocols.watching import Watch, command, until

POINTS = [commanded(0, Kind.DOUBLE, "CSWI1.Pos"), point(1, Kind.ANALOG, f"{LD}/MMXU1.TotW")]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("iec61850-")]


def test_the_driver_has_every_ability():
    driver = create(device(1, POINTS))
    assert isinstance(driver, Operable)
    assert isinstance(driver, Interrogable)
    assert isinstance(driver, Counting)


async def test_a_server_that_is_killed_is_noticed_at_once_and_run_connects_again():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        made = create(device(sim.port, POINTS))
        async with driving(made, watch) as (_, task):
            began = time.monotonic()
            sim.kill()
            with pytest.raises(LinkLost, match="closed"):
                await asyncio.wait_for(task, 5)
            assert time.monotonic() - began < 1.0
        await until(lambda: not threads())
        async with driving(made, watch):
            assert made.counters()["associations"] == 2
            assert watch.gaps == []


async def test_a_server_that_falls_silent_is_lost_within_the_deadline():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        quiet = device(sim.port, POINTS, keepalive_s=0.3, timeout_s=0.4)
        async with driving(quiet, watch) as (_, task):
            began = time.monotonic()
            sim.silence()
            with pytest.raises(LinkLost, match="2 requests in a row"):
                await asyncio.wait_for(task, 6)
            assert time.monotonic() - began < 0.3 + 2 * 0.4 + 1.0


async def test_nobody_listens():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(LinkLost, match=str(port)):
        await create(device(port, POINTS)).run(Watch(), {})
    await until(lambda: not threads())


async def test_a_peer_that_accepts_and_says_nothing_costs_the_connect_timeout():
    with socket.create_server(("127.0.0.1", 0)) as server:
        mute = device(server.getsockname()[1], POINTS, connect_timeout_s=0.5, timeout_s=0.3)
        began = time.monotonic()
        with pytest.raises(LinkLost):
            await create(mute).run(Watch(), {})
        assert time.monotonic() - began < 2.0


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 64, b"\x03\x00\x00\x07\x02\xf0\x80", b"HTTP/1.1 400\r\n\r\n", b"\xff" * 512]
)
async def test_a_peer_that_talks_something_else_is_a_lost_link(garbage: bytes):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(garbage)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LinkLost):
            await create(device(port, POINTS, connect_timeout_s=1)).run(Watch(), {})


async def test_a_name_that_does_not_resolve_is_a_lost_link():
    made = create(device(1, POINTS))
    made._device = made._device.__class__(
        **{**{f: getattr(made._device, f) for f in made._device.__struct_fields__}, "host": "no-such-host.invalid"}
    )
    with pytest.raises(LinkLost, match=r"no-such-host\.invalid"):
        await made.run(Watch(), {})


async def test_cancelling_ends_the_thread_and_frees_the_association():
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        async with driving(device(sim.port, POINTS), watch):
            assert len(threads()) == 1
            assert len(sim.server.connections) == 1
        await until(lambda: threads() == [])  # it has told of its end, and is about to be gone
        await until(lambda: not sim.server.connections)


async def test_controls_without_an_association_are_refused_and_nothing_is_sent():
    driver = create(device(1, POINTS))
    for call in (driver.select, driver.operate, driver.cancel):
        reply = await call(command(0, True))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.DEVICE_OFFLINE)


async def test_controls_before_everything_was_read_are_refused():
    watch = Watch()
    watch.disk = asyncio.Event()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch, wait=False) as (driver, _):
        await until(lambda: driver.counters()["reports"] >= 2)
        reply = await driver.operate(command(0, True))
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.DEVICE_OFFLINE)
        watch.disk.set()
        await until(lambda: watch.ups)
        assert sim.writes == []


async def test_two_ieds_at_once_on_threads_of_their_own():
    one, two = Watch(), Watch()
    async with (
        Iec61850Bay(still=True) as first,
        Iec61850Bay(still=True) as second,
        driving(device(first.port, POINTS), one),
        driving(device(second.port, POINTS), two),
    ):
        assert len(threads()) == 2
        first.set("MMXU1.TotW.mag.f[MX]", 1.0)
        second.set("MMXU1.TotW.mag.f[MX]", 2.0)
        await until(lambda: (one.last(1) or (0, 0))[1] == 1.0 and (two.last(1) or (0, 0))[1] == 2.0)


async def test_under_supervision_a_restarted_server_is_found_again():
    watch = Watch()

    async def cursors() -> dict[str, Cursor]:
        return watch.cursors

    async with Iec61850Bay(still=True) as sim:
        driver = create(device(sim.port, POINTS))
        pauses = lambda: itertools.repeat(0.05)  # noqa: E731
        task = asyncio.create_task(keep_running(driver, "BAY1", watch, cursors, pauses=pauses))
        try:
            await until(lambda: watch.ups)
            await asyncio.to_thread(sim.stop)
            await until(lambda: any(call[2] is Link.DOWN for call in watch.of("device")))
            ups = len([call for call in watch.of("device") if call[2] is Link.UP])
            sim.start()
            await until(lambda: len([call for call in watch.of("device") if call[2] is Link.UP]) > ups)
            sim.set("MMXU1.TotW.mag.f[MX]", 4.0)
            await until(lambda: (watch.last(1) or (0, 0))[1] == 4.0)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_native_call_that_does_not_return_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if tick were stuck: outside of a worker the link is lost; in a worker the process ends (wedged.py)."""
    monkeypatch.setattr(driver_module, "STUCK_S", 0.3)
    monkeypatch.setattr(driver_module, "LOOK_S", 0.05)
    stuck, released = threading.Event(), threading.Event()
    tick = connection_module.native.IedConnection_tick

    def blocking(handle: int) -> bool:
        if stuck.is_set():
            released.wait(10)
        return bool(tick(handle))

    class Native:
        def __getattr__(self, name: str) -> object:
            return blocking if name == "IedConnection_tick" else getattr(connection_native, name)

    connection_native = connection_module.native
    monkeypatch.setattr(connection_module, "native", Native())
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        try:
            async with driving(device(sim.port, POINTS), watch) as (_, task):
                stuck.set()
                with pytest.raises(LinkLost, match="libiec61850 does not return"):
                    await asyncio.wait_for(task, 8)
        finally:
            released.set()
        await until(lambda: not threads())
