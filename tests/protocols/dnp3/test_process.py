"""The process around it: without opendnp3, with a build that is not known, and its end at the wrong moment."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

from gatewayd.points.types import Cursor, Kind
from gatewayd.protocols.dnp3 import library, repeats, soe
from gatewayd.protocols.driver import DeviceFault
from tests.protocols.dnp3.outstation import Function, Outstation, indexed, ranged, time48
from tests.protocols.dnp3.support import device, driving, point
from tests.protocols.watching import Watch, ended, until

ROOT = Path(__file__).parents[3]
POINTS = [point(0, Kind.BINARY, "BI:0")]
STATIC = ranged(1, 2, 0, [b"\x81"])

WITHOUT = """
import asyncio, sys
sys.modules["opendnp3"] = None
from gatewayd.protocols import registry
from gatewayd.protocols.device import Device
from gatewayd.protocols.driver import DeviceFault
device = Device(name="A", protocol="dnp3", host="127.0.0.1", port=1)
assert registry.configuration("dnp3").check(device) == []
try:
    asyncio.run(registry.create(device).run(None, {}))
except DeviceFault as error:
    print(error)
"""

ENDING = """
import asyncio, sys
from gatewayd.protocols.dnp3.driver import create
from tests.protocols.dnp3.support import device, point
from tests.protocols.watching import Watch
from gatewayd.points.types import Kind

class Blocked(Watch):
    async def events(self, batch, cursor=None):
        if batch.reported:
            print("at the disk", flush=True)
            await asyncio.Event().wait()
        await super().events(batch, cursor)

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
made = create(device(int(sys.argv[1]), [point(0, Kind.BINARY, "BI:0")]))
running = loop.create_task(made.run(Blocked(), {}))
loop.call_later(60, loop.stop)
loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: loop.stop())
loop.run_forever()
if sys.argv[2] == "closed":
    loop.close()
sys.exit(7)
"""


KILLED = """
import asyncio, os, sys
from gatewayd.protocols.dnp3.driver import create
from tests.protocols.dnp3.support import device, point
from tests.protocols.watching import Watch
from gatewayd.points.types import Kind

class Committed(Watch):
    async def events(self, batch, cursor=None):
        await super().events(batch, cursor)
        if batch.reported:
            with open(sys.argv[2], "wb") as file:
                file.write(cursor.data)
                os.fsync(file.fileno())
            print("on disk", flush=True)
            await asyncio.Event().wait()

