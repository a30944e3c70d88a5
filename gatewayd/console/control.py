"""`gatewayd control`: one command from a terminal, every step shown: select, ask, operate, outcome.

Nothing is ever sent twice. A select that is not operated is cancelled, also on Ctrl-C.
"""

from __future__ import annotations

import asyncio
import math
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from typing import NamedTuple

import msgspec

from gatewayd.console.mqtt import Broker, Disconnected, NoGateway, find_base
from gatewayd.console.terminal import ask_line
from gatewayd.console.view import Entry, StationView
from gatewayd.console.watch import quality_text
from gatewayd.console.words import effect_text, reason_text
from gatewayd.control.reasons import Effect, Reason
from gatewayd.mqtt.client import REFUSED
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.points.types import Value
from gatewayd.problems import listed, printable, suggestion

NO_SUBSCRIBERS = 0x10
"""PUBACK (MQTT 5, 3.4.2.1): nobody has subscribed to that topic."""
NEWEST_S = 0.5
EXPIRES_S = 30.0
ANSWER_S = 20.0
"""For the first answer to a request: the device has 5 s, an IEC 61850 one more for its own select."""
OUTCOME_S = 180.0
"""From `accepted` to the outcome: a tap changer's feedback may take 120 s."""


class Exit(IntEnum):
    """The exit statuses of `gatewayd control`."""

    OK = 0
    REFUSED = 1
    UNKNOWN = 2
    NO_ANSWER = 3


class How(StrEnum):
    """What is done with the point."""

    SELECT_OPERATE = "select, operate"
    SELECT_CANCEL = "select, cancel"
    DIRECT = "direct"


class Order(NamedTuple):
    """What the person wants. direct is also taken for a point that is configured so."""

    point: str
    value: str
    operator: str
    how: How = How.SELECT_OPERATE
    yes: bool = False
    test: bool = False
    json: bool = False


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
    late: bool = False
    duplicate: bool = False


class Stop(Exception):
    """The end of the dialogue before its last step."""

    def __init__(self, status: Exit, text: str) -> None:
        self.status = status
        super().__init__(text)


async def control(settings: MqttSettings, order: Order, *, wait_s: float = 5.0) -> Exit:
    """Carry out one order; prints every step to standard output."""
    show = Show(json=order.json)
    try:
        base = settings.base or await find_base(settings, wait_s)
        return await Dialogue(base, order, show).run(settings, wait_s)
    except NoGateway as error:
        return show.end(Exit.NO_ANSWER, str(error))
    except Stop as stop:
        return show.end(stop.status, str(stop))


class Show:
    """Steps as lines for people or as JSON objects."""

    def __init__(self, *, json: bool) -> None:
        self._json = json

    def step(self, step: str, text: str, **fields: object) -> None:
        if self._json:
            print(msgspec.json.encode({"step": step, "text": text, **fields}).decode(), flush=True)
        else:
            print(f"{datetime.now().astimezone():%H:%M:%S.%f}"[:12], f"{step:<8}", text, flush=True)

    def end(self, status: Exit, text: str) -> Exit:
        self.step("end", text, status=int(status), outcome=status.name.lower())
        return status


