"""Requests that must not be obeyed: S1 to S10. The broker has logins and an ACL, the gateway a rights file."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import threading
import uuid
from collections.abc import AsyncIterator
from typing import Any

import paho.mqtt.client as paho
import pytest
import pytest_asyncio
from paho.mqtt.enums import CallbackAPIVersion

from gatewayd.control.keys import SigningKey
from gatewayd.store import audit
from tests.brokers import until
from tests.cases65.room import Room, opened, stamp

pytestmark = pytest.mark.asyncio(loop_scope="module")
DONE = "intent sent accepted outcome"
CLOSED_TO_B = 0x87
ACL = ["user gateway", "topic readwrite gw/#", "user desk", "topic readwrite gw/#",
       "pattern write gw/test/cmd/%u/#", "pattern read gw/test/reply/%u"]  # fmt: skip
USERS = {name: f"{name}'s" for name in ("gateway", "desk", "alice", "bob")}
KEY = SigningKey.new()
RIGHTS = f"""
[operator.alice]
roles = ["OPERATOR"]
areas = ["riverside"]
keys = ["{base64.b64encode(KEY.public).decode()}"]
[operator.bob]
roles = ["OPERATOR"]
areas = ["*"]
[operator.eve]
roles = ["OPERATOR"]
areas = ["*"]
[operator.janitor]
roles = ["OPERATOR"]
areas = ["*"]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def station(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Room]:
    folder = tmp_path_factory.mktemp("station")
    password, rights = folder / "password", folder / "rights.toml"
    password.write_text(USERS["gateway"])
    rights.write_text(RIGHTS)
    for path in (password, rights):
        path.chmod(0o600)
    login = {"username": "desk", "password": USERS["desk"]}
    mqtt = f'username = "gateway"\npassword_file = "{password}"'
    control = {"rights_file": str(rights)}
    async with opened(folder, control=control, mqtt=mqtt, login=login, acl=ACL, users=USERS) as room:
        yield room


def request(**body: Any) -> dict[str, Any]:
    return {"tx": str(uuid.uuid4()), "point": "FDR12/CB/POS", "value": "open", "expires_at": stamp(30), **body}


@pytest.mark.case("S1")
async def test_a_retained_request(room: Room) -> None:
    alice = room.operator("alice")
    live = await alice.ask("select", point="FDR12/CB/POS", value="open", retain=True)
    try:
        await room.proof(alice, live, "retained", "none", "refused")
        stored = request()
        await room.console.publish("cmd/alice/select", stored, retain=True)
        await alice.end(stored["tx"])
        await room.gateway.kill()
        await room.start()
        await room.good()
        after = await room.operator("bob").select("FDR12/CB/POS", "open")  # had it been obeyed, this were refused
        assert after["result"] == "selected"
        assert {one["reason"] for one in alice.answers(stored["tx"])} == {"retained"}
    finally:
        await room.console.publish("cmd/alice/select", b"", retain=True)
    assert room.nothing_written()


@pytest.mark.case("S2")
@pytest.mark.parametrize("stage", ["select", "operate", "direct"])
async def test_a_request_without_an_end(room: Room, stage: str) -> None:
    body = request(select_id="0" * 32)
    del body["expires_at"]
    await room.console.publish(f"cmd/alice/{stage}", body)
    done = await room.proof(room.operator("alice"), body["tx"], "bad-request", "none", "refused")
    assert done["detail"] == "expires_at is missing"
    assert room.nothing_written()


@pytest.mark.case("S3")
async def test_a_request_that_expired_on_the_way(room: Room) -> None:
    alice = room.operator("alice")
    room.gateway.signal(signal.SIGSTOP)
    tx = await alice.ask("select", point="FDR12/CB/POS", value="open", expires_s=0.3)
    await asyncio.sleep(0.5)
    room.gateway.signal(signal.SIGCONT)
    await room.proof(alice, tx, "expired", "none", "refused")
    assert room.nothing_written()


