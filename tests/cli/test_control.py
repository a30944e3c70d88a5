from __future__ import annotations

import asyncio
import json
import signal
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from gatewayd.console import control as console
from gatewayd.console.control import How, Order, control
from gatewayd.console.operator import Exit
from gatewayd.console.words import EFFECTS, REASONS, effect_text, reason_text
from gatewayd.control.reasons import Effect, Reason
from gatewayd.mqtt.settings import MqttSettings
from tests.brokers import Mosquitto, until
from tests.cli.gateway import BASE, ScriptedGateway, scripted_gateway

OPEN = Order("FDR12/CB/POS", "open", "alice", yes=True)


async def test_select_operate_and_the_outcome_with_every_step_shown(
    gateway: ScriptedGateway, settings: MqttSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await control(settings, OPEN) is Exit.OK
    assert gateway.verbs == ["select", "operate"]
    (_, select, _), (_, operate, _) = gateway.heard
    assert select["point"] == operate["point"] == "FDR12/CB/POS"
    assert select["value"] == operate["value"] == "open"
    assert operate["select_id"] == "5e1ec7"
    assert select["tx"] != operate["tx"]
    shown = capsys.readouterr().out
    for text in (
        "Circuit breaker: closed, good",
        "select_id 5e1ec7",
        "valid for 30 s",
        "carried out",
        "now open, good",
    ):
        assert text in shown


async def test_requests_are_fresh_never_retained_and_expire(gateway: ScriptedGateway, settings: MqttSettings) -> None:
    await control(settings, OPEN)
    for _, body, retained in gateway.heard:
        left = (datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)).total_seconds()
        assert 0 < left <= console.EXPIRES_S
        assert not retained


async def test_json_gives_one_object_a_step(
    gateway: ScriptedGateway, settings: MqttSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    await control(settings, OPEN._replace(json=True))
    steps = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["step"] for one in steps] == ["now", "select", "selected", "operate", "accepted", "done", "end"]
    assert steps[0]["value"] == "closed"
    assert steps[-2]["effect"] == "confirmed"
    assert (steps[-1]["status"], steps[-1]["outcome"]) == (0, "ok")


@pytest.mark.parametrize(
    ("reason", "effect", "status"),
    [
        ("interlocked", "none", Exit.REFUSED),
        ("already-in-position", "none", Exit.REFUSED),
        ("accepted-unsupervised", "possible", Exit.OK),
        ("feedback-timeout", "possible", Exit.UNKNOWN),
        ("unknown", "possible", Exit.UNKNOWN),
        ("a-reason-of-tomorrow", "possible", Exit.UNKNOWN),
    ],
)
async def test_the_exit_status_says_what_may_have_happened(
    gateway: ScriptedGateway,
    settings: MqttSettings,
    capsys: pytest.CaptureFixture[str],
    reason: str,
    effect: str,
    status: Exit,
) -> None:
    async def end_badly(operator: str, verb: str, body: dict[str, Any]) -> None:
        if verb == "select":
            await gateway.agree(operator, verb, body)
        else:
            native = {"proto": "dnp3", "code": 7, "name": "LOCAL\x1b[2J"}
            await gateway.answer(operator, body, verb, "done", reason=reason, effect=effect, native=native)

    gateway.on_request = end_badly
    assert await control(settings, OPEN) is status
    shown = capsys.readouterr().out
    assert reason_text(reason) in shown
    assert effect_text(effect) in shown
    assert "dnp3 7 LOCAL" in shown
    assert "\x1b" not in shown


async def test_a_refused_select_operates_nothing(gateway: ScriptedGateway, settings: MqttSettings) -> None:
    async def refuse(operator: str, verb: str, body: dict[str, Any]) -> None:
        await gateway.answer(operator, body, verb, "done", reason="selected-by-other")

    gateway.on_request = refuse
    assert await control(settings, OPEN) is Exit.REFUSED
    assert gateway.verbs == ["select"]


async def test_cancel_goes_no_further_than_the_select(gateway: ScriptedGateway, settings: MqttSettings) -> None:
    assert await control(settings, OPEN._replace(how=How.SELECT_CANCEL)) is Exit.OK
    assert gateway.verbs == ["select", "cancel"]
    assert gateway.heard[1][1]["select_id"] == "5e1ec7"


