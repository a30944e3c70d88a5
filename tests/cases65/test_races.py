"""Two at once, too early, too late: R1 to R24."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from typing import Any

import pytest

from simulators.model import OPEN
from tests.brokers import until
from tests.cases65.room import Room, stamp
from tests.protocols.dnp3.outstation import Answer, Function, Request, indexed, time48

pytestmark = pytest.mark.asyncio(loop_scope="module")
DONE = "intent sent accepted outcome"
PRIMARIES = [("FDR12/CB/POS", "open"), ("BAY1/CB/POS", "open"), ("MTR3/CB/POS", "open")]


@pytest.mark.case("R1")
@pytest.mark.parametrize(("point", "value"), PRIMARIES)
async def test_operate_without_a_select(room: Room, point: str, value: Any) -> None:
    alice = room.operator(f"r1-{point[:4]}")
    tx = await alice.ask("operate", point=point, value=value, select_id="0" * 32)
    await room.proof(alice, tx, "not-selected", "none", "refused")
    assert room.nothing_written()


@pytest.mark.case("R2")
async def test_just_before_and_just_after_the_end_of_a_select(room: Room) -> None:
    alice = room.operator("r2")
    early, late = await alice.select("FDR12/CB/POS", "open"), await alice.select("MTR3/CB/POS", "open")
    assert (early["valid_for_s"], late["valid_for_s"]) == (2, 2)
    await asyncio.sleep(1.7)
    before = await alice.operate(early)
    await room.proof(alice, before, "ok", "confirmed", DONE)
    assert len(room.wrote("FDR12")) == 2
    await room.proof(alice, late["tx"], "select-expired", "none", "select selected outcome")
    after = await alice.operate(late)
    await room.proof(alice, after, "select-expired", "none", "refused")
    assert room.wrote("MTR3") == []


@pytest.mark.case("R3")
@pytest.mark.parametrize(("point", "value"), PRIMARIES)
async def test_of_two_operators_exactly_one_wins(room: Room, point: str, value: Any) -> None:
    both = [room.operator(f"r3-{name}-{point[:4]}") for name in ("alice", "bob")]
    txs = await asyncio.gather(*(one.ask("select", point=point, value=value) for one in both))
    answers = [await one.first(tx) for one, tx in zip(both, txs, strict=True)]
    assert sorted(one["result"] for one in answers) == ["done", "selected"]
    won = [one["result"] for one in answers].index("selected")
    await room.proof(both[1 - won], txs[1 - won], "selected-by-other", "none", "refused")
    tx = await both[won].operate(answers[won])
    await room.proof(both[won], tx, "ok", "confirmed", DONE)
    device, _, _ = point.partition("/")
    assert len(room.wrote(device)) == {"FDR12": 2, "BAY1": 2, "MTR3": 1}[device]


@pytest.mark.case("R4")
async def test_anothers_select_cannot_be_operated_and_stays(room: Room) -> None:
    alice, bob = room.operator("r4-alice"), room.operator("r4-bob")
    selected = await alice.select("BAY1/CB/POS", "open")
    stolen = await bob.operate(selected)
    await room.proof(bob, stolen, "selected-by-other", "none", "refused")
    assert room.wrote("BAY1") == ["SBOw CSWI1.Pos"]
    tx = await alice.operate(selected)
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    assert room.wrote("BAY1") == ["SBOw CSWI1.Pos", "Oper CSWI1.Pos"]


@pytest.mark.case("R5")
@pytest.mark.parametrize(
    ("point", "value", "device", "writes"),
    [("FDR12/CB/POS", "open", "FDR12", 2), ("BAY1/CB/POS", "open", "BAY1", 2), ("MTR3/CB/POS", "open", "MTR3", 1)],
)
async def test_an_operate_delivered_twice_is_one_write(
    room: Room, point: str, value: Any, device: str, writes: int
) -> None:
    alice = room.operator(f"r5-{device}")
    selected = await alice.select(point, value)
    body = {"tx": f"r5-{device}", "point": point, "value": value, "select_id": selected["select_id"],
            "expires_at": stamp(30)}  # fmt: skip
    for _ in range(3):  # octet for octet the same, as a broker sends it with DUP
        await room.console.publish(f"cmd/{alice.name}/operate", body)
    await room.proof(alice, body["tx"], "ok", "confirmed", DONE)
    await until(lambda: len([one for one in alice.answers(body["tx"]) if one["duplicate"]]) == 2, "told twice more")
    await room.console.publish(f"cmd/{alice.name}/operate", body)  # and long after
    await until(lambda: len([one for one in alice.answers(body["tx"]) if one["duplicate"]]) == 3, "told again")
    assert alice.answers(body["tx"])[-1]["reason"] == "ok"
    assert len(room.wrote(device)) == writes


@pytest.mark.case("R6")
async def test_a_select_delivered_twice_is_one_record(room: Room) -> None:
    alice = room.operator("r6")
    selected = await alice.select("BAY1/SE", True)
    tx = await alice.ask("select", point="BAY1/SE", value=True, tx=selected["tx"])
    await until(lambda: len(alice.answers(tx)) == 2)
    again = alice.answers(tx)[1]
    assert (again["duplicate"], again["select_id"], again["result"]) == (True, selected["select_id"], "selected")
    assert room.words(tx) == ["select", "selected"]
    assert room.wrote("BAY1") == ["SBOw GGIO1.SPCSO4"]


@pytest.mark.case("R7")
@pytest.mark.parametrize(
    ("point", "device", "value", "other", "wire"),
    [
        ("FDR12/SET16", "FDR12", 4100, 4101, []),
        ("BAY1/SE", "BAY1", True, False, ["SBOw GGIO1.SPCSO4", "Cancel GGIO1.SPCSO4"]),
        ("MTR3/DEMAND", "MTR3", 30, 60, []),
    ],
)
async def test_another_value_than_selected(
    room: Room, point: str, device: str, value: Any, other: Any, wire: list[str]
) -> None:
    alice = room.operator(f"r7-{device}")
    selected = await alice.select(point, value)
    tx = await alice.operate(selected, value=other)
    await room.proof(alice, tx, "mismatch", "none", "outcome")
    await until(lambda: len(room.wrote(device)) == len(wire))
    assert room.wrote(device) == wire
    again = await alice.operate(selected)
    await room.proof(alice, again, "not-selected", "none", "refused")
    assert room.wrote(device) == wire


@pytest.mark.case("R8")
@pytest.mark.parametrize("first", ["cancel", "operate"])
@pytest.mark.parametrize(("point", "value"), PRIMARIES)
async def test_of_cancel_and_operate_exactly_one_wins(room: Room, point: str, value: Any, first: str) -> None:
    alice = room.operator(f"r8-{first}-{point[:4]}")
    selected = await alice.select(point, value)
    stages = {"cancel": alice.ask("cancel", select_id=selected["select_id"]), "operate": alice.operate(selected)}
    order = [first, "operate" if first == "cancel" else "cancel"]
    txs = dict(zip(order, await asyncio.gather(*(stages[one] for one in order)), strict=True))
    operated, cancelled = await alice.end(txs["operate"]), await alice.end(txs["cancel"])
    said = (operated["reason"], cancelled["reason"])
    assert said in [("ok", "busy"), ("ok", "replay"), ("not-selected", "cancelled")], said
    device, _, _ = point.partition("/")
    operates = [one for one in room.wrote(device) if one.startswith(("OPERATE", "Oper", "5 0"))]
    assert len(operates) == (said[0] == "ok")
    assert room.words(txs["operate"])[-1] == ("outcome" if operates else "refused")


@pytest.mark.case("R9")
async def test_local_between_select_and_operate(room: Room) -> None:
    alice = room.operator("r9")
    selected = await alice.select("FDR12/CB/POS", "open")
    room.feeder.local = True
    await room.proof(alice, selected["tx"], "local", "none", "select selected outcome")
    tx = await alice.operate(selected)
    assert (await alice.end(tx))["effect"] == "none"
    assert room.nothing_written()


@pytest.mark.case("R10")
async def test_local_after_the_write_is_supervised(room: Room) -> None:
    """Before the write: tests/control/test_desk.py, where the moment can be hit."""
    alice = room.operator("r10")
    room.feeder.travel_s = 0.6
    try:
        tx = await alice.sbo("FDR12/CB/POS", "open")
        await until(lambda: len(room.wrote("FDR12")) == 2)
        room.feeder.local = True
        await room.shows("FDR12/LOCAL", True)
        await room.proof(alice, tx, "ok", "confirmed", DONE)
    finally:
        room.feeder.travel_s = 0.05
    assert len(room.wrote("FDR12")) == 2


@pytest.mark.case("R11")
@pytest.mark.parametrize("bits", [0b11, 0b10, 1 << 10], ids=["questionable", "invalid", "substituted"])
async def test_an_interlock_input_that_goes_bad_ends_the_select(room: Room, bits: int) -> None:
    alice = room.operator(f"r11-{bits}")
    selected = await alice.select("FDR12/AR", "on")
    room.bay.set("GGIO1.Ind1.stVal[ST]", True, q=bits)
    await room.proof(alice, selected["tx"], "interlocked", "none", "select selected outcome")
    assert await alice.refused("select", point="FDR12/AR", value="on") == "interlocked"
    assert room.nothing_written()


@pytest.mark.case("R12")
async def test_feedback_before_the_devices_reply(room: Room) -> None:
    def operate(request: Request) -> Answer:
        room.switch(on=True)
        return Answer(request.objects)

    room.outstation.answers[Function.OPERATE] = operate
    alice = room.operator("r12")
    tx = await alice.sbo("SCR12/SW", True)
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    assert room.wrote("SCR12") == ["SELECT", "OPERATE"]


@pytest.mark.case("R13")
async def test_feedback_of_an_older_operation(room: Room) -> None:
    alice = room.operator("r13")
    tx = await alice.sbo("SCR12/SW", True)
    await until(lambda: room.words(tx)[-1:] == ["accepted"])
    five_s_ago = int(datetime.now(UTC).timestamp() * 1000) - 5000
    room.outstation.unsolicited(indexed(2, 2, [(0, b"\x81" + time48(five_s_ago))]))
    await room.proof(alice, tx, "feedback-timeout", "possible", DONE)
    assert room.wrote("SCR12") == ["SELECT", "OPERATE"]


@pytest.mark.case("R14")
@pytest.mark.parametrize("flags", [0x11, 0x05], ids=["local-forced", "comm-lost"])
async def test_feedback_that_is_not_good_is_not_taken(room: Room, flags: int) -> None:
    """Test and questionable: tests/control, where a quality can be made that no simulator here gives a switch."""
    alice = room.operator(f"r14-{flags}")
    tx = await alice.sbo("SCR12/SW", True)
    await until(lambda: room.words(tx)[-1:] == ["accepted"])
    room.switch(on=True, quality=flags)
    await room.proof(alice, tx, "feedback-timeout", "possible", DONE)
    assert room.wrote("SCR12") == ["SELECT", "OPERATE"]
    room.switch(on=True)  # good now; the outcome stays
    await room.shows("SCR12/SW", True)
    assert [one["reason"] for one in alice.ends(tx)] == ["feedback-timeout"]


@pytest.mark.case("R15")
async def test_intermediate_then_bad_then_target(room: Room) -> None:
    room.rtu.ignore.add("CROB:2")
    usual = type(room.rtu).binaries
    contacts = [False, True]

    def binaries() -> list[bool]:
        found = usual(room.rtu)
        return [*found[:3], *contacts, *found[5:]]

    room.rtu.binaries = binaries  # type: ignore[method-assign]
    alice = room.operator("r15")
    try:
        tx = await alice.sbo("FDR12/CB/POS", "open")
        await until(lambda: room.words(tx)[-1:] == ["accepted"])
        for both, value in (([False, False], "intermediate"), ([True, True], "bad")):
            contacts[:] = both
            await until(lambda value=value: (room.look(), room.points["FDR12/CB/POS"]["value"] == value)[1], value)
            assert [one["reason"] for one in alice.ends(tx)] == [], value
        contacts[:] = [True, False]
        await room.proof(alice, tx, "ok", "confirmed", DONE)
    finally:
        del room.rtu.binaries
    assert len(room.wrote("FDR12")) == 2


@pytest.mark.case("R16")
async def test_termination_without_position(room: Room) -> None:
    room.bay.stuck.add("CSWI1.Pos")
    alice = room.operator("r16")
    tx = await alice.sbo("BAY1/CB/POS", "open")
    await room.proof(alice, tx, "feedback-timeout", "possible", DONE)
    assert room.wrote("BAY1") == ["SBOw CSWI1.Pos", "Oper CSWI1.Pos"]


@pytest.mark.case("R17")
async def test_position_without_termination(room: Room) -> None:
    controls = room.bay.server.controls
    assert controls is not None
    finish, controls.finish = controls.finish, lambda *_: None  # type: ignore[method-assign, assignment, return-value]
    alice = room.operator("r17")
    try:
        tx = await alice.sbo("BAY1/CB/POS", "open")
        done = await room.proof(alice, tx, "feedback-timeout", "possible", DONE)
        assert done["detail"] == "the position came, CommandTermination did not"
        assert room.feeder.breaker == OPEN
        assert room.wrote("BAY1") == ["SBOw CSWI1.Pos", "Oper CSWI1.Pos"]
    finally:
        controls.finish = finish  # type: ignore[method-assign]
        controls.finish("BAY1LD0/CSWI1.Pos", None)
    assert len(alice.ends(tx)) == 1


@pytest.mark.case("R18")
@pytest.mark.parametrize("point", ["BAY1/DE", "BAY1/SE"])
async def test_a_late_reply_rewrites_nothing(room: Room, point: str) -> None:
    alice = room.operator(f"r18-{point[-2:]}")
    selected = await alice.select(point, True)
    room.wires["BAY1"].hold()
    tx = await alice.operate(selected)
    await room.proof(alice, tx, "unknown", "possible", "intent sent outcome")
    room.wires["BAY1"].release()
    await until(lambda: [one for one in alice.answers(tx) if one.get("late")], "told late")
    assert len(alice.ends(tx)) == 1
    assert [one for one in room.wrote("BAY1") if one.startswith("Oper")] == [
        f"Oper GGIO1.SPCSO{3 if point == 'BAY1/DE' else 4}"
    ]
    assert "late" in room.words(tx)


@pytest.mark.case("R19")
@pytest.mark.case("R20")
@pytest.mark.case("F13")
async def test_select_and_operate_are_neighbours_and_never_come_again(room: Room) -> None:
    """Polls are due all the time, events come in between, the sequence numbers wrap: no OPERATE without its SELECT."""

    def select(request: Request) -> Answer:
        room.switch(on=at % 2 == 1)
        return Answer(request.objects)

    def operate(request: Request) -> Answer:
        room.switch(on=at % 2 == 0)
        return Answer(request.objects)

    room.outstation.answers |= {Function.SELECT: select, Function.OPERATE: operate}
    began = len(room.outstation.requests)
    for at in range(18):
        alice = room.operator(f"r19-{at // 6}")
        tx = await alice.sbo("SCR12/SW", at % 2 == 0)
        await room.proof(alice, tx, "ok", "confirmed", DONE)
    requests = [one for one in room.outstation.requests[began:] if one.function != Function.CONFIRM]
    assert any(one.event_poll for one in requests)
    selects = [at for at, one in enumerate(requests) if one.function == Function.SELECT]
    operates = [at for at, one in enumerate(requests) if one.function == Function.OPERATE]
    assert operates == [at + 1 for at in selects]
    assert len(operates) == 18
    for at in selects:
        assert requests[at + 1].sequence == (requests[at].sequence + 1) & 0x0F
        assert requests[at + 1].objects == requests[at].objects


@pytest.mark.case("R21")
async def test_the_lock_of_the_bay(room: Room) -> None:
    alice, bob = room.operator("r21-alice"), room.operator("r21-bob")
    await alice.select("BAY1/CB/POS", "open")
    tx = await bob.ask("select", point="BAY1/DS/POS", value="open")
    await room.proof(bob, tx, "selected-by-other", "none", "refused")
    assert await alice.refused("select", point="BAY1/DS/POS", value="open") == "selected-by-you"
    assert room.wrote("BAY1") == ["SBOw CSWI1.Pos"]
    assert (await bob.select("MTR3/CB/POS", "open"))["result"] == "selected"


@pytest.mark.case("R22")
async def test_a_reload_that_takes_the_selected_point(room: Room) -> None:
    alice = room.operator("r22")
    gone, stays = await alice.select("FDR12/AR", "on"), await alice.select("BAY1/SE", True)
    room.write_config(without=["FDR12/AR"])
    try:
        room.gateway.signal(signal.SIGHUP)
        await room.proof(alice, gone["tx"], "aborted-reload", "none", "select selected outcome")
        assert await alice.refused("operate", **{k: gone[k] for k in ("point", "value", "select_id")}) in (
            "unknown-point", "not-selected"
        )  # fmt: skip
        tx = await alice.operate(stays)
        await room.proof(alice, tx, "ok", "confirmed", DONE)
    finally:
        room.write_config()
        room.gateway.signal(signal.SIGHUP)
    assert room.wrote("FDR12") == []


@pytest.mark.case("R23")
async def test_the_operators_clock_is_off(room: Room) -> None:
    alice = room.operator("r23")
    for expires_s in (30 + 120, 30 - 120):
        tx = await alice.ask("select", point="MTR3/CB/POS", value="open", expires_s=expires_s)
        done = await room.proof(alice, tx, "expired", "none", "refused")
        assert "by the gateway's clock" in done["detail"]
    selected = await alice.select("MTR3/CB/POS", "open")
    tx = await alice.operate(selected, expires_s=-90)
    await room.proof(alice, tx, "expired", "none", "refused")
    assert room.nothing_written()
    tx = await alice.operate(selected)  # it was refused before anybody looked at the select
    await room.proof(alice, tx, "ok", "confirmed", DONE)


@pytest.mark.case("R24")
@pytest.mark.parametrize("hours", [1, -1])
async def test_a_step_of_the_clock_while_selected(room: Room, hours: int) -> None:
    alice = room.operator(f"r24-{hours}")
    kept, left = await alice.select("FDR12/CB/POS", "open"), await alice.select("MTR3/CB/POS", "open")
    room.step_clock(hours * 3600)
    tx = await alice.operate(kept, expires_s=hours * 3600 + 30)
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    await room.proof(alice, left["tx"], "select-expired", "none", "select selected outcome")
    assert len(room.wrote("FDR12")) == 2
    assert room.wrote("MTR3") == []