@pytest.mark.case("S4")
async def test_a_captured_select_after_25_hours(room: Room) -> None:
    alice = room.operator("alice")
    captured = request()
    await room.console.publish("cmd/alice/select", captured)
    selected = await alice.first(captured["tx"])
    room.selects.append((alice, selected["select_id"]))
    assert selected["result"] == "selected"
    tx = await alice.operate(selected)
    await room.proof(alice, tx, "ok", "confirmed", DONE)
    room.mark()
    room.step_clock(25 * 3600)
    before = len(alice.answers(captured["tx"]))
    await room.console.publish("cmd/alice/select", captured)
    await until(lambda: len(alice.answers(captured["tx"])) > before)
    assert alice.answers(captured["tx"])[-1]["reason"] == "expired"
    assert [one for one in await room.control_now() if one["state"] != "hold"] == []
    assert room.nothing_written()


@pytest.mark.case("S5")
async def test_guessed_select_ids(room: Room) -> None:
    alice = room.operator("alice")
    mine = await alice.select("FDR12/CB/POS", "open")
    asked = len(room.said("reply/eve"))
    for first in range(0, 600, 25):  # the devices answer on this loop too
        guesses = [request(select_id=f"{guess:032x}") for guess in range(first, first + 25)]
        await asyncio.gather(*(room.console.publish("cmd/eve/operate", guess) for guess in guesses))
    await until(lambda: len(room.said("reply/eve")) >= asked + 600, "all answered", 20)
    reasons = {one["reason"] for one in room.said("reply/eve")[asked:]}
    assert reasons <= {"not-selected", "rate-limited", "replay", "select-expired"}, reasons
    await until(lambda: "an operator is refused too often" in room.gateway.log, "the alarm")
    assert room.nothing_written()
    ended = alice.ends(mine["tx"])
    assert {one["reason"] for one in ended} <= {"select-expired", "device-offline"}  # its own end, if any
    if ended:
        await room.good()
    again = await alice.select("FDR12/CB/POS", "open") if ended else mine
    await room.proof(alice, await alice.operate(again), "ok", "confirmed", DONE)


@pytest.mark.case("S6")
async def test_b_publishes_on_as_topic(room: Room) -> None:
    codes: dict[int, int] = {}
    connected = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.username_pw_set("bob", USERS["bob"])
    client.on_connect = lambda *_: connected.set()
    client.on_publish = lambda _client, _data, mid, code, _properties: codes.update({mid: code.value})
    client.connect("127.0.0.1", room.broker.port)
    client.loop_start()
    try:
        await until(connected.is_set)
        stolen, own = request(), request()
        mids = [client.publish(f"gw/test/cmd/{who}/select", json.dumps(body), qos=1).mid
                for who, body in (("alice", stolen), ("bob", own))]  # fmt: skip
        await until(lambda: set(mids) <= set(codes))
        assert codes[mids[0]] == CLOSED_TO_B
        selected = await room.operator("bob").first(own["tx"])
        room.selects.append((room.operator("bob"), selected["select_id"]))
        assert room.operator("alice").answers(stolen["tx"]) == []
        assert room.trail(stolen["tx"]) == []
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)
    assert room.nothing_written()


@pytest.mark.case("S7")
async def test_a_signature_of_a_on_bs_topic(room: Room) -> None:
    body = request()
    payload = json.dumps(body).encode()
    user = [("key", KEY.id), ("sig", KEY.sign("gw/test/cmd/bob/select", payload))]
    await room.console.publish("cmd/bob/select", payload, user=user)
    await room.proof(room.operator("bob"), body["tx"], "not-authorised", "none", "refused")
    body = request()
    payload = json.dumps(body).encode()
    user = [("key", KEY.id), ("sig", KEY.sign("gw/test/cmd/bob/select", payload))]  # captured there, sent here
    await room.console.publish("cmd/alice/select", payload, user=user)
    await room.proof(room.operator("alice"), body["tx"], "not-authorised", "none", "refused")
    body = request()
    payload = json.dumps(body).encode()
    user = [("key", KEY.id), ("sig", KEY.sign("gw/test/cmd/alice/select", payload))]
    await room.console.publish("cmd/alice/select", payload, user=user)
    selected = await room.operator("alice").first(body["tx"])
    room.selects.append((room.operator("alice"), selected["select_id"]))
    assert selected["result"] == "selected"
    assert room.nothing_written()


