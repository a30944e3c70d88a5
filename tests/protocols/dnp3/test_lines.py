"""Lines: serial ones, several outstations on one, and whom the loopback lets in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator

import pytest

from gatewayd.control.types import Verdict
from gatewayd.protocols import loopback
from gatewayd.protocols.dnp3 import library, line
from gatewayd.protocols.dnp3.driver import Dnp3Driver
from gatewayd.protocols.driver import DeviceFault, LinkLost
from tests.protocols.dnp3.bus import POINTS, STATIC, event, on_bus, on_serial, serial_pair
from tests.protocols.dnp3.outstation import Function, Outstation
from tests.protocols.dnp3.support import HUNG_UP, clock_in_step, device, driving
from tests.protocols.watching import Watch, command, ended, until


async def test_a_serial_line() -> None:
    watch = Watch()
    with serial_pair() as (far, path):
        async with on_bus(far, 10) as (rtu,), driving(on_serial(path), watch) as (driver, _):
            assert watch.values(0) == [True]
            rtu.unsolicited(event(False))
            await until(lambda: False in watch.values(0, reported=True), what="event")
            assert (await driver.operate(command(1, True))).verdict is Verdict.DONE
            assert rtu.functions().count(Function.SELECT) == rtu.functions().count(Function.OPERATE) == 1


async def test_persist_before_confirm_on_a_serial_line() -> None:
    watch = Watch()
    with serial_pair() as (far, path):
        async with on_bus(far, 10) as (rtu,):
            async with driving(on_serial(path), watch) as (_, task):
                watch.disk = asyncio.Event()
                rtu.unsolicited(event(False))
                await until(lambda: watch.waiting, what="the event at the disk")
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            began = time.monotonic()
            await until(lambda: time.monotonic() > began + 0.3, what="a while")
            assert rtu.count(Function.CONFIRM) == 0


async def test_a_serial_line_that_goes_away() -> None:
    watch = Watch()
    with serial_pair() as (far, path):
        async with on_bus(far, 10), driving(on_serial(path), watch) as (_, task):
            asyncio.get_running_loop().remove_reader(far)
            os.close(far)
            error = await ended(task)
    assert isinstance(error, LinkLost)
    assert str(error).startswith("the serial line broke: ")


async def test_a_serial_port_that_is_not_there(tmp_path: os.PathLike[str]) -> None:
    path = f"{tmp_path}/ttyS9"
    async with driving(on_serial(path), Watch(), wait=False) as (_, task):
        error = await ended(task)
    assert isinstance(error, LinkLost)
    assert str(error) == f"{path} cannot be opened: No such file or directory"


async def test_a_serial_port_that_somebody_else_has() -> None:
    with serial_pair() as (_, path):
        async with on_line_taken(path), driving(on_serial(path), Watch(), wait=False) as (_, task):
            error = await ended(task)
    assert isinstance(error, LinkLost)
    assert f"{path} cannot be opened" in str(error)


@contextlib.asynccontextmanager
async def on_line_taken(path: str) -> AsyncIterator[None]:
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        os.close(fd)


async def test_two_outstations_on_one_serial_line() -> None:
    watches = Watch(), Watch()
    with serial_pair() as (far, path):
        async with on_bus(far, 10, 11) as stations:
            first = driving(on_serial(path, 10, name="A"), watches[0])
            second = driving(on_serial(path, 11, name="B"), watches[1])
            async with first as (driver_a, _), second as (driver_b, task_b):
                replies = await asyncio.gather(*(one.operate(command(1, True)) for one in (driver_a, driver_b)))
                assert [reply.verdict for reply in replies] == [Verdict.DONE] * 2
                for station in stations:
                    functions = [code for code in station.functions() if code in (3, 4)]
                    assert functions == [3, 4]
                stations[1].unsolicited(event(False))
                await until(lambda: watches[1].values(0, reported=True) == [False], what="event of B")
                assert watches[0].values(0, reported=True) == []

                # one that falls silent is given up; the other goes on
                stations[1].deaf = True
                error = await ended(task_b)
                assert "outstation 11 did not answer 2 requests in a row" in str(error)
                polls = stations[0].count(Function.READ)
                await until(lambda: stations[0].count(Function.READ) > polls + 2, what="polls of A")

                # and comes back onto the same line
                stations[1].deaf = False
                async with driving(driver_b, watches[1]):
                    assert watches[1].ups == 2


async def test_devices_on_one_serial_line_agree_about_it() -> None:
    with serial_pair() as (far, path):
        async with on_bus(far, 10, 11), driving(on_serial(path, 10, name="A"), Watch()):
            for other, text in (
                (on_serial(path, 11, name="B", baud=19200), "is open already for A with other settings"),
                (on_serial(path, 10, name="B"), f"outstation 10 at {path} is taken already by A"),
            ):
                async with driving(other, Watch(), wait=False) as (_, task):
                    error = await ended(task)
                assert isinstance(error, DeviceFault)
                assert text in str(error)


async def test_outstations_behind_one_tcp_port_share_a_connection() -> None:
    """A terminal server takes one connection, whatever is behind it."""
    async with Outstation(static=STATIC) as rtu:
        behind = Outstation(address=11, static=STATIC)
        readers = behind.readers()
        feed = rtu.feed

        def to_both(data: bytes, frames: object, fragments: object) -> None:
            behind._write = rtu._write
            feed(data, frames, fragments)  # type: ignore[arg-type]
            behind.feed(data, *readers)

        rtu.feed = to_both  # type: ignore[method-assign]
        one = driving(device(rtu.port, POINTS, name="A"), Watch())
        other = driving(device(rtu.port, POINTS, name="B", remote_address=11), Watch())
        async with one as (_, task_a), other as (_, task_b):
            assert rtu.connections == 1
            assert behind.count(Function.READ) >= 1
            rtu.hang_up()
            for task in (task_a, task_b):
                assert str(await ended(task)) in HUNG_UP


async def test_nobody_else_gets_into_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another connection to the loopback is closed, and opendnp3's is taken all the same."""
    intruders: list[socket.socket] = []
    channel = library.Channel

    def after_an_intruder(name: str, port: int) -> library.Channel:
        intruder = socket.socket()
        intruder.bind(("127.0.0.1", 0))
        intruders.append(intruder)
        intruder.connect(("127.0.0.1", port))
        return channel(name, port)

    monkeypatch.setattr(library, "Channel", after_an_intruder)
    really = loopback.is_ours
    # the intruder is this very process here: what tells it apart must be said for the test
    monkeypatch.setattr(
        loopback, "is_ours", lambda sock: sock.getpeername() != intruders[0].getsockname() and really(sock)
    )
    async with Outstation(static=STATIC) as rtu, driving(device(rtu.port, POINTS), Watch()):
        intruders[0].settimeout(5)
        assert await asyncio.to_thread(intruders[0].recv, 1) == b""
    intruders[0].close()


