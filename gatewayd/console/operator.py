"""An operator at the broker: his requests out, each once, signed where he has a key; the answers to them in."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum, auto
from typing import NamedTuple

import msgspec

from gatewayd.console.mqtt import Broker, Disconnected, NoGateway, find_base
from gatewayd.console.view import StationView
from gatewayd.console.words import effect_text, reason_text
from gatewayd.control.keys import SigningKey
from gatewayd.control.reasons import Effect
from gatewayd.mqtt.client import REFUSED
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.problems import printable

NO_SUBSCRIBERS = 0x10
"""PUBACK (MQTT 5, 3.4.2.1): nobody has subscribed to that topic."""
EXPIRES_S = 30.0
ANSWER_S = 20.0
"""For the first answer to a request: the device has 5 s, an IEC 61850 one more for its own select."""
MAY_MOVE = ("operate", "direct")
"""Stages after which something may have moved."""


class Exit(IntEnum):
    """The exit statuses of what commands, tags and sweeps."""

    OK = 0
    REFUSED = 1
    UNKNOWN = 2
    NO_ANSWER = 3


class Answer(msgspec.Struct, frozen=True):
    """One answer as it comes on `reply/<operator>`."""

    tx: str
    stage: str
    result: str
    reason: str
    effect: str
    select_id: str = ""
    valid_for_s: float | None = None
    native: dict[str, str | int] | None = None
    detail: str = ""
    tag: str = ""
    late: bool = False
    duplicate: bool = False


class Stop(Exception):
    """The end of a dialogue before its last step."""

    def __init__(self, status: Exit, text: str) -> None:
        self.status = status
        super().__init__(text)


class Operator:
    """Who asks. key: signs `topic ‖ payload` of every request (user properties `key` and `sig`)."""

    def __init__(self, base: str, name: str, key: SigningKey | None = None) -> None:
        self.name = name
        self.reply = f"{base}/reply/{name}"
        self._cmd = f"{base}/cmd/{name}"
        self._key = key
        self._answers: list[Answer] = []
        self._seen: dict[str, int] = {}

    def heard(self, topic: str, payload: bytes) -> bool:
        """Take a message if it is one for us. What is not understood is nobody's answer."""
        if topic != self.reply:
            return False
        try:
            self._answers.append(msgspec.json.decode(payload, type=Answer))
        except msgspec.MsgspecError:
            pass
        return True

    def check(self, broker: Broker) -> None:
        """Raises Stop where the broker does not let us read our answers."""
        if self.reply in broker.refused:
            raise Stop(
                Exit.NO_ANSWER, f"the broker does not let you read {self.reply}: are you logged in as somebody else?"
            )

    async def send(self, broker: Broker, stage: str, body: Mapping[str, object], *, tx: str = "") -> str:
        """One request, once; returns its tx. Raises Stop where it did not reach the gateway, or only perhaps."""
        tx = tx or str(uuid.uuid4())
        request: dict[str, object] = {"tx": tx, **body}
        if stage != "cancel":
            expires = datetime.now(UTC) + timedelta(seconds=EXPIRES_S)
            request["expires_at"] = expires.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        topic, payload = f"{self._cmd}/{stage}", msgspec.json.encode(request)
        signature = [("key", self._key.id), ("sig", self._key.sign(topic, payload))] if self._key is not None else []
        if not broker.connected:
            raise Stop(Exit.NO_ANSWER, f"{broker.trouble}; nothing was sent")
        try:
            code = await broker.publish(topic, payload, signature)
        except Disconnected as error:
            if stage in MAY_MOVE:
                raise Stop(Exit.UNKNOWN, f"{error}. {effect_text(Effect.POSSIBLE)}") from None
            raise Stop(Exit.NO_ANSWER, f"{error}; nothing was operated") from None
        if code == NO_SUBSCRIBERS:
            raise Stop(Exit.NO_ANSWER, "the gateway does not listen for commands on this broker; nothing was sent")
        if code >= REFUSED:
            raise Stop(Exit.REFUSED, f"the broker refused it (code 0x{code:02x}): you may not write {self._cmd}")
        return tx

    async def answer(self, broker: Broker, tx: str, timeout_s: float, *, since: int | None = None) -> Answer | None:
        """The next answer to this request that was not looked at yet; None after the time."""
        start = self._seen.get(tx, 0) if since is None else since

        def found() -> Answer | None:
            mine = [one for one in self._answers if one.tx == tx]
            return mine[start] if len(mine) > start else None

        answer = await broker.until(found, timeout_s)
        if answer is not None:
            self._seen[tx] = start + 1
        return answer


def answer_text(answer: Answer) -> str:
    """What an outcome says: the device's word, the reason, the effect, the details."""
    text = f"{native_text(answer)}{reason_text(answer.reason)}: {effect_text(answer.effect)}"
    return f"{text} ({printable(answer.detail)})" if answer.detail else text


def native_text(answer: Answer) -> str:
    """`dnp3 7 LOCAL: ` where the device had a word of its own."""
    if not answer.native:
        return ""
    return printable(" ".join(str(answer.native.get(key, "")) for key in ("proto", "code", "name"))) + ": "


class Points(Enum):
    """Whether the values of the points are wanted, or the catalog alone."""

    CATALOG = auto()
    WITH_VALUES = auto()


class Place(NamedTuple):
    """Where an operator asks and who he is."""

    settings: MqttSettings
    operator: str
    key: SigningKey | None = None
    wait_s: float = 5.0


class Desk(NamedTuple):
    """A connection with the station's catalog and tags complete."""

    broker: Broker
    view: StationView
    operator: Operator

    async def ask(self, stage: str, body: Mapping[str, object], what: str) -> Answer:
        """One request with one answer. what: for people, when none comes. Raises Stop."""
        tx = await self.operator.send(self.broker, stage, body)
        answer = await self.operator.answer(self.broker, tx, ANSWER_S)
        if answer is None:
            raise Stop(Exit.NO_ANSWER, f"no answer within {ANSWER_S:g} s: {what}")
        return answer


@contextlib.asynccontextmanager
async def at_desk(place: Place, *, points: Points) -> AsyncIterator[Desk]:
    """Connected, with everything the broker has stored. Raises Stop where there is no gateway to ask."""
    settings = place.settings
    try:
        base = settings.base or await find_base(settings, place.wait_s)
    except NoGateway as error:
        raise Stop(Exit.NO_ANSWER, str(error)) from None
    view, operator = StationView(base), Operator(base, place.operator, place.key)

    def heard(topic: str, payload: bytes) -> None:
        if not operator.heard(topic, payload):
            view.feed(topic, payload)

    values = ("snapshot/#", "state/+") if points is Points.WITH_VALUES else ()
    async with Broker(settings, heard) as broker:
        await broker.subscribe(
            operator.reply, *(f"{base}/{one}" for one in ("tag/#", "device/+", "catalog/#", *values))
        )
        await broker.until(lambda: broker.connected, place.wait_s)
        await broker.subscribe(f"{base}/status")  # comes behind what is stored on the topics before
        if not await broker.until(lambda: view.status, place.wait_s):
            raise Stop(Exit.NO_ANSWER, broker.trouble or f"no gateway has reported at {base}/status")
        if points is Points.WITH_VALUES:
            await broker.until(lambda: view.complete, place.wait_s)
        yield Desk(broker, view, operator)


def online(desk: Desk) -> None:
    """Raises Stop where nobody would answer."""
    if not desk.view.online:
        raise Stop(Exit.NO_ANSWER, f"the gateway at {desk.view.base} is offline")
    desk.operator.check(desk.broker)