BAD = {
    "oversized": lambda body: json.dumps(body | {"reason": "x" * 5000}).encode(),
    "deep": lambda body: json.dumps(body).encode()[:-1] + b', "reason": ' + b"[" * 900 + b"]" * 900 + b"}",
    "twins": lambda body: json.dumps(body).encode()[:-1] + b', "value": "closed"}',
    "NaN": lambda body: json.dumps(body).replace('"open"', "NaN").encode(),
    "infinity": lambda body: json.dumps(body).replace('"open"', "1e999").encode(),
    "huge integer": lambda body: json.dumps(body).replace('"open"', "9" * 400).encode(),
    "not UTF-8": lambda body: json.dumps(body).encode()[:-1] + b', "reason": "\xff\xfe"}',
    "half a surrogate": lambda body: json.dumps(body).encode()[:-1] + b', "reason": "\\ud800"}',
    "a list": lambda body: json.dumps([body]).encode(),
    "cut": lambda body: json.dumps(body).encode()[:-20],
    "nothing": lambda _: b"",
}


@pytest.mark.case("S8")
async def test_what_cannot_be_understood(room: Room) -> None:
    for name, make in BAD.items():
        heard = len(room.said("reply/alice"))
        await room.console.publish("cmd/alice/select", make(request()))
        await until(lambda heard=heard: len(room.said("reply/alice")) > heard, name)
        answer = room.said("reply/alice")[-1]
        assert (answer["result"], answer["reason"], answer["effect"]) == ("done", "bad-request", "none"), name
    assert await room.control_now() == []
    assert room.nothing_written()
    assert (await room.operator("bob").select("FDR12/CB/POS", "open"))["result"] == "selected"


@pytest.mark.case("S9")
async def test_an_operator_revoked_while_selected(room: Room) -> None:
    rights, seen = room.folder / "rights.toml", rights_read(room)
    alice, bob = room.operator("alice"), room.operator("bob")
    kept = await bob.select("FDR12/RESET", True)
    lost = await alice.select("FDR12/TAP", "raise")
    await asyncio.to_thread(rights.write_text, RIGHTS.replace('areas = ["riverside"]', 'areas = ["hill"]'))
    try:
        await room.proof(alice, lost["tx"], "not-authorised", "none", "select selected outcome")
        tx = await alice.operate(lost)
        await room.proof(alice, tx, "not-authorised", "none", "refused")
        assert bob.ends(kept["tx"]) == []
    finally:
        await asyncio.to_thread(rights.write_text, RIGHTS)
    assert room.nothing_written()
    await until(lambda: rights_read(room) == seen + 2, "the rights are back")


def rights_read(room: Room) -> int:
    """How often the gateway has taken new rights, by its audit trail."""
    return sum(json.loads(one.record)["what"] == "rights" for one in audit.entries(room.state))


@pytest.mark.case("S10")
async def test_a_user_property_does_not_say_who_someone_is(room: Room) -> None:
    body = request(point="FDR12/RESET", value=True, operator="alice")
    await room.console.publish("cmd/mallory/select", body, user=[("operator", "alice"), ("username", "alice")])
    await room.proof(room.operator("mallory"), body["tx"], "not-authorised", "none", "refused")
    assert room.operator("alice").answers(body["tx"]) == []
    body = request(point="FDR12/RESET", value=True, operator="alice")
    await room.console.publish("cmd/bob/select", body, user=[("operator", "alice")])
    selected = await room.operator("bob").first(body["tx"])
    room.selects.append((room.operator("bob"), selected["select_id"]))
    assert {one["who"] for one in room.trail(body["tx"])} == {"bob"}
    assert room.nothing_written()