asyncio.run(create(device(int(sys.argv[1]), [point(0, Kind.BINARY, "BI:0")])).run(Committed(), {}))
"""


async def python(script: str, *arguments: str, **pipes: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", script, *arguments, cwd=ROOT, **pipes
    )


async def test_without_opendnp3_the_device_is_at_fault_and_the_rest_works() -> None:
    process = await python(WITHOUT, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().startswith("DNP3 is not available on this machine: ")


async def test_checking_a_configuration_loads_no_native_stack() -> None:
    modules = "gatewayd.protocols.dnp3.config, gatewayd.protocols.dnp3.driver"
    script = f"import sys; import {modules}; print('opendnp3' in sys.modules)"
    process = await python(script, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "False"


async def test_a_build_that_is_not_known_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_EXPECTED", (0, 0, 1, 0x0E, 0x0E, 0, 0))
    async with Outstation(static=STATIC) as rtu:
        async with driving(device(rtu.port, POINTS), Watch(), wait=False) as (_, task):
            error = await ended(task)
        assert isinstance(error, DeviceFault)
        assert "this build of opendnp3 (yadnp3) is not known" in str(error)
        assert rtu.requests == []


@pytest.mark.parametrize("loop", ["open", "closed"])
async def test_a_process_that_ends_while_a_fragment_waits_ends_soon_and_confirms_nothing(loop: str) -> None:
    async with Outstation(static=STATIC) as rtu:
        pipe = asyncio.subprocess.PIPE
        process = await python(ENDING, str(rtu.port), loop, stdin=pipe, stdout=pipe)
        try:
            await until(lambda: rtu.count(Function.ENABLE_UNSOLICITED) == 1, what="start")
            rtu.unsolicited(indexed(2, 1, [(0, b"\x01")]))
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 10) == b"at the disk\n"
            assert process.stdin is not None
            process.stdin.close()
            began = time.monotonic()
            assert await asyncio.wait_for(process.wait(), 20) == 7
            assert time.monotonic() - began < 5
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        await until(lambda: not rtu.connected, what="the connection closed")
        assert rtu.count(Function.CONFIRM) == 0


@pytest.mark.parametrize(
    ("fragments", "new"),
    [
        ([[0], [1], [2, 3]], [3]),  # into smaller fragments
        ([[1, 2, 3], [4]], [3, 4]),  # without the oldest, which an overflow took
        ([[3, 0, 2, 1], [4]], [3, 4]),  # in another order, a new one first
        ([[0, 1, 2, 3], [0, 1, 2, 3], [4]], [3, 4]),  # and again, while we live
    ],
)
async def test_kill_9_between_commit_and_confirm_and_other_fragments_afterwards(
    fragments: list[list[int]], new: list[int], tmp_path: Path
) -> None:
    ms, stored = time.time_ns() // 1_000_000, tmp_path / "cursor"

    def objects(numbers: list[int]) -> bytes:
        return indexed(2, 2, [(0, (b"\x81" if n % 2 else b"\x01") + time48(ms + n)) for n in numbers])

    async with Outstation(static=STATIC) as rtu:
        rtu.events = [objects([0, 1, 2])]
        process = await python(KILLED, str(rtu.port), str(stored), stdout=asyncio.subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 20) == b"on disk\n"
        finally:
            process.kill()
            await process.wait()
        await until(lambda: not rtu.connected, what="the connection closed")
        assert rtu.count(Function.CONFIRM) == 0
        watch = Watch()
        watch.cursors[repeats.SOURCE] = Cursor(repeats.SOURCE, stored.read_bytes())
        rtu.events = [objects(numbers) for numbers in fragments]
        made = device(rtu.port, POINTS, event_poll_s=0.05)
        async with driving(made, watch) as (driver, _):
            await until(lambda: not rtu.events, what="all confirmed")
            sent = sum(map(len, fragments))
            assert driver.counters()["repeats_dropped"] == sent - len(new)
    assert [sample.time_ns // 1_000_000 - ms for sample in watch.samples(0, reported=True)] == new
    assert not any(batch.repeat for batch in watch.batches)


async def test_after_kill_9_events_without_time_in_other_fragments_are_marked(tmp_path: Path) -> None:
    stored = tmp_path / "cursor"
    off, on = ((0, b"\x01"), (0, b"\x81"))
    async with Outstation(static=STATIC) as rtu:
        rtu.events = [indexed(2, 1, [off, on])]
        process = await python(KILLED, str(rtu.port), str(stored), stdout=asyncio.subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 20) == b"on disk\n"
        finally:
            process.kill()
            await process.wait()
        watch = Watch()
        watch.cursors[repeats.SOURCE] = Cursor(repeats.SOURCE, stored.read_bytes())
        other = (0, b"\x03")  # restart flag: none of those
        rtu.events = [indexed(2, 1, [off]), indexed(2, 1, [on]), indexed(2, 1, [other]), indexed(2, 1, [on])]
        async with driving(device(rtu.port, POINTS, event_poll_s=0.05), watch):
            await until(lambda: not rtu.events, what="all confirmed")
    told = [(batch.repeat, sample.native) for batch in watch.batches if batch.reported for sample in batch.samples]
    assert told == [(True, 0x01), (True, 0x81), (False, 0x03), (False, 0x81)]


async def test_opendnp3s_thread_is_known_to_python_from_one_callback_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a thread keeps for itself is lost with its thread state, which pybind11 would make anew each time."""
    own, callbacks = threading.local(), []
    begin = soe.Soe.BeginFragment

    def counted(self: soe.Soe, info: object) -> None:
        own.callbacks = getattr(own, "callbacks", 0) + 1
        callbacks.append(own.callbacks)
        begin(self, info)

    monkeypatch.setattr(soe.Soe, "BeginFragment", counted)
    async with Outstation(static=STATIC) as rtu, driving(device(rtu.port, POINTS, event_poll_s=60), Watch()):
        before = len(callbacks)
        for _ in range(3):
            rtu.unsolicited(indexed(2, 1, [(0, b"\x81")]))
        await until(lambda: len(callbacks) == before + 3, what="three fragments")
    assert callbacks == list(range(1, len(callbacks) + 1))
