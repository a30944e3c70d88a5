"""Commands as they should go: N1 to N13, N17, N18."""

from __future__ import annotations

from typing import Any

import pytest

from simulators.model import CLOSED, OPEN
from tests.brokers import until
from tests.cases65.room import Room

pytestmark = pytest.mark.asyncio(loop_scope="module")
DONE = "intent sent accepted outcome"


@pytest.mark.case("N1")
@pytest.mark.case("N18")
async def test_dnp3_trip_and_close(room: Room) -> None:
    alice = room.operator("n1")
    for value, code, position in (("open", 129, OPEN), ("closed", 65, CLOSED)):
        room.mark()
        selected = await alice.select("FDR12/CB/POS", value)
        assert room.nothing_written()
        tx = await alice.operate(selected)
        await room.proof(alice, tx, "ok", "confirmed", DONE)
        assert room.wrote("FDR12") == [f"SELECT CROB:2 {code}", f"OPERATE CROB:2 {code}"]
        await until(lambda position=position: room.feeder.breaker == position)
        said = [one["result"] for one in alice.answers(selected["tx"]) + alice.answers(tx)]
        assert said == ["selected", "accepted", "done"]
        public = room.said("control/FDR12/CB/POS")
        told = [one["result"] for one in public if one["tx"] in (selected["tx"], tx)]
        assert told == ["selected", "accepted", "done"]
        assert room.words(selected["tx"]) == ["select", "selected"]


@pytest.mark.case("N2")
async def test_dnp3_latch(room: Room) -> None:
    alice = room.operator("n2")
    for value, code in (("on", 3), ("off", 4)):
        room.mark()
        tx = await alice.sbo("FDR12/AR", value)
        await room.proof(alice, tx, "ok", "confirmed", DONE)
        assert room.wrote("FDR12") == [f"SELECT CROB:4 {code}", f"OPERATE CROB:4 {code}"]
        assert room.rtu.reclosing is (value == "on")


@pytest.mark.case("N3")
@pytest.mark.parametrize(("point", "number"), [("FDR12/SET16", 4100), ("FDR12/SET32", 4200), ("FDR12/SETF", 4300.0)])
async def test_dnp3_analog_output(room: Room, point: str, number: float) -> None:
    alice = room.operator(f"n3-{point[-2:]}")
    tx = await alice.sbo(point, number)
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    assert room.wrote("FDR12") == [f"SELECT AO:1 {number:g}", f"OPERATE AO:1 {number:g}"]
    assert room.rtu.setpoint == number


@pytest.mark.case("N3")
@pytest.mark.case("N12")
async def test_a_direct_command_and_the_fourth_analog_variation(room: Room) -> None:
    alice = room.operator("n12")
    tx = await alice.ask("direct", point="FDR12/SETD", value=4400)
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    assert room.wrote("FDR12") == ["DIRECT_OPERATE AO:1 4400"]
    room.mark()
    tx = await alice.ask("direct", point="FDR12/CB/POS", value="open")
    await room.proof(alice, tx, "unsupported", "none", "refused")
    assert room.nothing_written()


@pytest.mark.parametrize(
    ("point", "name", "services"),
    [
        pytest.param("BAY1/DN", "GGIO1.SPCSO1", ["Oper"], marks=pytest.mark.case("N4")),
        pytest.param("BAY1/SN", "GGIO1.SPCSO2", ["SBO", "Oper"], marks=pytest.mark.case("N5")),
        pytest.param("BAY1/DE", "GGIO1.SPCSO3", ["Oper"], marks=pytest.mark.case("N6")),
        pytest.param("BAY1/SE", "GGIO1.SPCSO4", ["SBOw", "Oper"], marks=pytest.mark.case("N7")),
    ],
)
async def test_the_four_control_models(room: Room, point: str, name: str, services: list[str]) -> None:
    alice = room.operator(f"model-{point[-2:]}")
    selected = await alice.select(point, True)
    assert room.wrote("BAY1") == [f"{one} {name}" for one in services[:-1]]
    tx = await alice.operate(selected)
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    assert room.wrote("BAY1") == [f"{one} {name}" for one in services]
    assert room.bay.value(f"{name}.stVal[ST]") is True


@pytest.mark.case("N7")
async def test_sbow_and_oper_say_the_same_and_name_the_operator(room: Room) -> None:
    alice = room.operator("n7-alice")
    tx = await alice.sbo("BAY1/CB/POS", "open")
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    assert room.wrote("BAY1") == ["SBOw CSWI1.Pos", "Oper CSWI1.Pos"]
    sbow, oper = room.bay.writes[-2:]
    for one in (sbow, oper):
        assert (one.ctl_val, one.or_cat, one.or_ident, one.test) == (False, 3, b"n7-alice", False)
    assert (sbow.ctl_num, sbow.check) == (oper.ctl_num, oper.check)
    assert room.feeder.breaker == OPEN


