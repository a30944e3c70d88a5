"""Every gate at the select, at the operate, and immediately before the write; who may; floods; tags."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gatewayd import failpoint
from gatewayd.control import rates
from gatewayd.control.keys import SigningKey
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.types import Result
from gatewayd.points import quality as q
from gatewayd.points.types import ControlMode, Link
from tests.control.support import AR, BAY, CB, DS, HORN, LAMP, LOCAL, MODE, SETP, TAP, Room, opened, until

Break = Callable[[Room], Any]


async def tag(room: Room, kind: str, on: str, operator: str = "bob", **more: Any) -> Any:
    return await room.done("tag", operator, body={"set": kind, "on": on, "note": "earthing", **more})


def standby(room: Room) -> None:
    room.active = False


def offline(room: Room) -> None:
    room.links["FDR12"] = Link.DOWN
    room.show(LOCAL, False, q.QUESTIONABLE | q.COMM_LOST)


def in_state(point: str, value: Any, quality: int = 0) -> Break:
    def change(room: Room) -> None:
        row = room.database.row(point)
        assert row is not None
        room.database.states[row].value = value
        room.database.states[row].quality = quality

    return change


GATES: list[tuple[str, Break, Reason]] = [
    ("standby", standby, Reason.NOT_ACTIVE),
    ("Local", in_state(LOCAL, True), Reason.LOCAL),
    ("Local not known", in_state(LOCAL, False, q.QUESTIONABLE), Reason.LOCAL),
    ("interlock false", in_state(DS, "open"), Reason.INTERLOCKED),
    ("interlock moving", in_state(DS, "intermediate"), Reason.INTERLOCKED),
    ("interlock under test", in_state(DS, "closed", q.TEST), Reason.INTERLOCKED),
    ("interlock substituted", in_state(DS, "closed", q.SUBSTITUTED), Reason.INTERLOCKED),
    ("link", offline, Reason.DEVICE_OFFLINE),
    ("position moving", in_state(CB, "intermediate"), Reason.POSITION_UNKNOWN),
    ("position bad", in_state(CB, "closed", q.INVALID), Reason.POSITION_UNKNOWN),
    ("position stale", in_state(CB, "closed", q.QUESTIONABLE | q.OLD_DATA), Reason.POSITION_UNKNOWN),
    ("position blocked", in_state(CB, "closed", q.BLOCKED), Reason.POSITION_UNKNOWN),
    ("already there", in_state(CB, "open"), Reason.ALREADY_IN_POSITION),
]
gates = pytest.mark.parametrize(("break_", "reason"), [gate[1:] for gate in GATES], ids=[gate[0] for gate in GATES])


@gates
async def test_each_gate_at_the_select(room: Room, break_: Break, reason: Reason) -> None:
    break_(room)
    done = await room.select()
    assert (done.result, done.reason, done.effect) == (Result.DONE, reason, Effect.NONE)
    assert room.desk.snapshot()["selects"] == []


@gates
async def test_each_gate_at_the_operate(room: Room, break_: Break, reason: Reason) -> None:
    selected = await room.select()
    break_(room)
    done = await room.end(await room.operate(selected))
    assert (done.reason, done.effect) == (reason, Effect.NONE)
    assert room.field.calls == []
    assert room.desk.snapshot()["selects"] == []  # 12: the select is gone with it


@gates
async def test_each_gate_immediately_before_the_write(
    room: Room, monkeypatch: pytest.MonkeyPatch, break_: Break, reason: Reason
) -> None:
    selected = await room.select()
    monkeypatch.setattr(failpoint, "here", lambda name: break_(room) if name == "control-after-intent" else None)
    tx = await room.operate(selected)
    done = await room.end(tx)
    assert (done.reason, done.effect) == (reason, Effect.NONE)
    assert room.field.calls == []
    assert await room.words(tx) == ["intent", "outcome"]


@gates
async def test_each_gate_before_a_direct_write(
    room: Room, monkeypatch: pytest.MonkeyPatch, break_: Break, reason: Reason
) -> None:
    await room.configure(lambda one: replace(one, control=ControlMode.DIRECT) if one.name == CB else one)
    monkeypatch.setattr(failpoint, "here", lambda name: break_(room) if name == "control-after-intent" else None)
    done = await room.done("direct", point=CB, value="open")
    assert (done.reason, done.effect) == (reason, Effect.NONE)
    assert room.field.calls == []


@pytest.mark.parametrize(
    ("break_", "reason"),
    [
        (in_state(LOCAL, True), Reason.LOCAL),
        (in_state(DS, "open"), Reason.INTERLOCKED),
        (in_state(DS, "closed", q.INVALID), Reason.INTERLOCKED),
    ],
)
async def test_row_16_a_change_of_an_input_ends_the_select(room: Room, break_: Break, reason: Reason) -> None:
    selected = await room.select()
    break_(room)
    room.desk.changed([1, 2], room.mono)
    assert (await room.end(selected.tx)).reason is reason


async def test_row_16_demoted_ends_selects_and_row_28_waits_for_what_is_under_way(room: Room) -> None:
    selected = await room.select()
    tx = await room.operated(await room.select(BAY))
    other = await room.operated(await room.select(TAP, "raise"))
    room.active = False
    await room.after(1)
    done = await room.end(selected.tx)
    assert (done.reason, done.effect) == (Reason.ABORTED_FAILOVER, Effect.NONE)
    room.show(BAY, "open")
    assert (await room.end(tx)).reason is Reason.OK
    await room.after(10)  # of its 120 s
    done = await room.end(other)
    assert (done.reason, done.effect) == (Reason.UNKNOWN, Effect.POSSIBLE)


async def test_a_lost_link_is_the_reason_and_not_what_follows_from_it(room: Room) -> None:
    selected = await room.select()
    for point in (CB, DS, LOCAL):  # as the data path does it: the marks first, then the link
        room.show(point, room.database.state(point).value, q.QUESTIONABLE | q.COMM_LOST)  # type: ignore[union-attr]
    room.link("FDR12", Link.DOWN)
    assert (await room.end(selected.tx)).reason is Reason.DEVICE_OFFLINE


@pytest.mark.parametrize(
    ("point", "value", "reason", "said"),
    [
        ("FDR12/CB/POSS", "open", Reason.UNKNOWN_POINT, 'there is no point "FDR12/CB/POSS"'),
        (DS, "open", Reason.UNSUPPORTED, "control = none"),
        (CB, "intermediate", Reason.BAD_REQUEST, 'takes "closed", "open", true or false'),
        (CB, 1, Reason.BAD_REQUEST, "found 1;"),
        (SETP, 100.1, Reason.OUT_OF_RANGE, "found 100.1; 0 to 100 kW"),
        (SETP, -1, Reason.OUT_OF_RANGE, "found -1"),
        (SETP, "much", Reason.BAD_REQUEST, "takes a number in kW"),
        (SETP, float("nan"), Reason.BAD_REQUEST, "takes a number"),
        (MODE, "dusk", Reason.BAD_REQUEST, '"day" or "night"'),
    ],
)
async def test_what_a_point_cannot_be_told(room: Room, point: str, value: Any, reason: Reason, said: str) -> None:
    done = await room.select(point, value)
    assert (done.reason, done.effect) == (reason, Effect.NONE)
    assert said in done.detail


async def test_setpoints_and_steps_have_no_position(room: Room) -> None:
    room.show(SETP, 70.0)
    done = await room.done("direct", point=SETP, value=70)
    assert (done.reason, done.effect) == (Reason.ACCEPTED_UNSUPERVISED, Effect.POSSIBLE)
    room.show(SETP, 70.0, q.QUESTIONABLE)
    tx = await room.ask("direct", point=SETP, value=80)
    await until(lambda: room.field.count("operate") == 2, "sent all the same")
    assert (await room.end(tx)).reason is Reason.ACCEPTED_UNSUPERVISED


# --- the request itself ---------------------------------------------------------------------------------------------


@pytest.mark.case("S1")
@pytest.mark.case("S2")
@pytest.mark.case("S8")
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"retained": True}, Reason.RETAINED),  # S1
        ({"expires_ns": None}, Reason.BAD_REQUEST),  # S2
        ({"bad": "a key stands twice in the same object"}, Reason.BAD_REQUEST),  # S8
        ({"tx": ""}, Reason.BAD_REQUEST),
    ],
)
@pytest.mark.parametrize("stage", ["select", "operate", "direct"])
async def test_s1_s2_s8_what_is_not_fresh_or_not_understood(
    room: Room, stage: str, fields: dict[str, Any], reason: Reason
) -> None:
    selected = await room.select()
    before = len(room.answers)
    await room.ask(stage, **{"point": CB, "value": "open", "select_id": selected.select_id} | fields)
    await until(lambda: len(room.answers) > before, "refused")
    assert (room.answers[-1].reason, room.answers[-1].effect) == (reason, Effect.NONE)
    assert room.field.calls == []
    tx = await room.operated(selected)  # and the select is left alone
    room.show(CB, "open")
    assert (await room.end(tx)).reason is Reason.OK


@pytest.mark.case("S4")
async def test_s4_a_captured_select_is_refused_when_its_tx_is_forgotten(room: Room) -> None:
    request = room.request("select", point=CB, value="open")
    await room.desk.request(request)
    await until(lambda: room.of(request.tx), "selected")
    await room.after(25 * 3600)
    await room.after(1)
    await room.audit()
    await room.desk.request(request)
    await until(lambda: len(room.of(request.tx)) == 3, "refused")
    assert room.of(request.tx)[-1].reason is Reason.EXPIRED
    await room.again(crash=False)
    assert not room.desk._answers.seen._recorded


@pytest.mark.case("S5")
async def test_s5_guessing_is_counted_recorded_up_to_a_rate_and_said_once(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = await room.select(operator="bob")
    for guess in range(500):
        await room.ask("operate", "mallory", point=CB, value="open", select_id=f"{guess:032x}")
    await room.quiet()
    answered = [one for one in room.answers if one.operator == "mallory"]
    assert len(answered) == 500
    assert {one.reason for one in answered} == {Reason.NOT_SELECTED}
    assert capsys.readouterr().out.count("an operator is refused too often") == 1
    trail = await room.audit()
    assert sum(one["what"] == "refused" and one["who"] == "mallory" for one in trail) == 20
    await room.after(60)
    [summary] = [one for one in await room.audit() if one["what"] == "refusals"]
    assert (summary["who"], summary["count"], summary["reasons"]) == ("mallory", 480, {"not-selected": 480})
    assert room.field.calls == []
    assert (await room.end(mine.tx)).reason is Reason.SELECT_EXPIRED  # after its 30 s, not before


async def test_one_operators_flood_never_hurts_another(room: Room) -> None:
    selected = await room.select(operator="bob")
    for _ in range(100):
        await room.ask("tag", "mallory", body={"set": "caution", "on": "device/MTR3"})
    await room.quiet()
    reasons = [one.reason for one in room.answers if one.operator == "mallory"]
    assert (reasons.count(Reason.OK), reasons.count(Reason.RATE_LIMITED)) == (20, 80)
    tx = await room.operated(selected)
    room.show(CB, "open")
    assert (await room.end(tx)).reason is Reason.OK


async def test_the_rate_is_the_last_gate_and_a_limited_operate_keeps_its_select(tmp_path: Path) -> None:
    async with opened(tmp_path, rate_per_s=1.0, rate_burst=2) as room:
        selected = await room.select()
        assert (await room.select(AR, "off")).reason is Reason.SELECTED_BY_YOU
        done = await room.end(await room.operate(selected))
        assert (done.reason, done.effect) == (Reason.RATE_LIMITED, Effect.NONE)
        await room.after(1)
        tx = await room.operated(selected)
        room.show(CB, "open")
        assert (await room.end(tx)).reason is Reason.OK
        assert (await room.done("select", point=CB, value="closed")).reason is Reason.RATE_LIMITED
        assert (await room.done("cancel", select_id=selected.select_id)).reason is Reason.REPLAY  # never limited


async def test_a_refused_direct_is_never_obeyed_later(tmp_path: Path) -> None:
    async with opened(tmp_path, refusals_per_s=0.1, refusals_burst=1) as room:
        room.links["FDR12"] = Link.DOWN
        requests = [room.request("direct", point=SETP, value=70 + n) for n in range(3)]
        for request in requests:
            await room.desk.request(request)
        await room.quiet()
        assert {room.of(request.tx)[0].reason for request in requests} == {Reason.DEVICE_OFFLINE}
        room.links["FDR12"] = Link.UP
        for request in requests:  # only the first one is on record
            await room.desk.request(request)
        await room.quiet()
        assert [room.of(request.tx)[1].duplicate for request in requests] == [True, True, True]
        assert room.field.calls == []


async def test_selects_of_one_operator_are_limited(room: Room) -> None:
    for point, value in ((CB, "open"), (TAP, "raise"), (HORN, "on"), (BAY, "open")):
        assert (await room.select(point, value)).result is Result.SELECTED
    done = await room.select(LAMP, "on")
    assert (done.reason, "you hold 4 selects" in done.detail) == (Reason.SELECTED_BY_YOU, True)
    assert (await room.select(LAMP, "on", "bob")).result is Result.SELECTED


# --- who may --------------------------------------------------------------------------------------------------------

RIGHTS = """
[operator.alice]
roles = ["OPERATOR"]
areas = ["riverside"]
points = ["BAY1/*"]
keys = ["{alice}"]
[operator.bob]
roles = ["OPERATOR"]
areas = ["*"]
[operator.viv]
roles = ["VIEWER", "SECAUD"]
areas = ["*"]
[operator.eng]
roles = ["ENGINEER"]
areas = ["*"]
[operator.chief]
roles = ["SECADM"]
"""


def rights(folder: Path, text: str = RIGHTS) -> tuple[str, SigningKey]:
    key = SigningKey.new()
    path = folder / "rights.toml"
    path.write_text(text.replace("{alice}", base64.b64encode(key.public).decode()))
    return str(path), key


async def test_s6_s10_rights_by_role_area_and_point(tmp_path: Path) -> None:
    async with opened(tmp_path / "state", rights_file=rights(tmp_path)[0]) as room:
        for point, value, operator, reason in (
            (CB, "open", "alice", Reason.OK),
            (BAY, "open", "alice", Reason.OK),
            (LAMP, "on", "alice", Reason.NOT_AUTHORISED),
            (LAMP, "on", "bob", Reason.OK),
            (TAP, "raise", "viv", Reason.NOT_AUTHORISED),
            (TAP, "raise", "eng", Reason.NOT_AUTHORISED),
            (TAP, "raise", "chief", Reason.NOT_AUTHORISED),
            (TAP, "raise", "mallory", Reason.NOT_AUTHORISED),
        ):
            done = await room.select(point, value, operator)
            assert (done.reason, done.effect) == (reason, Effect.NONE), done
        assert (await room.select(TAP, "raise", "eng", test=True)).reason is Reason.OK
        [said] = [one for one in await room.audit() if one["what"] == "rights"]
        assert "+ alice: roles OPERATOR; areas riverside; points BAY1/*" in said["changes"][0]


@pytest.mark.case("S7")
async def test_s7_the_signature_and_the_topic_must_agree(tmp_path: Path) -> None:
    file, key = rights(tmp_path)
    async with opened(tmp_path / "state", rights_file=file, require_signature=True) as room:
        topic, payload = "gw/test/cmd/alice/select", b'{"tx":"1"}'
        good = {"raw_topic": topic, "raw_payload": payload, "key": key.id, "sig": key.sign(topic, payload)}
        for changed, said in (
            ({"sig": "", "key": ""}, "is asked for and missing"),
            ({"key": "0" * 16}, "is none of alice's"),
            ({"sig": "AAAA"}, "does not fit"),
            ({"sig": "not base64"}, "does not fit"),
            ({"raw_payload": b'{"tx":"2"}'}, "does not fit"),
            ({"raw_topic": "gw/test/cmd/alice/direct"}, "does not fit"),
        ):
            done = await room.done("select", point=CB, value="open", **good | changed)
            assert (done.reason, said in done.detail) == (Reason.NOT_AUTHORISED, True), done
        bobs = "gw/test/cmd/bob/select"
        done = await room.done(
            "select", "bob", point=CB, value="open", raw_topic=bobs, raw_payload=payload, key=key.id,
            sig=key.sign(bobs, payload),
        )  # fmt: skip
        assert done.reason is Reason.NOT_AUTHORISED  # alice's good signature on bob's topic
        assert (await room.select(**good)).result is Result.SELECTED


@pytest.mark.case("S9")
async def test_s9_a_right_that_is_taken_away_takes_the_select_with_it(tmp_path: Path) -> None:
    file, _ = rights(tmp_path)
    async with opened(tmp_path / "state", rights_file=file) as room:
        selected, others = await room.select(), await room.select(HORN, "on", "bob")
        rights(
            tmp_path, RIGHTS.replace('[operator.alice]\nroles = ["OPERATOR"]', '[operator.alice]\nroles = ["VIEWER"]')
        )
        await room.after(1)
        await room.after(1)
        done = await room.end(selected.tx)
        assert (done.reason, done.effect) == (Reason.NOT_AUTHORISED, Effect.NONE)
        assert (await room.select()).reason is Reason.NOT_AUTHORISED
        assert room.ends(others.tx) == []
        rights(tmp_path, "[operator.alice\n")
        await room.after(1)
        await room.after(1)
        assert (await room.end(others.tx)).reason is Reason.NOT_AUTHORISED
        done = await room.select(operator="bob")
        assert (done.reason, "rights.toml:1:16: not valid TOML" in done.detail) == (Reason.NOT_AUTHORISED, True)
        os.unlink(file)  # noqa: PTH108
        await room.after(1)
        await room.after(1)
        assert "cannot be read" in (await room.select(operator="bob")).detail
        rights(tmp_path)
        await room.after(1)
        await room.after(1)
        assert (await room.select(operator="bob")).result is Result.SELECTED
        changes = [one["changes"] for one in await room.audit() if one["what"] == "rights"]
        assert len(changes) == 5
        assert any(word.startswith("~ alice: roles VIEWER") for word in changes[1])
        assert any("unusable" in word for word in changes[2])


# --- tags and inhibits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["gateway", "device/FDR12", "bay/F12", f"point/{CB}"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("control-inhibit", Reason.TAGGED), ("personal-lock", Reason.TAGGED), ("inhibit", Reason.INHIBITED),
     ("information", Reason.OK), ("caution", Reason.OK)],
)  # fmt: skip
async def test_tags_and_inhibits_on_everything_at_select_operate_and_in_between(
    room: Room, on: str, kind: str, reason: Reason
) -> None:
    async def hang() -> Any:
        if kind == "inhibit":
            return await room.done("inhibit", "bob", body={"on": on, "note": "earthing"})
        return await tag(room, kind, on)

    selected = await room.select()
    hung = await hang()
    assert (hung.reason, hung.effect, len(hung.tag)) == (Reason.OK, Effect.NONE, 8)
    shown = json.loads(room.tags[on])
    assert [(one["kind"], one["owner"], one["note"]) for one in shown["tags"]] == [(kind, "bob", "earthing")]
    if reason is Reason.OK:
        assert room.ends(selected.tx) == []
        tx = await room.operated(selected)
        room.show(CB, "open")
        assert (await room.end(tx)).reason is Reason.OK
    else:
        done = await room.end(selected.tx)
        assert (done.reason, "earthing" in done.detail) == (reason, True)
        assert (await room.select()).reason is reason
        assert (await room.select(operator="bob")).reason is reason  # its owner too
        assert room.field.calls == []
    removed = await room.done("inhibit" if kind == "inhibit" else "tag", "bob", body={"remove": hung.tag})
    assert removed.reason is Reason.OK
    assert room.tags[on] == b""
    assert (await room.select(CB, "open" if reason is not Reason.OK else "closed")).result is Result.SELECTED
    words = [one["what"] for one in await room.audit()]
    assert words.count("tag-set") == words.count("tag-removed") == 1


async def test_a_caution_is_read_out_to_whoever_selects(room: Room) -> None:
    await tag(room, "caution", "bay/F12")
    selected = await room.select()
    assert selected.result is Result.SELECTED
    assert "caution" in selected.detail
    assert "earthing" in selected.detail


async def test_tags_survive_kill_9_and_are_shown_again(room: Room) -> None:
    hung = await tag(room, "personal-lock", "bay/F12", "alice")
    gone = await tag(room, "caution", f"point/{TAP}")
    await room.done("tag", "bob", body={"remove": gone.tag})
    room.tags.clear()
    await room.again()
    assert json.loads(room.tags["bay/F12"])["tags"][0]["id"] == hung.tag
    assert room.tags[f"point/{TAP}"] == b""  # the broker may still show it
    assert (await room.select()).reason is Reason.TAGGED
    assert [one.on for one in room.desk.tags_of(AR)] == ["bay/F12"]


async def test_a_personal_lock_is_its_owners(tmp_path: Path) -> None:
    async with opened(tmp_path / "state", rights_file=rights(tmp_path)[0]) as room:
        lock = await tag(room, "personal-lock", "bay/F12", "alice")
        assert lock.reason is Reason.OK
        for operator, force, reason in (
            ("bob", False, Reason.NOT_AUTHORISED),
            ("bob", True, Reason.NOT_AUTHORISED),
            ("chief", False, Reason.NOT_AUTHORISED),
        ):
            done = await room.done("tag", operator, body={"remove": lock.tag, "force": force})
            assert done.reason is reason
        assert (await room.select()).reason is Reason.TAGGED
        done = await room.done("tag", "chief", body={"remove": lock.tag, "force": True})
        assert done.reason is Reason.OK
        assert (await room.select()).result is Result.SELECTED
        assert (await tag(room, "caution", "device/MTR3", "alice")).reason is Reason.NOT_AUTHORISED
        assert (await tag(room, "caution", "gateway", "alice")).reason is Reason.NOT_AUTHORISED
        assert (await tag(room, "caution", "gateway", "bob")).reason is Reason.OK
        assert (await room.done("inhibit", "chief", body={"on": "gateway"})).reason is Reason.OK
        assert (await tag(room, "caution", "gateway", "viv")).reason is Reason.NOT_AUTHORISED


async def test_without_a_rights_file_nobody_takes_away_anothers_lock(room: Room) -> None:
    lock = await tag(room, "personal-lock", "bay/F12", "alice")
    done = await room.done("tag", "bob", body={"remove": lock.tag, "force": True})
    assert (done.reason, "rights file" in done.detail) == (Reason.NOT_AUTHORISED, True)
    assert (await room.done("tag", "alice", body={"remove": lock.tag})).reason is Reason.OK


@pytest.mark.parametrize(
    ("stage", "body", "reason", "said"),
    [
        ("tag", {}, Reason.BAD_REQUEST, 'set: found ""'),
        ("tag", {"set": "locked", "on": "gateway"}, Reason.BAD_REQUEST, "information, caution, control-inhibit"),
        ("tag", {"set": "caution"}, Reason.BAD_REQUEST, "on is missing"),
        ("tag", {"set": "caution", "on": "bay/F13"}, Reason.UNKNOWN_POINT, "B1 or F12 is allowed"),
        ("tag", {"set": "caution", "on": "rack/1"}, Reason.UNKNOWN_POINT, "point/<point> is allowed"),
        ("tag", {"set": "caution", "on": "gateway", "note": "x" * 257}, Reason.BAD_REQUEST, "at most 256"),
        ("tag", {"set": "caution", "on": "gateway", "note": "\x1b"}, Reason.BAD_REQUEST, "printable"),
        ("tag", {"set": "caution", "on": "gateway", "nota": ""}, Reason.BAD_REQUEST, 'did you mean "note"?'),
        ("tag", {"remove": "beef"}, Reason.BAD_REQUEST, 'there is no tag "beef"'),
        ("tag", {"remove": "beef", "on": "gateway"}, Reason.BAD_REQUEST, "one of both"),
        ("tag", {"remove": "beef", "force": 2}, Reason.BAD_REQUEST, "force is not true or false"),
        ("inhibit", {"set": "caution", "on": "gateway"}, Reason.BAD_REQUEST, 'unknown key "set"'),
        ("inhibit", {"on": ["gateway"]}, Reason.BAD_REQUEST, "on is not a text"),
    ],
)
async def test_tag_requests_that_are_not_understood(
    room: Room, stage: str, body: dict[str, Any], reason: Reason, said: str
) -> None:
    done = await room.done(stage, body=body)
    assert (done.reason, said in done.detail) == (reason, True), done.detail
    assert room.tags == {}


async def test_a_tag_is_no_inhibit_and_an_inhibit_no_tag(room: Room) -> None:
    one = await tag(room, "caution", "gateway")
    assert (await room.done("inhibit", body={"remove": one.tag})).reason is Reason.BAD_REQUEST
    two = await room.done("inhibit", body={"on": "gateway"})
    assert (await room.done("tag", body={"remove": two.tag})).reason is Reason.BAD_REQUEST


async def test_tags_are_limited(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatewayd.control import tagging

    monkeypatch.setattr(tagging, "MOST_ON_ONE", 2)
    monkeypatch.setattr(tagging, "MOST_TAGS", 3)
    assert [(await tag(room, "caution", "bay/F12")).reason for _ in range(3)] == [
        Reason.OK, Reason.OK, Reason.RATE_LIMITED,
    ]  # fmt: skip
    assert (await tag(room, "caution", "gateway")).reason is Reason.OK
    assert (await tag(room, "caution", "device/MTR3")).reason is Reason.RATE_LIMITED


async def test_operators_remembered_are_limited(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_OPERATORS", 10)
    for n in range(50):
        await room.ask("operate", f"guest{n}", point=CB, value="open", select_id="00")
    assert len(room.desk._answers.rates._operators) == 10