async def test_a_direct_point_is_commanded_without_select(gateway: ScriptedGateway, settings: MqttSettings) -> None:
    assert await control(settings, Order("FDR12/SET/P", "12.5", "alice", yes=True)) is Exit.OK
    assert gateway.verbs == ["direct"]
    assert gateway.heard[0][1]["value"] == 12.5
    assert "test" not in gateway.heard[0][1]


@pytest.mark.parametrize("protocol", ["dnp3", "modbus", "iec61850"])
@pytest.mark.parametrize(
    ("point", "value", "tested"), [("FDR12/CB/POS", "open", "operate"), ("FDR12/SET/P", "12", "direct")]
)
async def test_a_test_is_carried_out_only_where_the_protocol_has_one(
    gateway: ScriptedGateway, settings: MqttSettings, capsys: pytest.CaptureFixture[str], protocol: str, point: str,
    value: str, tested: str,
) -> None:  # fmt: skip
    await gateway.link("FDR12", "up", protocol=protocol)
    assert await control(settings, Order(point, value, "alice", yes=True, test=True)) is Exit.OK
    if protocol == "iec61850":
        assert gateway.verbs[-1] == tested
        assert all(body["test"] is True for _, body, _ in gateway.heard)
    else:
        assert gateway.verbs == ["select", "cancel"]
        assert gateway.heard[0][1]["test"] is True
        assert f"{protocol} knows no test of a command" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (Order("FDR12/CB/POSS", "open", "alice", yes=True), 'did you mean "FDR12/CB/POS"?'),
        (Order("FDR12/I", "3", "alice", yes=True), "controllable: FDR12/CB/POS, FDR12/SET/P"),
        (Order("FDR12/SET/P", "much", "alice", yes=True), "takes a number, at least 0 or at most 100, or raise, lower"),
        (Order("FDR12/SET/P", "nan", "alice", yes=True), "is not a number"),
    ],
)
async def test_what_cannot_be_right_is_not_sent(
    gateway: ScriptedGateway, settings: MqttSettings, capsys: pytest.CaptureFixture[str], order: Order, said: str
) -> None:
    assert await control(settings, order, wait_s=0.5) is Exit.REFUSED
    assert said in capsys.readouterr().out
    assert gateway.heard == []