@pytest.mark.case("N8")
async def test_constant_t(room: Room) -> None:
    alice = room.operator("n8")
    for point, same in (("BAY2/SE", True), ("BAY1/SE", False)):
        room.mark()
        selected = await alice.select(point, point == "BAY2/SE")
        room.step_clock(1)  # so that a new T is another one
        tx = await alice.operate(selected)
        await room.proof(alice, tx, "ok", "confirmed", DONE)
        assert room.wrote("BAY1") == ["SBOw GGIO1.SPCSO4", "Oper GGIO1.SPCSO4"]
        sbow, oper = room.bay.writes[-2:]
        assert (sbow.t == oper.t) is same
        await room.shows("BAY1/SE", point == "BAY2/SE")
        room.step_clock(0)


@pytest.mark.case("N9")
async def test_cancel_frees_the_object(room: Room) -> None:
    alice, bob = room.operator("n9-alice"), room.operator("n9-bob")
    selected = await alice.select("BAY1/SE", True)
    assert await bob.refused("cancel", select_id=selected["select_id"]) == "selected-by-other"
    tx = await alice.ask("cancel", select_id=selected["select_id"])
    done = await room.proof(alice, tx, "cancelled", "none", "cancel")
    assert done["stage"] == "cancel"
    await room.proof(alice, selected["tx"], "cancelled", "none", "select selected outcome")
    assert room.wrote("BAY1") == ["SBOw GGIO1.SPCSO4", "Cancel GGIO1.SPCSO4"]
    again = await room.operator("n9-carol").select("BAY1/SE", True)  # the device would refuse a second select
    assert again["result"] == "selected"


@pytest.mark.case("N10")
@pytest.mark.parametrize(
    ("point", "value", "written"),
    [
        ("MTR3/CB/POS", "open", "5 0 [0]"),
        ("MTR3/TARIFF", "night", "6 10 [2]"),
        ("MTR3/LAMP", True, "15 1 [1]"),
        ("MTR3/DEMAND", 30, "16 120 [30]"),
    ],
)
async def test_modbus_functions(room: Room, point: str, value: Any, written: str) -> None:
    alice = room.operator(f"n10-{written[:2].strip()}")
    tx = await alice.sbo(point, value)
    await until(lambda: room.wrote("MTR3"))
    room.meter.bank.set_discrete_inputs(5, [point == "MTR3/LAMP"])  # the plant behind coil 1
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    assert room.wrote("MTR3") == [written]


@pytest.mark.case("N11")
async def test_a_modbus_recipe(room: Room) -> None:
    alice = room.operator("n11")
    selected = await alice.select("MTR3/RECIPE", True)
    assert room.nothing_written()
    tx = await alice.operate(selected)
    await until(lambda: "5 3 [1]" in room.wrote("MTR3"))
    room.meter.bank.set_discrete_inputs(6, [True])
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    await until(lambda: len(room.wrote("MTR3")) == 3)
    assert room.wrote("MTR3") == ["6 200 [23130]", "5 3 [1]", "6 200 [0]"]


@pytest.mark.case("N11")
async def test_a_modbus_recipe_that_is_not_verified_is_not_operated_and_released(room: Room) -> None:
    alice = room.operator("n11b")
    room.meter.bank.set_holding_registers(201, [0])
    tx = await alice.sbo("MTR3/RECIPE", True)
    done = await alice.end(tx)
    assert done["effect"] == "none", done
    assert room.words(tx) == ["intent", "sent", "outcome"]
    await until(lambda: len(room.wrote("MTR3")) == 2)
    assert room.wrote("MTR3") == ["6 200 [23130]", "6 200 [0]"]


@pytest.mark.case("N13")
@pytest.mark.parametrize(
    ("point", "value"), [("FDR12/CB/POS", "closed"), ("BAY1/CB/POS", "closed"), ("MTR3/CB/POS", True)]
)
async def test_already_in_position(room: Room, point: str, value: Any) -> None:
    alice = room.operator(f"n13-{point[:4]}")
    tx = await alice.ask("select", point=point, value=value)
    await room.proof(alice, tx, "already-in-position", "none", "refused")
    assert room.nothing_written()


@pytest.mark.case("N17")
async def test_without_feedback_it_is_unsupervised(room: Room) -> None:
    alice = room.operator("n17")
    tx = await alice.sbo("FDR12/RESET", True)
    await room.proof(alice, tx, "accepted-unsupervised", "possible", "intent sent outcome")
    assert room.wrote("FDR12") == ["SELECT CROB:5 1", "OPERATE CROB:5 1"]
    tx = await alice.sbo("MTR3/HORN", True)
    await room.proof(alice, tx, "accepted-unsupervised", "possible", "intent sent outcome")
    assert room.wrote("MTR3") == ["5 7 [1]"]


@pytest.mark.case("N2")
async def test_a_step(room: Room) -> None:
    alice = room.operator("step")
    tx = await alice.sbo("FDR12/TAP", "raise")
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    assert room.wrote("FDR12") == ["SELECT CROB:6 65", "OPERATE CROB:6 65"]
    assert room.rtu.tap == 11