class Dialogue:
    """One order from the look at the point to its outcome."""

    def __init__(self, base: str, order: Order, show: Show) -> None:
        self._base = base
        self._order = order
        self._show = show
        self._view = StationView(base)
        self._answers: list[Answer] = []
        self._seen: dict[str, int] = {}
        self._reply = f"{base}/reply/{order.operator}"
        self._newest = False

    async def run(self, settings: MqttSettings, wait_s: float) -> Exit:
        """Raises Stop where the dialogue ends early."""
        async with Broker(settings, self._heard) as broker:
            await broker.subscribe(
                *(f"{self._base}/{one}" for one in ("status", "device/+", "catalog/#", "state/+", "snapshot/#")),
                f"{self._base}/point/{self._order.point}",
                self._reply,
            )
            entry = await self._look(broker, wait_s)
            value = parse_value(self._order.value, entry)
            if self._order.how is How.DIRECT or (entry.control == "direct" and self._order.how is How.SELECT_OPERATE):
                return await self._direct(broker, value)
            return await self._select(broker, value)

    def _heard(self, topic: str, payload: bytes) -> None:
        if topic != self._reply:
            changed = self._view.feed(topic, payload)
            self._newest |= self._order.point in changed and "/snapshot/" not in topic
            return
        try:
            self._answers.append(msgspec.json.decode(payload, type=Answer))
        except msgspec.MsgspecError:
            self._view.odd_messages += 1

    # --- the steps --------------------------------------------------------------------------------------------------

    async def _look(self, broker: Broker, wait_s: float) -> Entry:
        """The point in the catalog; shows it as it is now."""
        point, view = self._order.point, self._view
        await broker.until(lambda: point in view.catalog and point in view.records and view.status is not None, wait_s)
        # a snapshot may be ten seconds old; the point's own topic, where there is one, is right behind it
        await broker.until(lambda: self._newest or point not in view.catalog, NEWEST_S)
        if view.status is None:
            raise Stop(Exit.NO_ANSWER, broker.trouble or f"no gateway has reported at {self._base}/status")
        if not view.online:
            raise Stop(Exit.NO_ANSWER, f"the gateway at {self._base} is offline")
        if self._reply in broker.refused:
            raise Stop(
                Exit.NO_ANSWER, f"the broker does not let you read {self._reply}: are you logged in as somebody else?"
            )
        entry = view.catalog.get(point)
        if entry is None:
            raise Stop(Exit.REFUSED, f"{point} is not in the catalog of {self._base}{suggestion(point, view.catalog)}")
        if entry.control == "none":
            can = [name for name, one in view.catalog.items() if one.control != "none"]
            known = f"; controllable: {', '.join(can[:10])}" if can else ""
            raise Stop(Exit.REFUSED, f"{point} cannot be commanded (control = none){known}")
        row = view.row(point, datetime.now(UTC))
        described = f", {printable(entry.description)}" if entry.description else ""
        unit = f" {printable(entry.unit)}" if entry.unit else ""
        self._show.step(
            "now",
            f"{point}{described}: {row.text}{unit}, {quality_text(row)}, since {row.t or 'never'}",
            point=point, value=row.value, quality=row.quality, flags=row.flags, t=row.t,
        )  # fmt: skip
        return entry

    async def _select(self, broker: Broker, value: Value) -> Exit:
        tx = await self._send(broker, "select", {"point": self._order.point, "value": value})
        answer = await self._answer(broker, tx, ANSWER_S)
        if answer is None:
            raise Stop(Exit.NO_ANSWER, f"no answer to the select within {ANSWER_S:g} s; nothing was operated")
        if answer.result != "selected":
            return self._outcome(answer)
        valid_s = answer.valid_for_s or EXPIRES_S
        self._show.step(
            "selected",
            f"{self._order.point} -> {shown_value(value)}, valid for {valid_s:g} s, select_id {answer.select_id}",
            select_id=answer.select_id, valid_for_s=valid_s,
        )  # fmt: skip
        try:
            if self._order.how is How.SELECT_CANCEL:
                return await self._cancel(broker, answer.select_id)
            if not await self._agreed(broker, tx, value, valid_s):
                return await self._cancel(broker, answer.select_id, said_no=True)
        except asyncio.CancelledError:
            await asyncio.wait_for(self._send(broker, "cancel", {"select_id": answer.select_id}), 2.0)
            raise
        body = {"select_id": answer.select_id, "point": self._order.point, "value": value}
        return await self._carried_out(broker, await self._send(broker, "operate", body))

    async def _direct(self, broker: Broker, value: Value) -> Exit:
        if not self._order.yes and await ask_line(self._question(value)) != "yes":
            raise Stop(Exit.REFUSED, "nothing was sent")
        body = {"point": self._order.point, "value": value}
        return await self._carried_out(broker, await self._send(broker, "direct", body))

    async def _agreed(self, broker: Broker, tx: str, value: Value, valid_s: float) -> bool:
        """Ask the person; raises Stop when the select ends before the answer."""
        if self._order.yes:
            return True
        asking = asyncio.ensure_future(ask_line(self._question(value)))
        ended = asyncio.ensure_future(self._answer(broker, tx, valid_s, since=1))
        try:
            await asyncio.wait({asking, ended}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result() == "yes"
            print(file=sys.stderr)
            final = ended.result()
            why = reason_text(final.reason) if final is not None else "the select has run out"
            raise Stop(Exit.REFUSED, f"{why}; nothing was operated")
        finally:
            asking.cancel()
            ended.cancel()

    def _question(self, value: Value) -> str:
        test = " (test)" if self._order.test else ""
        return (
            f"operate {self._order.point} -> {shown_value(value)}{test}? Type yes to operate, anything else cancels: "
        )

    async def _cancel(self, broker: Broker, select_id: str, *, said_no: bool = False) -> Exit:
        tx = await self._send(broker, "cancel", {"select_id": select_id})
        answer = await self._answer(broker, tx, ANSWER_S)
        if answer is None:
            raise Stop(Exit.NO_ANSWER, "no answer to the cancel; the select runs out by itself, nothing was operated")
        if answer.reason in (Reason.OK, Reason.CANCELLED):
            why = "cancelled: nothing was operated"
            return self._show.end(Exit.REFUSED if said_no else Exit.OK, why)
        return self._outcome(answer)

    async def _carried_out(self, broker: Broker, tx: str) -> Exit:
        """Wait for the outcome of what was sent."""
        answer = await self._answer(broker, tx, ANSWER_S)
        while answer is not None and answer.result != "done":
            self._show.step("accepted", f"{native_text(answer)}waiting for the feedback")
            answer = await self._answer(broker, tx, OUTCOME_S)
        if answer is None:
            why = broker.trouble or "the gateway does not answer"
            raise Stop(Exit.UNKNOWN, f"no outcome: {why}. {effect_text(Effect.POSSIBLE)}")
        return self._outcome(answer)

    # --- sending and hearing ----------------------------------------------------------------------------------------

    async def _send(self, broker: Broker, stage: str, body: Mapping[str, object]) -> str:
        """One request, once; returns its tx. Raises Stop where it did not reach the gateway, or only perhaps."""
        tx = str(uuid.uuid4())
        expires = datetime.now(UTC) + timedelta(seconds=EXPIRES_S)
        request: dict[str, object] = {"tx": tx, **body}
        if stage != "cancel":
            request["expires_at"] = expires.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            if self._order.test:
                request["test"] = True
        self._show.step(stage, f"sent as {self._order.operator}", tx=tx)
        if not broker.connected:
            raise Stop(Exit.NO_ANSWER, f"{broker.trouble}; nothing was sent")
        try:
            code = await broker.publish(f"{self._base}/cmd/{self._order.operator}/{stage}", request)
        except Disconnected as error:
            if stage in ("operate", "direct"):
                raise Stop(Exit.UNKNOWN, f"{error}. {effect_text(Effect.POSSIBLE)}") from None
            raise Stop(Exit.NO_ANSWER, f"{error}; nothing was operated") from None
        if code == NO_SUBSCRIBERS:
            raise Stop(Exit.NO_ANSWER, "the gateway does not listen for commands on this broker; nothing was sent")
        if code >= REFUSED:
            raise Stop(
                Exit.REFUSED,
                f"the broker refused it (code 0x{code:02x}): you may not write {self._base}/cmd/{self._order.operator}",
            )
        return tx

    async def _answer(self, broker: Broker, tx: str, timeout_s: float, *, since: int | None = None) -> Answer | None:
        """The next answer to this request that was not looked at yet; None after the time."""
        start = self._seen.get(tx, 0) if since is None else since

        def found() -> Answer | None:
            mine = [one for one in self._answers if one.tx == tx]
            return mine[start] if len(mine) > start else None

        answer = await broker.until(found, timeout_s)
        if answer is not None:
            self._seen[tx] = start + 1
        return answer

    def _outcome(self, answer: Answer) -> Exit:
        row = self._view.row(self._order.point, datetime.now(UTC))
        text = f"{native_text(answer)}{reason_text(answer.reason)}: {effect_text(answer.effect)}"
        if answer.detail:
            text += f" ({printable(answer.detail)})"
        self._show.step(
            "done", text, reason=answer.reason, effect=answer.effect, stage=answer.stage, native=answer.native
        )
        return self._show.end(exit_status(answer), f"{self._order.point} is now {row.text}, {quality_text(row)}")


def exit_status(answer: Answer) -> Exit:
    """What a script gets to know of an outcome."""
    if answer.effect == Effect.CONFIRMED or answer.reason in (Reason.OK, Reason.ACCEPTED_UNSUPERVISED):
        return Exit.OK
    return Exit.REFUSED if answer.effect == Effect.NONE else Exit.UNKNOWN


def parse_value(text: str, entry: Entry) -> Value:
    """What was typed as the value of the request: a number for setpoints, a word for states. Raises Stop."""
    word = text.strip()
    if entry.kind in ("binary", "double"):
        plain = {"true": True, "false": False, "1": True, "0": False} if entry.kind == "binary" else {}
        return plain.get(word.lower(), word)
    if entry.kind in ("analog", "counter", "enum"):
        try:
            return int(word)
        except ValueError:
            pass
        if entry.kind != "enum":
            try:
                if math.isfinite(number := float(word)):
                    return number
            except ValueError:
                pass
        if entry.kind == "enum" or word.lower() in ("raise", "lower"):
            return word
        limits = [
            f"{name} {value:g}"
            for name, value in (("at least", entry.min), ("at most", entry.max))
            if value is not None
        ]
        allowed = f", {listed(limits)}" if limits else ""
        raise Stop(
            Exit.REFUSED, f'"{printable(text)}" is not a number; {entry.point} takes a number{allowed}, or raise, lower'
        )
    return text


def shown_value(value: Value) -> str:
    """A value as it is sent, for people."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else printable(str(value))


def native_text(answer: Answer) -> str:
    """`dnp3 7 LOCAL: ` where the device had a word of its own."""
    if not answer.native:
        return ""
    return printable(" ".join(str(answer.native.get(key, "")) for key in ("proto", "code", "name"))) + ": "