async def test_no_broker_no_gateway_offline_or_deaf_is_no_answer(
    broker: Mosquitto, settings: MqttSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = MqttSettings(url="mqtt://127.0.0.1:1")
    assert await control(nobody, OPEN, wait_s=0.5) is Exit.NO_ANSWER
    assert "no connection to mqtt://127.0.0.1:1" in capsys.readouterr().out
    assert await control(settings, OPEN, wait_s=0.5) is Exit.NO_ANSWER
    assert "no gateway has reported" in capsys.readouterr().out
    async with scripted_gateway(broker.url, listens=False) as deaf:
        assert await control(settings, OPEN) is Exit.NO_ANSWER
        assert "does not listen for commands" in capsys.readouterr().out
        await deaf.status("offline")
        assert await control(settings, OPEN) is Exit.NO_ANSWER
        assert "is offline" in capsys.readouterr().out


async def test_two_gateways_need_a_base(
    gateway: ScriptedGateway, broker: Mosquitto, settings: MqttSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    async with scripted_gateway(broker.url, "gw/other") as other:
        assert await control(settings, OPEN) is Exit.NO_ANSWER
        assert "gw/other, gw/test; choose one with --base" in capsys.readouterr().out
        chosen = MqttSettings(url=broker.url, base="gw/other")
        assert await control(chosen, OPEN) is Exit.OK
        assert other.verbs == ["select", "operate"]
    assert gateway.heard == []


async def test_no_answer_to_a_select_is_no_answer(
    gateway: ScriptedGateway, settings: MqttSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence(operator: str, verb: str, body: dict[str, Any]) -> None: ...

    monkeypatch.setattr(console, "ANSWER_S", 0.3)
    gateway.on_request = silence
    assert await control(settings, OPEN) is Exit.NO_ANSWER
    assert gateway.verbs == ["select"]


async def test_no_answer_to_an_operate_may_have_moved_and_is_not_sent_again(
    gateway: ScriptedGateway, settings: MqttSettings, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    async def only_select(operator: str, verb: str, body: dict[str, Any]) -> None:
        if verb == "select":
            await gateway.agree(operator, verb, body)

    monkeypatch.setattr(console, "ANSWER_S", 1.0)
    gateway.on_request = only_select
    working = asyncio.create_task(control(settings, OPEN))
    await until(lambda: "operate" in gateway.verbs)
    assert await working is Exit.UNKNOWN
    assert "IT MAY HAVE MOVED" in capsys.readouterr().out
    assert gateway.verbs == ["select", "operate"]


async def test_a_broker_that_dies_after_the_operate_leaves_it_unknown(
    gateway: ScriptedGateway, settings: MqttSettings, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def kill_at_operate(operator: str, verb: str, body: dict[str, Any]) -> None:
        if verb == "operate":
            await broker.kill()
            return
        await gateway.agree(operator, verb, body)

    monkeypatch.setattr(console, "ANSWER_S", 1.0)
    gateway.on_request = kill_at_operate
    assert await control(settings, OPEN) is Exit.UNKNOWN
    assert gateway.verbs == ["select", "operate"]


async def test_a_broker_that_forbids_the_topic_is_a_refusal(
    gateway: ScriptedGateway, broker: Mosquitto, settings: MqttSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    await broker.stop()
    lines = [
        f"topic readwrite {BASE}/status",
        f"topic readwrite {BASE}/catalog/#",
        f"topic readwrite {BASE}/snapshot/#",
    ]
    lines += [f"topic readwrite {BASE}/device/#", f"topic read {BASE}/reply/alice", f"topic read {BASE}/cmd/#"]
    lines += [f"topic read {BASE}/point/#", f"topic read {BASE}/state/#"]
    async with Mosquitto(broker.folder.parent / "strict", acl=lines) as strict, scripted_gateway(strict.url) as other:
        assert await control(MqttSettings(url=strict.url), OPEN) is Exit.REFUSED
        assert "the broker refused it (code 0x87)" in capsys.readouterr().out
        assert other.heard == []


# --- with a person at the terminal ----------------------------------------------------------------------------------


class Person:
    """The command with somebody typing."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def start(self, *words: str) -> None:
        command = [sys.executable, "-m", "gatewayd", "control", "--url", self._url, "--operator", "alice", *words]
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)

    async def asked(self) -> None:
        assert self.process.stderr is not None
        await asyncio.wait_for(self.process.stderr.readuntil(b"anything else cancels: "), 15)

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    async def end(self) -> tuple[int, str]:
        """The end without closing standard input: nobody has to press a key for it."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        out, error = await asyncio.wait_for(asyncio.gather(self.process.stdout.read(), self.process.stderr.read()), 15)
        assert b"Traceback" not in error, error.decode()
        assert b"Fatal" not in error, error.decode()
        return await self.process.wait(), out.decode()


@pytest.mark.parametrize(
    ("typed", "verbs", "status"), [("yes\n", ["select", "operate"], 0), ("y\n", ["select", "cancel"], 1)]
)
async def test_only_yes_operates_and_no_cancels(
    gateway: ScriptedGateway, broker: Mosquitto, typed: str, verbs: list[str], status: int
) -> None:
    person = Person(broker.url)
    await person.start("FDR12/CB/POS", "open")
    await person.asked()
    assert gateway.verbs == ["select"]
    person.type(typed)
    assert (await person.end())[0] == status
    assert gateway.verbs == verbs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_at_the_question_cancels_the_select(
    gateway: ScriptedGateway, broker: Mosquitto, number: signal.Signals
) -> None:
    person = Person(broker.url)
    await person.start("FDR12/CB/POS", "open")
    await person.asked()
    person.process.send_signal(number)
    assert (await person.end())[0] == 130
    assert gateway.verbs == ["select", "cancel"]


async def test_a_select_that_ends_at_the_question_ends_the_question(
    gateway: ScriptedGateway, broker: Mosquitto
) -> None:
    person = Person(broker.url)
    await person.start("FDR12/CB/POS", "open")
    await person.asked()
    await gateway.answer("alice", gateway.heard[0][1], "select", "done", reason="select-expired")
    status, out = await person.end()
    assert status == 1
    assert "the select has run out: select again (select-expired); nothing was operated" in out
    assert gateway.verbs == ["select"]


def test_every_reason_and_effect_has_words() -> None:
    assert set(REASONS) == set(Reason)
    assert set(EFFECTS) == set(Effect)
