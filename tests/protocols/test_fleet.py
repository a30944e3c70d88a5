"""Who runs where: devices of several workers, a worker killed, a culprit found."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator

import msgspec
import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Verdict
from gatewayd.points.types import Cursor, Link
from gatewayd.protocols import culprits
from gatewayd.protocols.blueprint import POLL_S
from gatewayd.protocols.culprits import CALM_S, QUARANTINE_S, WINDOW_S, History
from gatewayd.protocols.device import Serial
from gatewayd.protocols.fleet import Fleet
from gatewayd.protocols.host import InProcess
from tests.brokers import until
from tests.protocols.crashing_worker import create
from tests.protocols.support import FakeCore, child, command, device


@contextlib.asynccontextmanager
async def sailing(core: FakeCore, *, in_process: bool = False, **more: object) -> AsyncIterator[Fleet]:
    make = (lambda name, core: InProcess(name, core, create)) if in_process else child
    fleet = Fleet(core, core.cursors, make_host=make, **more)  # type: ignore[arg-type]
    try:
        yield fleet
    finally:
        await fleet.close()


@pytest.mark.parametrize("in_process", [True, False])
async def test_devices_run_are_asked_changed_and_stopped(*, in_process: bool) -> None:
    core = FakeCore()
    async with sailing(core, in_process=in_process) as fleet:
        await fleet.configure([device("A"), device("B", row=1)])
        await until(lambda: core.up("A", "B"))
        assert (await fleet.ask("operate", "A", command())).verdict is Verdict.DONE
        assert (await fleet.ask("interrogate", "A")).verdict is Verdict.DONE
        assert (await fleet.ask("operate", "C", command())).reason is Reason.DEVICE_OFFLINE
        told = len(core.links["B"])
        await fleet.configure([device("B", row=1), device("C", row=2), device("A", row=7)])
        await until(lambda: core.up("C") and core.of("A")[-1].samples[0].point == 7)
        assert len(core.links["B"]) == told, "a device that did not change was not touched"
        await fleet.configure([device("C", row=2)])
        assert (await fleet.ask("operate", "A", command())).reason is Reason.DEVICE_OFFLINE
        assert set(fleet.counters()) <= {"C"}


async def test_the_cursors_of_the_disk_are_given_to_a_driver_that_starts() -> None:
    core = FakeCore()
    asked: list[str] = []
    ready = asyncio.Event()

    async def cursors(name: str) -> list[Cursor]:
        asked.append(name)
        await ready.wait()
        return []

    fleet = Fleet(core, cursors, make_host=lambda name, core: InProcess(name, core, create))
    await fleet.configure([device("A")])
    await until(lambda: asked == ["A"])
    assert core.links["A"] == [(Link.CONNECTING, "")]
    ready.set()
    await until(lambda: core.up("A"))
    await fleet.close()


async def test_a_killed_worker_is_started_again_and_the_other_goes_on() -> None:
    core = FakeCore()
    names = [f"FDR{n}" for n in range(6)]
    async with sailing(core, shards={"modbus": 2}) as fleet:
        await fleet.configure([device(name, row=row) for row, name in enumerate(names)])
        await until(lambda: core.up(*names))
        workers = fleet.workers()
        assert set(workers) == {"modbus-0", "modbus-1"}
        told = {name: len(core.links[name]) for name in names}
        lost = [name for name in names if fleet._group_of[name].name == "modbus-0"]
        kept = [name for name in names if name not in lost]
        assert lost
        assert kept
        os.kill(workers["modbus-0"], signal.SIGKILL)
        await until(lambda: all(len(core.links[name]) > told[name] for name in lost))
        why = "its worker process ended: killed by SIGKILL"
        assert all(core.links[name][told[name]] == (Link.DOWN, why) for name in lost)
        await until(lambda: core.up(*names))
        assert all(len(core.links[name]) == told[name] for name in kept)
        assert fleet.workers()["modbus-0"] != workers["modbus-0"]
        assert fleet.restarts == 1


async def test_the_device_that_brings_its_worker_down_is_found_and_the_others_are_left_in_peace() -> None:
    core = FakeCore()
    devices = [device(name, "crash" if name == "BAD" else "ok", row=row) for row, name in enumerate("ABCD")]
    async with sailing(core) as fleet:
        await fleet.configure([*devices, device("BAD", "crash", row=9)])
        await until(lambda: core.link("BAD") is Link.FAULT, deadline_s=40)
        assert "it brings its worker down" in core.links["BAD"][-1][1]
        await until(lambda: core.up("A", "B", "C", "D"))
        told = {name: len(core.links[name]) for name in "ABCD"}
        before = len(core.of("A"))
        await until(lambda: len(core.of("A")) >= before + 2)
        assert told == {name: len(core.links[name]) for name in "ABCD"}
        await fleet.configure(devices)
        assert core.up("A", "B", "C", "D")


async def test_what_goes_on_in_one_worker_makes_no_data_of_another_one_late() -> None:
    core = FakeCore()
    other = msgspec.structs.replace(device("OTHER", row=5), protocol="dnp3")
    async with sailing(core) as fleet:
        await fleet.configure([other])
        await until(lambda: core.up("OTHER"))
        began = len(core.of("OTHER"))
        await fleet.configure([other, device("A"), device("B", row=1), device("BAD", "crash", row=9)])
        await until(lambda: core.link("BAD") is Link.FAULT and core.up("A", "B"), deadline_s=40)
        await until(lambda: len(core.of("OTHER")) >= began + 2)
        heard = [batch.t_recv_ns for batch in core.of("OTHER")[began:]]
        assert fleet.restarts >= 3
        assert core.up("OTHER")
        late_s = max((after - before) / 1e9 for before, after in itertools.pairwise(heard)) - POLL_S
        assert late_s < 5, "two seconds on a quiet machine"


async def test_a_fault_of_one_device_is_told_and_nothing_restarts() -> None:
    core = FakeCore()
    async with sailing(core) as fleet:
        await fleet.configure([device("A"), device("F", "fault", row=1)])
        await until(lambda: core.up("A") and core.link("F") is Link.FAULT)
        assert core.links["F"][-1][1] == "the cable is of the wrong colour"
        assert fleet.restarts == 0


async def test_divided_workers_that_are_calm_are_put_together_again(monkeypatch: pytest.MonkeyPatch) -> None:
    core = FakeCore()
    async with sailing(core) as fleet:
        await fleet.configure([device("A"), device("B", "crash-later", row=1)])
        for crashes in (1, 2):
            await until(lambda: core.up("A", "B"))
            await fleet.ask("interrogate", "B")
            await until(lambda crashes=crashes: fleet.restarts == crashes)
        await until(lambda: len(fleet.workers()) == 2 and core.up("A", "B"))
        monkeypatch.setattr(culprits, "CALM_S", 0.1)
        monkeypatch.setattr("gatewayd.protocols.fleet.CALM_CHECK_S", 0.1)
        task = asyncio.create_task(fleet.run())
        await until(lambda: set(fleet.workers()) == {"modbus-0"} and core.up("A", "B"))
        task.cancel()
        await asyncio.wait({task})


async def test_devices_of_one_line_share_a_worker() -> None:
    core = FakeCore()
    async with sailing(core, in_process=True, shards={"modbus": 4}) as fleet:
        line = Serial(port="/dev/ttyS9")
        await fleet.configure([device(f"S{n}", row=n, serial=line) for n in range(8)])
        assert len({fleet._group_of[f"S{n}"].name for n in range(8)}) == 1
    core = FakeCore()
    async with sailing(core, in_process=True, shards={"modbus": 4}) as fleet:
        bus = [device(f"B{n}", row=n, framer="rtu-over-tcp") for n in range(8)]
        own = [device(f"C{n}", row=10 + n, options={"one_connection": True}) for n in range(8)]
        free = [device(f"D{n}", row=20 + n) for n in range(8)]
        await fleet.configure([*bus, *own, *free])
        assert len({fleet._group_of[one.name].name for one in [*bus, *own]}) == 1
        assert len({fleet._group_of[one.name].name for one in free}) > 1
    core = FakeCore()
    async with sailing(core, in_process=True, shards={"dnp3": 4}) as fleet:
        behind_one_port = [msgspec.structs.replace(device(f"R{n}", row=n), protocol="dnp3") for n in range(8)]
        await fleet.configure(behind_one_port)
        assert len({fleet._group_of[one.name].name for one in behind_one_port}) == 1


async def test_devices_of_one_line_stay_together_when_their_worker_is_divided() -> None:
    """A serial port can be open in one process only; the whole line waits, the others go on."""
    core = FakeCore()
    line = Serial(port="/dev/ttyS9")
    on_line = [device("S1", row=0, serial=line), device("BAD", "crash", row=1, serial=line)]
    async with sailing(core) as fleet:
        await fleet.configure([*on_line, device("A", row=2), device("B", row=3)])
        await until(lambda: core.link("BAD") is Link.FAULT and core.link("S1") is Link.FAULT, deadline_s=40)
        assert "one of its line (S1, BAD) brings its worker down" in core.links["S1"][-1][1]
        assert fleet._group_of["S1"] is fleet._group_of["BAD"]
        assert fleet._group_of["S1"] is not fleet._group_of["A"]
        await until(lambda: core.up("A", "B"))


async def test_where_no_more_workers_may_run_the_suspects_wait_together_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gatewayd.protocols.fleet.MOST_WORKERS", 2)
    core = FakeCore()
    async with sailing(core) as fleet:
        good = msgspec.structs.replace(device("GOOD", row=9), protocol="dnp3")
        await fleet.configure([device("A"), device("BAD", "crash", row=1), good])
        await until(lambda: core.link("BAD") is Link.FAULT and core.link("A") is Link.FAULT, deadline_s=40)
        assert "one of its worker (A, BAD) brings its worker down" in core.links["A"][-1][1]
        assert fleet.undivided == 1
        assert set(fleet.workers()) == {"dnp3-0"}
        assert core.up("GOOD")


# ---- culprits, pure


def test_without_room_for_workers_nothing_is_divided_and_the_pauses_grow() -> None:
    history = History()
    verdicts = [history.crashed(["A", "B"], float(at), 1) for at in range(4)]
    assert [verdict.groups for verdict in verdicts] == [[["A", "B"]]] * 4
    assert [verdict.culprit for verdict in verdicts] == [""] * 4
    assert verdicts[1].pause_s == QUARANTINE_S[0]
    assert verdicts[3].pause_s == 4 * QUARANTINE_S[0]
    assert len(History().crashed(["A", "B", "C"], 0.0, 2).groups) == 1


def test_little_room_is_used() -> None:
    history = History()
    history.crashed(["A", "B", "C"], 0.0, 2)
    assert history.crashed(["A", "B", "C"], 1.0, 2).groups == [["A", "C"], ["B"]]


def test_one_crash_is_forgiven_two_divide() -> None:
    history = History()
    assert history.crashed(["A", "B", "C"], 0.0).groups == [["A", "B", "C"]]
    verdict = history.crashed(["A", "B", "C"], WINDOW_S)
    assert verdict.groups == [["A"], ["B"], ["C"]]
    assert verdict.culprit == ""


def test_crashes_far_apart_divide_nothing() -> None:
    history = History()
    for at in range(5):
        assert len(history.crashed(["A", "B"], at * (WINDOW_S + 1)).groups) == 1


def test_many_devices_are_divided_over_few_workers_and_each_is_in_one() -> None:
    names = [f"D{n}" for n in range(100)]
    history = History()
    history.crashed(names, 0)
    groups = history.crashed(names, 1).groups
    assert len(groups) == culprits.PARTS
    assert sorted(name for group in groups for name in group) == sorted(names)


def test_a_device_that_crashes_alone_waits_longer_each_time_and_is_forgiven_after_a_calm_hour() -> None:
    history = History(divided=True)
    history.crashed(["BAD"], 0)
    pauses = [history.crashed(["BAD"], at).pause_s for at in range(1, 12)]
    assert pauses[:3] == [60, 120, 240]
    assert pauses[-1] == QUARANTINE_S[1]
    assert history.crashed(["BAD"], 20 + CALM_S).culprit == ""
    assert history.crashed(["BAD"], 21 + CALM_S).pause_s == 60


def test_only_a_divided_worker_is_put_together_again() -> None:
    assert not History().calm(0, CALM_S + 1)
    assert History(divided=True).calm(0, CALM_S + 1)
    assert not History(divided=True).calm(0, CALM_S)
