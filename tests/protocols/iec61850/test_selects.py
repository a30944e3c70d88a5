"""A select the IED drops by itself: what stSeld proves, and what it does not."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Step, StepKind, Verdict
from gatewayd.points.types import Kind
from gatewayd.protocols.iec61850 import selects
from gatewayd.protocols.iec61850.connection import Connection
from gatewayd.protocols.iec61850.driver import create
from gatewayd.protocols.iec61850.selects import LOOK_S, Select
from simulators.iec61850_bay import Iec61850Bay
from tests.protocols.iec61850.support import LD, commanded, device, driving
from tests.protocols.iec61850.test_foreign_server import POINTS as FOREIGN
from tests.protocols.iec61850.test_foreign_server import SELECTED, serving
from tests.protocols.watching import Watch, command, until

CB, SN, SE = range(3)
POINTS = [
    commanded(CB, Kind.DOUBLE, "CSWI1.Pos"),
    commanded(SN, Kind.BINARY, "GGIO1.SPCSO2"),
    commanded(SE, Kind.BINARY, "GGIO1.SPCSO4"),
]
NAMES = {CB: "CSWI1.Pos", SN: "GGIO1.SPCSO2", SE: "GGIO1.SPCSO4"}
UNSELECTED = Step(StepKind.UNSELECTED)
WHERE = LD, "CSWI1$ST$Pos$stSeld"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> float:
    """Looks every tenth of a second."""
    monkeypatch.setattr(selects, "LOOK_S", 0.1)
    return 0.1


def select() -> Select:
    return Select(*WHERE, 100.0)


def test_true_and_then_false_is_dropped() -> None:
    one, shows = select(), set[tuple[str, str]]()
    assert not one.judge(True, 100.0, shows)
    assert shows == {WHERE}
    assert one.judge(False, 100.1, shows)


def test_one_that_was_never_seen_true_proves_nothing() -> None:
    one, shows = select(), set[tuple[str, str]]()
    assert not any(one.judge(False, 100.0 + second, shows) for second in range(30))
    assert shows == set()


def test_an_object_that_shows_its_selects_has_time_to_set_it_and_two_looks() -> None:
    one, shows = select(), {WHERE}
    assert not one.judge(False, 100.0, shows)
    assert not one.judge(False, 100.0 + LOOK_S / 2, shows)
    assert not one.judge(False, 100.0 + LOOK_S, shows)
    assert not one.judge(None, 100.0 + LOOK_S, shows)
    assert one.judge(False, 100.0 + 2 * LOOK_S, shows)
    late = select()
    assert [late.judge(value, 101.0, shows) for value in (False, True)] == [False, False]


def test_which_members_of_a_data_set_hold_it() -> None:
    one = select()
    held = ["CSWI1$ST$Pos$stSeld", "CSWI1$ST$Pos", "CSWI1$ST", "CSWI1"]
    assert all(one.in_member(LD, item) for item in held)
    others = ["CSWI1$ST$Po", "CSWI1$ST$Pos$stVal", "CSWI11$ST$Pos", ""]
    assert not any(one.in_member(LD, item) for item in others)
    assert not one.in_member("OTHERLD0", "CSWI1$ST$Pos")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("row", [SN, SE])
async def test_a_select_the_ied_drops_is_told_and_its_operate_sends_nothing(row: int) -> None:
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, reports=[]), watch) as (driver, _):
        sim.shows_selects = True
        asked = command(row, True)
        assert (await driver.select(asked)).verdict is Verdict.DONE
        await until(lambda: driver._memory.shows_selects, what="seen true")
        assert watch.steps == []
        sim.drop_select(NAMES[row])
        await until(lambda: watch.steps)
        assert watch.steps == [(asked.id, UNSELECTED)]
        before = len(sim.writes)
        reply = await driver.operate(asked)
        assert (reply.verdict, reply.reason) == (Verdict.REFUSED, Reason.NOT_SELECTED)
        assert (await driver.cancel(asked)).verdict is Verdict.DONE
        assert len(sim.writes) == before
        assert driver.counters()["selects_dropped"] == 1
        again = command(row, True)
        assert (await driver.select(again)).verdict is Verdict.DONE
        assert (await driver.operate(again)).verdict is Verdict.DONE


async def test_a_report_brings_the_look_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selects, "LOOK_S", 3600.0)
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        sim.shows_selects = True
        asked = command(SE, True)
        await driver.select(asked)
        await until(lambda: driver._memory.shows_selects, what="seen true")
        sim.drop_select(NAMES[SE])
        await until(lambda: watch.steps == [(asked.id, UNSELECTED)])


@pytest.mark.usefixtures("quick")
async def test_dropped_before_the_first_look_is_told_where_the_object_shows_its_selects() -> None:
    watch = Watch()
    async with Iec61850Bay(still=True) as sim:
        sim.shows_selects = True
        driver = create(device(sim.port, POINTS, reports=[]))
        async with driving(driver, watch):
            first = command(CB, False)
            await driver.select(first)
            await until(lambda: driver._memory.shows_selects, what="seen true")
            await driver.cancel(first)
        async with driving(driver, watch):  # known over associations
            sim.shows_selects = False
            asked = command(CB, False)
            await driver.select(asked)
            await until(lambda: watch.steps)
            assert watch.steps == [(asked.id, UNSELECTED)]


@pytest.mark.usefixtures("quick")
async def test_an_ied_that_never_sets_it_is_left_alone() -> None:
    watch = Watch()
    looks: list[str] = []
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, reports=[]), watch) as (driver, _):
        sim.server.read_hooks.insert(0, lambda _, name: looks.append(name.item) if "stSeld" in name.item else None)
        await driver.select(command(SE, True))
        await until(lambda: len(looks) > 6)
        assert watch.steps == []
        selected = command(CB, False)
        await driver.select(selected)
        assert (await driver.operate(selected)).verdict is Verdict.DONE
        await until(lambda: watch.steps)
        assert watch.steps == [(selected.id, Step(StepKind.TERMINATED))]


@pytest.mark.usefixtures("quick")
async def test_our_own_operate_and_cancel_are_no_drop_and_end_the_looks() -> None:
    watch = Watch()
    looks: list[str] = []
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS), watch) as (driver, _):
        sim.shows_selects = True
        sim.server.read_hooks.insert(0, lambda _, name: looks.append(name.item) if "stSeld" in name.item else None)
        for end in (driver.operate, driver.cancel):
            asked = command(SN, True)
            await driver.select(asked)
            seen = len(looks)
            await until(lambda seen=seen: len(looks) > seen + 1)  # type: ignore[misc]
            assert (await end(asked)).verdict is Verdict.DONE
            seen = len(looks)
            await asyncio.sleep(0.4)
            assert len(looks) <= seen + 1  # one may have been on its way
        assert watch.steps == []


@pytest.mark.usefixtures("quick")
async def test_a_look_that_fails_proves_nothing() -> None:
    watch = Watch()
    looks: list[str] = []

    def unreadable(_connection: object, name: object) -> int | None:
        item = str(getattr(name, "item", ""))
        if "stSeld" not in item:
            return None
        looks.append(item)
        return 2  # temporarily-unavailable

    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, reports=[]), watch) as (driver, _):
        sim.shows_selects = True
        asked = command(SE, True)
        await driver.select(asked)
        await until(lambda: driver._memory.shows_selects, what="seen true")
        sim.server.read_hooks.insert(0, unreadable)
        await until(lambda: len(looks) > 5)
        assert watch.steps == []
        assert (await driver.operate(asked)).verdict is Verdict.DONE


@pytest.mark.usefixtures("quick")
async def test_a_command_does_not_wait_for_a_look() -> None:
    watch = Watch()
    unanswered: list[object] = []
    given = {"reports": [], "timeout_s": 5, "poll_s": 60}
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, **given), watch) as (driver, _):
        [connection] = sim.server.connections
        send, looked = connection.send, threading.Event()

        def look(_connection: object, name: object) -> None:
            if "stSeld" in str(name):
                looked.set()

        def swallow(pdu: object) -> None:
            if looked.is_set() and not unanswered:
                unanswered.append(pdu)
            else:
                send(pdu)  # type: ignore[arg-type]

        sim.server.read_hooks.insert(0, look)
        connection.send = swallow  # type: ignore[method-assign]
        asked = command(SE, True, within_s=10)
        assert (await driver.select(asked)).verdict is Verdict.DONE
        await until(lambda: unanswered, what="a look without an answer")
        began = time.monotonic()
        assert (await driver.operate(asked)).verdict is Verdict.DONE
        assert time.monotonic() - began < 3


@pytest.mark.usefixtures("quick")
async def test_an_ied_that_takes_one_request_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Connection.open

    def narrow(self: Connection, *given: object, **more: object) -> None:
        opened(self, *given, **more)  # type: ignore[arg-type]
        self.at_once = 1

    monkeypatch.setattr(Connection, "open", narrow)
    watch = Watch()
    async with Iec61850Bay(still=True) as sim, driving(device(sim.port, POINTS, reports=[]), watch) as (driver, _):
        sim.shows_selects = True
        asked = command(SE, True)
        await driver.select(asked)
        await until(lambda: driver._memory.shows_selects, what="seen true")
        sim.drop_select(NAMES[SE])
        await until(lambda: watch.steps == [(asked.id, UNSELECTED)])


async def test_another_stack_whose_select_runs_out() -> None:
    """libiec61850 keeps stSeld itself; its sboTimeout ends the select."""
    watch = Watch()
    async with serving() as peer, driving(device(peer.port, FOREIGN, reports=[]), watch) as (driver, _):
        peer.say("sbo 1500")
        await peer.done()
        asked = command(SELECTED, True)
        assert (await driver.select(asked)).verdict is Verdict.DONE
        await until(lambda: watch.steps)
        assert watch.steps == [(asked.id, UNSELECTED)]
        assert (await driver.operate(asked)).reason is Reason.NOT_SELECTED
        peer.say("sbo 15000")
        await peer.done()
        again = command(SELECTED, True)
        assert (await driver.select(again)).verdict is Verdict.DONE
        await driver.operate(again)
        await until(lambda: len(watch.steps) == 2)
        assert watch.steps[1] == (again.id, Step(StepKind.TERMINATED))
