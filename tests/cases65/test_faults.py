"""What devices, wires, disks and brokers do to a command: F5 to F15. What kill -9 does: test_kill.py."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from simulators.model import OPEN
from tests.brokers import until
from tests.cases65.room import Room
from tests.protocols.dnp3.outstation import Answer, Function, Request
from tests.protocols.modbus.peers import CLOSE, Action, Asked

pytestmark = pytest.mark.asyncio(loop_scope="module")
DONE = "intent sent accepted outcome"
UNKNOWN = "intent sent outcome"


def operates(room: Room, device: str) -> int:
    """How often the simulator says that something was operated."""
    words = ("OPERATE", "DIRECT_OPERATE", "Oper", "5 ", "05")
    return sum(one.startswith(words) for one in room.wrote(device))


@pytest.mark.case("F5")
async def test_the_link_is_lost_while_selecting(room: Room) -> None:
    alice = room.operator("f5-selecting")
    room.wires["BAY2"].mute = True
    tx = await alice.ask("select", point="BAY2/SE", value=True)
    await until(lambda: room.wrote("BAY1") == ["SBOw GGIO1.SPCSO4"])
    room.wires["BAY2"].cut()
    await room.proof(alice, tx, "device-offline", "none", "select outcome")
    assert operates(room, "BAY1") == 0


@pytest.mark.case("F5")
@pytest.mark.parametrize(
    ("device", "point", "value"), [("FDR12", "FDR12/CB/POS", "open"), ("MTR3", "MTR3/CB/POS", "open")]
)
async def test_the_link_is_lost_while_selected(room: Room, device: str, point: str, value: Any) -> None:
    alice = room.operator(f"f5-selected-{device}")
    selected = await alice.select(point, value)
    room.wires[device].cut()
    room.wires[device].down = True
    await room.proof(alice, selected["tx"], "device-offline", "none", "select selected outcome")
    tx = await alice.operate(selected)
    assert (await alice.end(tx))["effect"] == "none"
    room.wires[device].down = False
    await room.good()
    assert room.wrote(device) == []


@pytest.mark.case("F5")
async def test_the_link_is_lost_while_operating(room: Room) -> None:
    room.outstation.answers[Function.OPERATE] = lambda _: room.outstation.hang_up()  # type: ignore[func-returns-value]
    alice = room.operator("f5-operating")
    tx = await alice.sbo("SCR12/SW", True)
    await room.proof(alice, tx, "unknown", "possible", UNKNOWN)
    assert room.wrote("SCR12") == ["SELECT", "OPERATE"]
    await room.shows("SCR12/SW", False)


@pytest.mark.case("F5")
async def test_the_link_is_lost_while_supervising(room: Room) -> None:
    room.bay.stuck.add("CSWI1.Pos")
    room.bay.travel_s = 3
    alice = room.operator("f5-supervising")
    tx = await alice.sbo("BAY1/CB/POS", "open")
    await until(lambda: room.words(tx)[-1:] == ["accepted"])
    room.wires["BAY1"].cut()
    await room.proof(alice, tx, "feedback-timeout", "possible", DONE)
    assert room.wrote("BAY1") == ["SBOw CSWI1.Pos", "Oper CSWI1.Pos"]
    controls = room.bay.server.controls
    assert controls is not None
    controls.finish("BAY1LD0/CSWI1.Pos", None)


@pytest.mark.case("F6")
async def test_the_reply_is_lost_dnp3(room: Room) -> None:
    room.rtu.lose.add("CROB:2")
    alice = room.operator("f6-dnp3")
    tx = await alice.sbo("FDR12/CB/POS", "open")
    await room.proof(alice, tx, "unknown", "possible", UNKNOWN)
    await until(lambda: [one for one in alice.answers(tx) if one.get("late")], "the field has the last word")
    assert [(one["reason"], one["effect"]) for one in alice.answers(tx) if one.get("late")] == [("ok", "confirmed")]
    assert room.wrote("FDR12") == ["SELECT CROB:2 129", "OPERATE CROB:2 129"]
    assert room.feeder.breaker == OPEN


@pytest.mark.case("F6")
async def test_the_reply_is_lost_modbus(room: Room) -> None:
    room.meter.silent.add(5)
    alice = room.operator("f6-modbus")
    tx = await alice.sbo("MTR3/CB/POS", "open")
    await room.proof(alice, tx, "unknown", "possible", UNKNOWN)
    await room.shows("MTR3/CB/POS", False)
    assert room.wrote("MTR3") == ["5 0 [0]"]


@pytest.mark.case("F6")
async def test_the_reply_is_lost_iec61850(room: Room) -> None:
    alice = room.operator("f6-iec61850")
    selected = await alice.select("BAY1/CB/POS", "open")
    room.wires["BAY1"].mute = True
    tx = await alice.operate(selected)
    await room.proof(alice, tx, "unknown", "possible", UNKNOWN)
    room.wires["BAY1"].cut()  # TCP never loses octets and goes on
    room.wires["BAY1"].mute = False
    await room.shows("BAY1/CB/POS", "open")
    assert [one for one in room.wrote("BAY1") if one.startswith("Oper")] == ["Oper CSWI1.Pos"]


@pytest.mark.case("F7")
async def test_the_device_answers_twice_dnp3(room: Room) -> None:
    def operate(request: Request) -> list[Answer]:
        room.switch(on=True)
        return [Answer(request.objects), Answer(request.objects)]

    room.outstation.answers |= {
        Function.SELECT: lambda request: [Answer(request.objects)] * 2, Function.OPERATE: operate
    }  # fmt: skip
    alice = room.operator("f7-dnp3")
    tx = await alice.sbo("SCR12/SW", True)
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    assert room.wrote("SCR12") == ["SELECT", "OPERATE"]


@pytest.mark.case("F7")
async def test_the_device_answers_twice_modbus(room: Room) -> None:
    def script(asked: Asked) -> list[Action]:
        if asked.function != 5:
            return [asked.good]
        room.peer.bits[0] = True
        return [asked.good, asked.good]

    room.peer.script = script
    alice = room.operator("f7-modbus")
    tx = await alice.sbo("SCR3/SW", True)
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    assert operates(room, "SCR3") == 1


@pytest.mark.case("F7")
async def test_the_device_answers_twice_iec61850(room: Room) -> None:
    """libiec61850 takes the second answer for a fault or for nothing; one Oper in any case."""
    alice = room.operator("f7-iec61850")
    selected = await alice.select("BAY1/SE", True)
    room.wires["BAY1"].change = lambda data: [data] * (1 + operates(room, "BAY1"))
    tx = await alice.operate(selected)
    done = await alice.end(tx)
    assert (done["reason"], done["effect"]) in [("ok", "confirmed"), ("unknown", "possible"),
                                                ("feedback-timeout", "possible")]  # fmt: skip
    room.wires["BAY1"].change = None
    await room.shows("BAY1/SE", True)
    assert operates(room, "BAY1") == 1


@pytest.mark.case("F8")
@pytest.mark.parametrize("wrong", ["echo", "rubbish", "sequence"])
async def test_the_device_answers_rubbish_dnp3(room: Room, wrong: str) -> None:
    def operate(request: Request) -> Answer | None:
        match wrong:
            case "echo":
                return Answer(request.objects[:-1] + b"\x00" + request.objects[-1:])
            case "sequence":
                room.outstation.respond(request._replace(control=request.control + 3 & 0xCF), Answer(request.objects))
            case _:
                room.outstation.send_raw(b"\x05\x64\xff\xff" + bytes(range(200)))
        return None

    room.outstation.answers[Function.OPERATE] = operate
    alice = room.operator(f"f8-{wrong}")
    tx = await alice.sbo("SCR12/SW", True)
    await room.proof(alice, tx, "unknown", "possible", UNKNOWN)
    assert room.wrote("SCR12") == ["SELECT", "OPERATE"]


@pytest.mark.case("F8")
@pytest.mark.parametrize("wrong", ["echo", "rubbish", "tid", "unit", "close"])
async def test_the_device_answers_rubbish_modbus(room: Room, wrong: str) -> None:
    def script(asked: Asked) -> list[Action]:
        if asked.function != 5:
            return [asked.good]
        answers: dict[str, list[Action]] = {
            "echo": [asked.frame(b"\x05\x00\x01\xff\x00")], "rubbish": [b"\xff" * 40],
            "tid": [asked.frame(asked.pdu, tid=b"\x77\x77")], "unit": [asked.frame(asked.pdu, unit=9)],
            "close": [CLOSE],
        }  # fmt: skip
        return answers[wrong]

    room.peer.script = script
    alice = room.operator(f"f8-{wrong}")
    tx = await alice.sbo("SCR3/SW", True)
    await room.proof(alice, tx, "unknown", "possible", UNKNOWN)
    await room.good()
    assert operates(room, "SCR3") == 1


@pytest.mark.case("F8")
async def test_the_device_answers_rubbish_iec61850(room: Room) -> None:
    alice = room.operator("f8-iec61850")
    selected = await alice.select("BAY1/SE", True)
    room.wires["BAY1"].change = lambda data: [data[:4] + bytes(len(data) - 4) if operates(room, "BAY1") else data]
    tx = await alice.operate(selected)
    await room.proof(alice, tx, "unknown", "possible", UNKNOWN)
    room.wires["BAY1"].change = None
    await room.shows("BAY1/SE", True)
    assert operates(room, "BAY1") == 1


@pytest.mark.case("F14")
async def test_the_ied_restarts_after_the_select(room: Room) -> None:
    alice = room.operator("f14")
    selected = await alice.select("BAY1/SE", True)
    await asyncio.to_thread(room.bay.stop)
    room.bay.start()
    await room.proof(alice, selected["tx"], "device-offline", "none", "select selected outcome")
    assert (await alice.end(await alice.operate(selected)))["effect"] == "none"
    assert operates(room, "BAY1") == 0
    await until(lambda: room.said("device/BAY1")[-1]["link"] == "up", "up again", 10)
    again = await alice.select("BAY1/SE", True)
    await room.proof(alice, await alice.operate(again), "ok", "confirmed", DONE)


@pytest.mark.case("F14")
@pytest.mark.parametrize("device", ["BAY1", "BAY2"])
async def test_the_ied_drops_the_select_by_itself(room: Room, device: str) -> None:
    """Its stSeld says so: to BAY1 by a report, to BAY2, which has none, when it is read."""
    room.bay.shows_selects = True
    alice = room.operator(f"f14-{device}")
    looks = room.bay.looks
    selected = await alice.select(f"{device}/SE", True)
    await until(lambda: room.bay.looks > looks, "a look at stSeld")
    assert alice.ends(selected["tx"]) == []
    room.bay.drop_select("GGIO1.SPCSO4")
    await room.proof(alice, selected["tx"], "device-unselected", "none", "select selected outcome")
    assert await alice.refused("operate", **{key: selected[key] for key in ("point", "value", "select_id")}) in (
        "not-selected",
        "device-unselected",
    )
    assert operates(room, "BAY1") == 0
    again = await alice.select(f"{device}/SE", True)
    await room.proof(alice, await alice.operate(again), "ok", "confirmed", DONE)


@pytest.mark.case("F14")
async def test_the_ied_drops_the_select_by_itself_and_does_not_show_it(room: Room) -> None:
    """Its stSeld is never true, which proves nothing: the Oper is asked once, and refused."""
    alice = room.operator("f14b")
    selected = await alice.select("BAY1/SE", True)
    room.bay.refuse_operate["GGIO1.SPCSO4"] = 18
    tx = await alice.operate(selected)
    await room.proof(alice, tx, "not-selected", "none", UNKNOWN, native="object-not-selected")
    assert operates(room, "BAY1") == 1
    assert room.bay.value("GGIO1.SPCSO4.stVal[ST]") is False


@pytest.mark.case("F15")
async def test_the_end_of_a_pulse_fails(room: Room) -> None:
    def script(asked: Asked) -> list[Action]:
        return [asked.exception(4)] if asked.pdu == b"\x05\x00\x07\x00\x00" else [asked.good]

    room.peer.script = script
    alice = room.operator("f15")
    tx = await alice.sbo("SCR3/PULSE", True)
    await room.proof(alice, tx, "unknown", "possible", DONE, native="pulse-stuck")
    assert room.wrote("SCR3").count("050007ff00") == 1
    assert room.wrote("SCR3").count("0500070000") > 1  # the only write that repeats
    assert "pulse" in room.gateway.log


@pytest.mark.case("F11")
async def test_the_broker_is_lost_while_supervising(room: Room) -> None:
    alice = room.operator("f11")
    room.rtu.ignore.add("CROB:2")
    tx = await alice.sbo("FDR12/CB/POS", "open")
    await until(lambda: room.words(tx)[-1:] == ["accepted"])
    await room.broker.kill()
    await until(lambda: room.words(tx)[-1:] == ["outcome"], "the outcome, on record")
    room.gateway.signal(signal.SIGSTOP)  # so that somebody listens when it comes
    await room.broker.start()
    await room.listen_again()
    room.gateway.signal(signal.SIGCONT)
    await room.reached()
    await room.proof(alice, tx, "feedback-timeout", "possible", DONE)
    await until(lambda: [e for m in room.said("event") for e in m["events"] if e.get("tx") == tx], "the event")
    assert room.wrote("FDR12") == ["SELECT CROB:2 129", "OPERATE CROB:2 129"]


@pytest.mark.case("F12")
async def test_the_broker_is_lost_while_selected(room: Room) -> None:
    alice = room.operator("f12")
    selected = await alice.select("FDR12/CB/POS", "open")
    await room.broker.kill()
    await until(lambda: room.words(selected["tx"])[-1:] == ["outcome"], "it ran out", 5)
    await room.broker.start()
    await room.listen_again()
    await room.reached()
    tx = await alice.operate(selected)
    await room.proof(alice, tx, "select-expired", "none", "refused")
    assert [one["reason"] for one in room.trail(selected["tx"]) if "reason" in one] == ["select-expired"]
    assert room.nothing_written()
