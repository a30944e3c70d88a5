"""The broker's and the rights' example files in etc/, against a real mosquitto and the real reader."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import structlog

from gatewayd.console.control import Order, control
from gatewayd.console.mqtt import Broker as Connection
from gatewayd.console.mqtt import quiet_logs
from gatewayd.console.operator import Exit, Place
from gatewayd.console.status import status
from gatewayd.console.tagging import Which, hang
from gatewayd.console.view import Filter
from gatewayd.console.watch import Form, watch
from gatewayd.control import identity
from gatewayd.control.identity import GRANTS, Right, Role
from gatewayd.mqtt.settings import MqttSettings
from tests.brokers import Mosquitto, _hash, find_mosquitto, until
from tests.cli.desk import desk_room
from tests.control.support import CB
from tests.mqtt.support import console

ETC = Path(__file__).parents[2] / "etc"
BASE = "gw/riverside"
NOT_AUTHORISED = 0x87
LOGINS = ("gw-riverside", "alice", "bob")


class Documented(Mosquitto):
    """mosquitto with etc/mosquitto/gatewayd.conf as it stands there, but for the port and the places of files."""

    def command(self) -> list[str]:
        passwords = self.folder / "gatewayd.passwords"
        passwords.write_text("".join(f"{name}:{_hash(name)}\n" for name in LOGINS))
        acl = self.folder / "gatewayd.acl"
        acl.write_text((ETC / "mosquitto" / "gatewayd.acl").read_text())
        for path in (passwords, acl):
            path.chmod(0o600)
        text = (ETC / "mosquitto" / "gatewayd.conf").read_text()
        for found, put in (
            ("listener 1883 127.0.0.1", f"listener {self.port} 127.0.0.1"),
            ("/etc/mosquitto/gatewayd.", f"{self.folder}/gatewayd."),
            ("persistence_location /var/lib/mosquitto/", f"persistence_location {self.folder}/"),
        ):
            assert found in text
            text = text.replace(found, put)
        path = self.folder / "mosquitto.conf"
        path.write_text(text + ("user root\n" if os.geteuid() == 0 else ""))
        return [find_mosquitto(), "-c", str(path)]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest_asyncio.fixture
async def documented(tmp_path: Path) -> AsyncIterator[Documented]:
    async with Documented(tmp_path / "broker") as one:
        yield one


def login(broker: Documented, name: str, folder: Path) -> MqttSettings:
    password = folder / f"{name}.password"
    password.write_text(name)
    return MqttSettings(url=broker.url, username=name, password_file=str(password))


async def test_nobody_commands_in_anothers_name_or_reads_anothers_answers(
    documented: Documented, tmp_path: Path
) -> None:
    heard: list[tuple[str, bytes]] = []
    overheard: list[tuple[str, bytes]] = []

    def hear(topic: str, payload: bytes) -> None:
        heard.append((topic, payload))

    async with (
        Connection(login(documented, "gw-riverside", tmp_path), hear) as gateway,
        Connection(login(documented, "alice", tmp_path), lambda *_: None) as alice,
        Connection(login(documented, "bob", tmp_path), lambda *it: overheard.append(it)) as bob,
    ):
        await gateway.subscribe(f"{BASE}/#")
        await bob.subscribe(f"{BASE}/reply/#", f"{BASE}/cmd/#", f"{BASE}/+/alice", f"{BASE}/control/#")
        for one in (gateway, alice, bob):
            assert await one.until(lambda one=one: one.connected, 10.0)  # type: ignore[misc]
        request = {"tx": "t", "select_id": "5ec2e7"}
        assert await bob.publish(f"{BASE}/cmd/alice/operate", request) == NOT_AUTHORISED
        for topic in ("reply/bob", "control/FDR12/CB/POS", "status", "tag/gateway", "audit", "point/FDR12/CB/POS"):
            assert await bob.publish(f"{BASE}/{topic}", request) == NOT_AUTHORISED, topic
        assert await alice.publish(f"{BASE}/cmd/alice/operate", request) < NOT_AUTHORISED
        assert await gateway.publish(f"{BASE}/reply/alice", request) < NOT_AUTHORISED
        assert await gateway.publish(f"{BASE}/control/FDR12/CB/POS", {"seen": 1}) < NOT_AUTHORISED
        await until(lambda: heard and overheard, "what is allowed arrives")
        assert [topic for topic, _ in heard if topic.startswith(f"{BASE}/cmd/")] == [f"{BASE}/cmd/alice/operate"]
        assert {topic for topic, _ in overheard} == {f"{BASE}/control/FDR12/CB/POS"}


async def test_an_operator_with_his_login_does_all_he_may_and_nothing_as_somebody_else(
    documented: Documented, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_logs()
    own = login(documented, "gw-riverside", tmp_path)
    gateway = {"username": own.username, "password_file": own.password_file, "base": BASE}
    alice, bob = (msgspec.structs.replace(login(documented, name, tmp_path), base=BASE) for name in ("alice", "bob"))
    async with desk_room(tmp_path / "state", documented.url, login=gateway) as room:
        assert await control(alice, Order(CB, "open", "alice", yes=True)) is Exit.OK
        assert await hang(Place(alice, "alice"), Which.TAG, "caution", CB, "", as_json=False) is Exit.OK
        assert await status(alice, as_json=False, wait_s=5.0) == 0, capsys.readouterr().out
        shown = capsys.readouterr().out
        assert "caution" in shown
        assert await watch(bob, Filter(), once=True, form=Form.TABLE, wait_s=5.0) == 0
        assert await control(bob, Order(CB, "closed", "alice", yes=True)) is not Exit.OK
        assert "alice" in capsys.readouterr().out
        assert {request.operator for request in room.requests} == {"alice"}
        assert room.field.count("operate", CB) == 1


async def test_nobody_comes_in_without_a_login(documented: Documented) -> None:
    quiet_logs()  # which keeps the cause
    async with Connection(MqttSettings(url=documented.url), lambda *_: None) as stranger:
        assert not await stranger.until(lambda: stranger.connected, 0.5)
        assert "ot authori" in stranger.trouble


async def test_what_was_saved_is_there_after_a_kill(documented: Documented, tmp_path: Path) -> None:
    async with console(documented.url, f"{BASE}/none", username="gw-riverside", password="gw-riverside") as gateway:
        for number in range(150):
            await gateway.client.publish(f"{BASE}/point/P{number}", b"{}", qos=1, retain=True)
    await documented.kill()
    await documented.start()
    async with console(documented.url, f"{BASE}/point/#", username="alice", password="alice") as late:
        await until(lambda: len(late.heard) >= 99, "what was saved at the 100th change")


def test_the_example_of_rights_is_sound_and_shows_every_role() -> None:
    rights = identity.load(ETC / "rights.toml")
    assert rights.operators is not None
    assert {role for one in rights.operators.values() for role in one.roles} == set(Role)


def test_the_roles_in_the_example_say_what_the_roles_are() -> None:
    text = (ETC / "rights.toml").read_text()
    said = {role: next(line for line in text.splitlines() if f" {role} " in line) for role in Role}
    words = {Right.CONTROL: "commands", Right.TEST: "tests", Right.TAG: "tags", Right.INHIBIT: "inhibits"}
    for role, line in said.items():
        for right, word in words.items():
            assert (right in GRANTS[role]) is (word in line), (role, word)


def _mistakes(text: str) -> Sequence[str]:
    with pytest.raises(identity.ConfigError) as error:
        identity.parse("rights.toml", text.encode())
    return [str(one) for one in error.value.mistakes]


def test_every_mistake_in_a_rights_file_is_said_with_its_place() -> None:
    text = '[operator.alice]\nroles = ["OPERATER"]\nkeys = ["x"]\n[operator."b ob"]\nrole = ["VIEWER"]\n'
    found = "\n".join(_mistakes(text))
    for part in ("rights.toml:2:10", 'did you mean "OPERATOR"', "rights.toml:3:9", "gatewayd keys new", "rights.toml:4",
                 "role"):  # fmt: skip
        assert part in found
    assert json.dumps(found)  # nothing in it that a log could not carry
