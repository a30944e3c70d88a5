"""What people use of control, over a real mosquitto with a real desk: tags, inhibits, keys, sweeps, holds, audit."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gatewayd.console import sweep as sweeping
from gatewayd.console.control import Order, control
from gatewayd.console.operator import Exit, Place
from gatewayd.console.status import status
from gatewayd.console.sweep import sweep
from gatewayd.console.tagging import Which, clear, hang, show, take
from gatewayd.control.keys import SigningKey
from gatewayd.control.types import Stage
from gatewayd.engineering import audit, keys
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.store import audit as audit_store
from tests.brokers import Mosquitto, until
from tests.cli.desk import DeskRoom, desk_room
from tests.control.support import AR, BAY, BAY_DS, CB, LAMP
from tests.mqtt.support import BASE, console

OPEN = Order(CB, "open", "alice", yes=True)


@pytest_asyncio.fixture
async def room(broker: Mosquitto, tmp_path: Path) -> AsyncIterator[DeskRoom]:
    async with desk_room(tmp_path / "state", broker.url) as one:
        yield one


@pytest.fixture
def settings(broker: Mosquitto) -> MqttSettings:
    return MqttSettings(url=broker.url, base=BASE)  # a base need not be looked for, which takes its time


@pytest.fixture
def alice(settings: MqttSettings) -> Place:
    return Place(settings, "alice")


def bob(alice: Place) -> Place:
    return alice._replace(operator="bob")


Out = pytest.CaptureFixture[str]


# --- tags and inhibits ----------------------------------------------------------------------------------------------


async def test_a_lock_is_shown_forbids_and_goes_with_its_owner_only(room: DeskRoom, alice: Place, capsys: Out) -> None:
    note = "earthing at DS"
    assert await hang(alice, Which.TAG, "personal-lock", CB, note, as_json=False) is Exit.OK
    assert f"on point/{CB} by alice: {note}" in capsys.readouterr().out
    async with console(room.url) as late:
        await until(lambda: late.last(f"tag/point/{CB}"), "retained")
        [tag] = late.last(f"tag/point/{CB}")["tags"]
        assert (tag["kind"], tag["owner"], tag["note"]) == ("personal-lock", "alice", note)
    assert await control(alice.settings, OPEN) is Exit.REFUSED
    shown = capsys.readouterr().out
    assert "a tag forbids it (tagged)" in shown
    assert shown.count(note) == 2  # with the point, and as the reason
    assert await take(bob(alice), Which.TAG, CB, force=False, as_json=False) is Exit.REFUSED
    assert "the lock is alice's" in capsys.readouterr().out
    assert await take(bob(alice), Which.TAG, tag["id"], force=True, as_json=False) is Exit.REFUSED  # no SECADM
    assert await take(alice, Which.TAG, CB, force=False, as_json=False) is Exit.OK
    assert await control(alice.settings, OPEN) is Exit.OK
    assert room.field.count("operate", CB) == 1


@pytest.mark.parametrize("where", ["gateway", "bay/F12", CB])
async def test_an_inhibit_takes_control_away_wherever_it_hangs(
    room: DeskRoom, alice: Place, capsys: Out, where: str
) -> None:
    assert await hang(alice, Which.INHIBIT, "", where, "storm", as_json=True) is Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["reason"], told["effect"]) == ("ok", "none")
    assert await control(alice.settings, OPEN) is Exit.REFUSED
    assert "control is inhibited here (inhibited)" in capsys.readouterr().out
    assert await take(alice, Which.INHIBIT, where, force=False, as_json=True) is Exit.OK
    assert json.loads(capsys.readouterr().out)["tag"] == told["tag"]
    assert await control(alice.settings, OPEN) is Exit.OK


async def test_what_hangs_is_listed_whole_by_place_and_by_point(room: DeskRoom, alice: Place, capsys: Out) -> None:
    for which, kind, where in (
        (Which.TAG, "caution", "bay/F12"),
        (Which.TAG, "information", LAMP),
        (Which.INHIBIT, "", "device/BAY1"),
    ):
        assert await hang(alice, which, kind, where, "", as_json=False) is Exit.OK
    capsys.readouterr()

    async def places(which: Which | None, on: str) -> list[str]:
        assert await show(alice, which, on, as_json=True) is Exit.OK
        return [one["on"] for one in json.loads(capsys.readouterr().out)]

    assert await places(None, "") == ["bay/F12", "device/BAY1", f"point/{LAMP}"]
    assert await places(Which.INHIBIT, "") == ["device/BAY1"]
    assert await places(None, LAMP) == [f"point/{LAMP}"]
    assert await places(None, CB) == ["bay/F12"]
    assert await places(None, BAY) == ["device/BAY1"]
    assert await places(None, "bay/F12") == ["bay/F12"]
    assert await show(alice, None, "bay/nowhere", as_json=False) is Exit.OK
    assert "nothing hangs on bay/nowhere" in capsys.readouterr().out


async def test_two_on_the_same_place_need_an_id(room: DeskRoom, alice: Place, capsys: Out) -> None:
    for note in ("one", "two"):
        await hang(alice, Which.TAG, "caution", "bay/F12", note, as_json=False)
    assert await take(alice, Which.TAG, "bay/F12", force=False, as_json=False) is Exit.REFUSED
    said = capsys.readouterr().err
    assert "more than one hangs on bay/F12" in said
    assert "one" in said
    assert "two" in said


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("bay/F13", 'there is no bay "F13"'),
        ("FDR12/CB/POSS", 'did you mean "FDR12/CB/POS"?'),
        ("point/FDR12/CB/POSS", 'did you mean "FDR12/CB/POS"?'),
    ],
)
async def test_a_place_that_does_not_exist_is_said(
    room: DeskRoom, alice: Place, capsys: Out, where: str, said: str
) -> None:
    assert await hang(alice, Which.TAG, "caution", where, "", as_json=False) is Exit.REFUSED
    assert said in capsys.readouterr().out
    assert await take(alice, Which.TAG, "nothing", force=False, as_json=False) is Exit.REFUSED


async def test_a_caution_is_read_out_and_forbids_nothing(room: DeskRoom, alice: Place, capsys: Out) -> None:
    await hang(alice, Which.TAG, "caution", "bay/F12", "spring motor weak", as_json=False)
    capsys.readouterr()
    assert await control(alice.settings, OPEN) is Exit.OK
    assert "spring motor weak" in capsys.readouterr().out


async def test_tags_without_gateway_or_broker_are_no_answer(broker: Mosquitto, alice: Place, capsys: Out) -> None:
    place = Place(MqttSettings(url=broker.url), "alice", wait_s=0.5)
    assert await hang(place, Which.TAG, "caution", "gateway", "", as_json=False) is Exit.NO_ANSWER
    assert "no gateway has reported" in capsys.readouterr().err
    nobody = place._replace(settings=MqttSettings(url="mqtt://127.0.0.1:1"))
    assert await show(nobody, None, "", as_json=False) is Exit.NO_ANSWER


# --- status and holds -----------------------------------------------------------------------------------------------


async def test_status_shows_selects_holds_tags_and_inhibits(room: DeskRoom, alice: Place, capsys: Out) -> None:
    room.answer_late()
    assert await control(alice.settings, OPEN) is Exit.UNKNOWN
    await hang(alice, Which.TAG, "personal-lock", "device/BAY1", "people at work", as_json=False)
    await hang(alice, Which.INHIBIT, "", "gateway", "storm", as_json=False)
    capsys.readouterr()
    assert await status(alice.settings, as_json=False, wait_s=5.0) == 1
    shown = capsys.readouterr().out
    assert f'held         {CB} -> "open" by alice' in shown
    assert "on device/BAY1 by alice" in shown
    assert "people at work" in shown
    assert f"ATTENTION: {CB} may have moved" in shown
    assert "ATTENTION: commands are inhibited for the whole gateway" in shown
    assert "audit " in shown


async def test_a_hold_is_cleared_after_a_look(room: DeskRoom, alice: Place, capsys: Out) -> None:
    room.answer_late()
    await control(alice.settings, OPEN)
    assert await control(alice.settings, OPEN) is Exit.REFUSED
    assert "(busy)" in capsys.readouterr().out
    assert await clear(alice, CB, as_json=False) is Exit.OK
    room.answer_in_time()
    assert await control(alice.settings, OPEN) is Exit.OK


# --- sweep ----------------------------------------------------------------------------------------------------------


async def test_a_sweep_selects_and_cancels_every_point_and_operates_none(
    room: DeskRoom, alice: Place, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "TIRED_S", 0.2)
    await hang(alice, Which.INHIBIT, "", LAMP, "", as_json=False)
    capsys.readouterr()
    assert await sweep(alice, (), yes=True, test=False, as_json=True) is Exit.REFUSED
    found = {one["point"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(found) == {spec.name for spec in room.list if spec.control != "none"}
    assert {name for name, one in found.items() if not one["passed"]} == {LAMP}
    assert found[LAMP]["reason"] == "inhibited"
    assert {name for name, one in found.items() if one["proved"]} == {BAY, BAY_DS}
    assert "not proved at device" in found[AR]["text"]
    assert set(room.field.verbs) == {"select", "cancel"}
    assert room.field.count("select") == room.field.count("cancel") == 2
    assert room.desk.snapshot()["selects"] == []


async def test_a_sweep_of_a_pattern_says_how_many(room: DeskRoom, alice: Place, capsys: Out) -> None:
    assert await sweep(alice, ("BAY1/*",), yes=True, test=True, as_json=False) is Exit.OK
    assert "2 points: 2 proved at the device, 0 gates passed only" in capsys.readouterr().out
    assert all(one.test for one in room.requests if one.stage is Stage.SELECT)
    assert await sweep(alice, ("NOBODY/*",), yes=True, test=False, as_json=False) is Exit.REFUSED
    assert "no controllable point matches NOBODY/*" in capsys.readouterr().err


# --- keys and rights ------------------------------------------------------------------------------------------------


def rights(path: Path, public: str) -> Path:
    path.write_text(
        f'[operator.alice]\nroles = ["OPERATOR"]\nareas = ["*"]\nkeys = ["{public}"]\n'
        '[operator.viewer]\nroles = ["VIEWER"]\nareas = ["*"]\n'
    )
    return path


def printed_key(text: str) -> str:
    return text.partition('keys = ["')[2].partition('"')[0]


async def test_a_key_from_the_command_line_signs_what_the_gateway_verifies(
    broker: Mosquitto, settings: MqttSettings, tmp_path: Path, capsys: Out
) -> None:
    file = tmp_path / "alice.pem"
    assert keys.new(file, "alice") == 0
    public = printed_key(capsys.readouterr().out)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert keys.new(file, "alice") == 1  # nothing is overwritten
    assert keys.show(file, "") == 0
    assert printed_key(capsys.readouterr().out) == public
    key = SigningKey.read(file)
    assert base64.b64encode(key.public).decode() == public
    path = rights(tmp_path / "rights.toml", public)
    async with desk_room(tmp_path / "state", broker.url, rights_file=str(path), require_signature=True) as room:
        assert await control(settings, OPEN) is Exit.REFUSED
        assert "a signature is asked for and missing" in capsys.readouterr().out
        assert await control(settings, OPEN._replace(key=SigningKey.new())) is Exit.REFUSED
        assert "is none of alice's" in capsys.readouterr().out
        assert await control(settings, OPEN._replace(key=key)) is Exit.OK
        assert "(signed)" in capsys.readouterr().out
        signed = Place(settings, "alice", key)
        assert await hang(signed, Which.TAG, "caution", CB, "", as_json=False) is Exit.OK
        assert room.field.count("operate", CB) == 1


async def test_a_viewer_looks_and_a_rights_file_with_a_mistake_stops_commands_not_data(
    broker: Mosquitto, settings: MqttSettings, tmp_path: Path, capsys: Out
) -> None:
    path = rights(tmp_path / "rights.toml", base64.b64encode(SigningKey.new().public).decode())
    async with desk_room(tmp_path / "state", broker.url, rights_file=str(path)) as room:
        assert await control(settings, OPEN._replace(operator="viewer")) is Exit.REFUSED
        assert "viewer has not the right to control (roles: VIEWER)" in capsys.readouterr().out
        assert await control(settings, OPEN._replace(operator="mallory")) is Exit.REFUSED
        assert "mallory is not in the rights file" in capsys.readouterr().out
        path.write_text('[operator.alice]\nroles = ["OPERATER"]\nkeys = ["no key"]\n')
        await until(lambda: room.desk._judge.rights.broken, "the file is read")
        assert await control(settings, OPEN) is Exit.REFUSED
        said = capsys.readouterr().out
        assert f"nobody may command: the rights file has mistakes: {path}:2:10" in said
        assert "(and 1 more)" in said
        async with console(room.url) as late:  # data goes on
            row = room.database.row(CB)
            assert row is not None
            room.show(CB, "intermediate")
            room.publisher.changed([row])
            await until(lambda: any("intermediate" in str(m.payload) for m in late.on("state/FDR12")), "state")
        assert await status(settings, as_json=False, wait_s=5.0) == 1
        assert "ATTENTION: commands are refused: the rights file has mistakes" in capsys.readouterr().out
        assert room.field.calls == []


# --- audit ----------------------------------------------------------------------------------------------------------


async def test_the_audit_trail_tells_the_story_verifies_and_travels(
    broker: Mosquitto, settings: MqttSettings, alice: Place, tmp_path: Path, capsys: Out
) -> None:
    state, nothing = tmp_path / "state", tmp_path / "nowhere.toml"
    async with console(broker.url) as listener, desk_room(state, broker.url) as room:
        await hang(alice, Which.TAG, "caution", CB, "why", as_json=False)
        assert await control(settings, OPEN) is Exit.OK
        await until(lambda: listener.last("audit"), "a head")
        await room.audit()
        capsys.readouterr()
        assert audit.show(nothing, state, audit.Wanted(what="outcome", who="alice"), as_json=False) == 0
        assert f"{CB} -> open ok (confirmed)" in capsys.readouterr().out  # while it runs
    capsys.readouterr()
    assert audit.show(nothing, state, audit.Wanted(), as_json=True) == 0
    words = [json.loads(one)["what"] for one in capsys.readouterr().out.splitlines()]
    assert words[0] == "start"
    assert words[-1] == "stop"
    assert {"tag-set", "select", "selected", "intent", "sent", "accepted", "outcome"} <= set(words)
    heads = tmp_path / "heads"
    heads.write_text("".join(f"{m.topic} {m.payload.decode()}\n" for m in listener.on("audit")))
    seen = audit.heads((), heads)
    assert seen
    assert audit.verify(nothing, state, seen, None) == 0
    assert f"records 1 to {len(words)} are whole" in capsys.readouterr().out
    export = tmp_path / "export"
    assert audit.export(nothing, state, export, 1) == 0
    assert audit.export(nothing, state, export, 1) == 2  # nothing is overwritten
    assert stat.S_IMODE(export.stat().st_mode) == 0o600
    assert audit.verify(nothing, None, seen, export) == 0
    assert len(export.read_bytes().splitlines()) == len(words)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    before, lines = audit_store.ZERO, []
    for n in range(1, 6):
        record = json.dumps({"n": n, "what": "test", "chain": "x"}, separators=(",", ":")).encode()
        before = audit_store.link(before, record)
        lines += audit.exported([audit_store.Entry(n, record, before)])
    path = tmp_path / "export"
    path.write_bytes(b"".join(lines))
    return path


def test_an_export_that_was_tampered_with_shows(export: Path, tmp_path: Path, capsys: Out) -> None:
    def verdict(text: bytes, *heads: audit_store.Head) -> tuple[int, str]:
        export.write_bytes(text)
        status = audit.verify(tmp_path, None, heads, export)
        return status, "".join(capsys.readouterr())

    whole = export.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert verdict(whole)[0] == 0
    changed = lines[2].replace(b"test", b"fest")
    assert "record 3 was changed" in verdict(b"".join([*lines[:2], changed, *lines[3:]]))[1]
    assert "record 4 follows record 2" in verdict(b"".join([*lines[:2], *lines[3:]]))[1]
    assert verdict(b"".join(lines[:4]))[0] == 0  # a cut end shows only against a published head
    last = audit_store.Head(5, audit.parsed(lines[4], "").hash)
    assert verdict(b"".join(lines[:4]), last)[0] == 1
    assert verdict(whole, audit_store.Head(5, audit_store.ZERO))[0] == 1
    assert verdict(b"".join(lines[2:]))[0] == 0
    assert verdict(b"".join(lines[2:]), audit_store.Head(1, audit_store.ZERO))[0] == 1
    assert verdict(b'{"n":1}\n')[0] == 2
    assert verdict(b'{"n":1,"chain":"' + b"z" * 64 + b'"}\n')[0] == 2


def test_an_audit_trail_that_is_not_there_cannot_be_read(tmp_path: Path, capsys: Out) -> None:
    for work in (
        audit.show(tmp_path, tmp_path, audit.Wanted(), as_json=False),
        audit.verify(tmp_path, tmp_path, (), None),
        audit.export(tmp_path, tmp_path, tmp_path / "out", 1),
    ):
        assert work == 2
    assert capsys.readouterr().err.count("there is no journal, and so no audit trail") == 3
