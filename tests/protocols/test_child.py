"""A real worker process, with drivers that misbehave on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Verdict
from gatewayd.points.types import Link
from gatewayd.protocols import child as child_module
from gatewayd.protocols.child import Child
from tests.brokers import until
from tests.protocols.support import COMMAND, FakeCore, child, command, device


@contextlib.asynccontextmanager
async def working(core: FakeCore) -> AsyncIterator[Child]:
    worker = child("test", core)
    await worker.open()
    try:
        yield worker
    finally:
        await worker.close()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()


async def test_a_device_runs_is_commanded_and_stopped() -> None:
    core = FakeCore()
    async with working(core) as worker:
        worker.start(device("A", row=5), [])
        await until(lambda: core.up("A"))
        assert core.states[0].samples[0].point == 5
        assert core.states[0].mono_ns
        for verb in ("select", "operate", "cancel", "interrogate"):
            assert (await worker.ask(verb, "A", command(5))).verdict is Verdict.DONE
        assert (await worker.ask("operate", "B", command())).reason is Reason.DEVICE_OFFLINE
        await until(lambda: worker.counters().get("A", {}).get("commands") == 1)
        await worker.stop("A")
        told = len(core.of("A")), len(core.links["A"])
        assert (await worker.ask("operate", "A", command())).reason is Reason.DEVICE_OFFLINE
        assert (len(core.of("A")), len(core.links["A"])) == told
        pid = worker.pid
    assert gone(pid)


async def test_an_event_is_waited_for_until_it_is_on_disk() -> None:
    core = FakeCore()
    core.hold = True
    async with working(core) as worker:
        worker.start(device("A", event=True), [])
        await until(lambda: core.held)
        assert core.link("A") is Link.CONNECTING
        core.release()
        await until(lambda: core.up("A"))


async def test_what_is_not_stored_is_never_confirmed() -> None:
    core = FakeCore()
    core.hold = True
    async with working(core) as worker:
        worker.start(device("A", event=True), [])
        worker.start(device("B"), [])
        await until(lambda: core.held and core.up("B"))
        core.held.pop().set_exception(RuntimeError("the disk is gone"))
        before = len(core.of("B"))
        await until(lambda: len(core.of("B")) > before)
        assert core.link("A") is Link.CONNECTING


async def test_a_crash_is_told_with_its_cause() -> None:
    core = FakeCore()
    async with working(core) as worker:
        worker.start(device("A", "crash"), [])
        assert await asyncio.wait_for(worker.ended, 10) == "killed by SIGSEGV"
        assert (await worker.ask("operate", "A", command())).reason is Reason.DEVICE_OFFLINE
        await worker.stop("A")  # at once: there is nothing to stop


async def test_an_operate_on_its_way_when_the_worker_dies_is_unknown_everything_else_is_not() -> None:
    core = FakeCore()
    async with working(core) as worker:
        worker.start(device("A", "slow"), [])
        await until(lambda: core.up("A"))
        operating = asyncio.create_task(worker.ask("operate", "A", command()))
        await asyncio.sleep(0)
        os.kill(worker.pid, signal.SIGKILL)
        reply = await asyncio.wait_for(operating, 10)
        assert (reply.verdict, reply.reason) == (Verdict.UNKNOWN, Reason.UNKNOWN)


async def test_a_request_that_breaks_the_driver_is_unknown() -> None:
    core = FakeCore()
    async with working(core) as worker:
        worker.start(device("A", "broken"), [])
        await until(lambda: core.up("A"))
        assert (await worker.ask("operate", "A", command())).verdict is Verdict.UNKNOWN
        assert core.up("A")


async def test_a_worker_that_does_not_answer_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "MUTE_S", 1.0)
    core = FakeCore()
    async with working(core) as worker:
        worker.start(device("A", "hang"), [])
        await until(lambda: core.up("A"))
        asking = asyncio.create_task(worker.ask("interrogate", "A", None))
        assert await asyncio.wait_for(worker.ended, 10) == "no answer for 1 s (killed by SIGKILL)"
        assert (await asking).reason is Reason.DEVICE_OFFLINE


async def test_a_stopped_worker_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "MUTE_S", 1.0)
    core = FakeCore()
    async with working(core) as worker:
        worker.start(device("A"), [])
        await until(lambda: core.up("A"))
        os.kill(worker.pid, signal.SIGSTOP)
        assert await asyncio.wait_for(worker.ended, 10) == "no answer for 1 s (killed by SIGKILL)"


async def test_a_worker_may_take_its_time_to_start_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight at once on a busy machine were killed one after the other, and their devices called culprits."""
    monkeypatch.setattr(child_module, "MUTE_S", 0.1)
    monkeypatch.setattr(child_module, "START_S", 3.0)
    core = FakeCore()
    async with working(core) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        await asyncio.sleep(1.5)
        assert not worker.ended.done()
        assert await asyncio.wait_for(worker.ended, 10) == "no answer for 3 s (killed by SIGKILL)"


async def test_a_driver_that_does_not_end_takes_its_worker_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "STOP_S", 0.5)
    core = FakeCore()
    async with working(core) as worker:
        worker.start(device("A", "stubborn"), [])
        await until(lambda: core.up("A"))
        await asyncio.wait_for(worker.stop("A"), 10)
        assert worker.ended.result() == "the driver of A did not end within 0.5 s (killed by SIGKILL)"


async def test_a_worker_that_says_what_is_no_message_is_killed() -> None:
    core = FakeCore()
    async with working(core) as worker:
        worker.start(device("A", "rubbish"), [])
        await until(lambda: core.up("A"))
        await worker.ask("interrogate", "A", None)
        assert "it said what is no message" in await asyncio.wait_for(worker.ended, 10)


async def test_ctrl_c_in_the_terminal_leaves_a_worker_to_the_core() -> None:
    core = FakeCore()
    async with working(core) as worker:
        worker.start(device("A"), [])
        await until(lambda: core.up("A"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(worker.pid, number)
        before = len(core.of("A"))
        await until(lambda: len(core.of("A")) > before)


async def test_no_worker_outlives_a_core_that_was_killed(tmp_path: Path) -> None:
    """A core in a process of its own is killed with -9: its worker must be gone, whatever it was doing."""
    code = (
        "import asyncio, sys\n"
        "from tests.protocols.support import FakeCore, child, device\n"
        "async def main():\n"
        "    core = FakeCore(); worker = child('orphan', core); await worker.open()\n"
        "    worker.start(device('A', sys.argv[1]), [])\n"
        "    while not core.up('A'): await asyncio.sleep(0.01)\n"
        "    asking = asyncio.ensure_future(worker.ask('interrogate', 'A', None))\n"
        "    print(worker.pid, flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    for how in ("ok", "hang"):
        root = Path(__file__).parents[2]
        core = subprocess.Popen([sys.executable, "-c", code, how], stdout=subprocess.PIPE, cwd=root, text=True)  # noqa: ASYNC220
        try:
            assert core.stdout is not None
            pid = int(await asyncio.to_thread(core.stdout.readline))
            assert not gone(pid)
        finally:
            core.kill()
            core.wait()
            core.stdout.close()
        await until(lambda pid=pid: gone(pid), f"the worker ({how}) is gone")


def test_a_worker_without_its_core_ends_at_once() -> None:
    done = subprocess.run([*COMMAND, "--fd", "0", "--core", "1"], check=False, timeout=20, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