async def test_sockets_of_this_process_are_told_from_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as mine:
            accepted, _ = server.accept()
            with accepted:
                assert loopback.is_ours(accepted)
                assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        script = f"import socket; socket.create_connection({server.getsockname()!r}).recv(1)"
        process = await asyncio.create_subprocess_exec("python3", "-c", script)
        accepted, _ = await asyncio.to_thread(server.accept)
        with accepted:
            assert not loopback.is_ours(accepted)
        await process.wait()


async def test_the_listener_is_closed_after_the_one_connection() -> None:
    async with Outstation(static=STATIC) as rtu, driving(device(rtu.port, POINTS), Watch()):
        ports = [
            entry.split()[1].split(":")[1]
            for entry in _read("/proc/self/net/tcp").splitlines()[1:]
            if entry.split()[3] == "0A" and entry.split()[9] in _own_inodes()
        ]
        assert ports == [f"{rtu.port:04X}"]


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:  # noqa: PTH123
        return file.read()


def _own_inodes() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


async def test_a_fragment_in_pieces_is_not_held_up_by_nagle() -> None:
    """Both ends of the loopback send without delay; asyncio leaves it out for accepted sockets without a protocol."""
    async with Outstation(static=STATIC) as rtu, driving(device(rtu.port, POINTS), Watch()):
        (one,) = line.lines()._lines.values()
        assert one._loopback is not None
        sock = one._loopback.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        number = loopback.own_descriptor(sock.getpeername())
        assert number is not None
        with socket.socket(fileno=os.dup(number)) as far:
            assert far.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_nothing_is_left_behind_by_many_connections() -> None:
    async with Outstation(static=STATIC) as rtu:
        driver = Dnp3Driver(device(rtu.port, POINTS), clock_state=clock_in_step)
        counts = []
        for _ in range(12):
            async with driving(driver, Watch()) as (_, task):
                rtu.hang_up()
                await ended(task)
            counts.append((len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))  # noqa: PTH208
        assert counts[-1][0] <= counts[2][0]
        assert counts[-1][1] <= counts[2][1]
        assert line.lines()._lines == {}
