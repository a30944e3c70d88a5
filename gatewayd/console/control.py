"""`gatewayd control`: one command from a terminal, every step shown: select, ask, operate, outcome.

Nothing is ever sent twice. A select that is not operated is cancelled, also on Ctrl-C.
"""

from __future__ import annotations

import asyncio
import math
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

from gatewayd.console.mqtt import Broker, NoGateway, find_base
from gatewayd.console.operator import ANSWER_S, EXPIRES_S, Answer, Exit, Operator, Stop, answer_text, native_text
from gatewayd.console.terminal import ask_line
from gatewayd.console.view import Entry, StationView
from gatewayd.console.watch import quality_text
from gatewayd.console.words import effect_text, reason_text, tag_text
from gatewayd.control.keys import SigningKey
from gatewayd.control.reasons import Effect, Reason
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.points.types import Value
from gatewayd.problems import listed, printable, suggestion

NEWEST_S = 0.5
OUTCOME_S = 180.0
STORED = ("status", "device/+", "catalog/#", "tag/#", "state/+", "snapshot/#")
TESTING = "iec61850"
"""The protocol whose commands can be marked as a test."""
"""From `accepted` to the outcome: a tap changer's feedback may take 120 s."""


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
    key: SigningKey | None = None


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
        self._operator = Operator(base, order.operator, order.key)
        self._newest = False

    async def run(self, settings: MqttSettings, wait_s: float) -> Exit:
        """Raises Stop where the dialogue ends early."""
        async with Broker(settings, self._heard) as broker:
            await broker.subscribe(
                *(f"{self._base}/{one}" for one in STORED),
                f"{self._base}/point/{self._order.point}",
                self._operator.reply,
            )
            entry = await self._look(broker, wait_s)
            value = parse_value(self._order.value, entry)
            if self._order.test and self._protocol != TESTING:
                why = f"{self._protocol or 'this device'} knows no test of a command: select, then cancel"
                self._show.step("test", why, protocol=self._protocol)
                self._order = self._order._replace(how=How.SELECT_CANCEL)
            if self._order.how is How.DIRECT or (entry.control == "direct" and self._order.how is How.SELECT_OPERATE):
                return await self._direct(broker, value)
            return await self._select(broker, value)

    @property
    def _protocol(self) -> str:
        return self._view.protocol(self._order.point)

    def _heard(self, topic: str, payload: bytes) -> None:
        if not self._operator.heard(topic, payload):
            changed = self._view.feed(topic, payload)
            own = topic == f"{self._base}/point/{self._order.point}"
            self._newest |= own or (self._order.point in changed and "/snapshot/" not in topic)

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
        self._operator.check(broker)
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
        for tag in view.tags_of(point):
            self._show.step("tag", printable(tag_text(tag)), tag=tag)
        return entry

    async def _select(self, broker: Broker, value: Value) -> Exit:
        tx = await self._send(broker, "select", {"point": self._order.point, "value": value})
        answer = await self._operator.answer(broker, tx, ANSWER_S)
        if answer is None:
            raise Stop(Exit.NO_ANSWER, f"no answer to the select within {ANSWER_S:g} s; nothing was operated")
        if answer.result != "selected":
            return self._outcome(answer)
        valid_s = answer.valid_for_s or EXPIRES_S
        self._show.step(
            "selected",
            f"{self._order.point} -> {shown_value(value)}, valid for {valid_s:g} s, select_id {answer.select_id}"
            + (f" ({printable(answer.detail)})" if answer.detail else ""),
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
        ended = asyncio.ensure_future(self._operator.answer(broker, tx, valid_s, since=1))
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
        answer = await self._operator.answer(broker, tx, ANSWER_S)
        if answer is None:
            raise Stop(Exit.NO_ANSWER, "no answer to the cancel; the select runs out by itself, nothing was operated")
        if answer.reason in (Reason.OK, Reason.CANCELLED):
            why = "cancelled: nothing was operated"
            return self._show.end(Exit.REFUSED if said_no else Exit.OK, why)
        return self._outcome(answer)

    async def _carried_out(self, broker: Broker, tx: str) -> Exit:
        """Wait for the outcome of what was sent."""
        answer = await self._operator.answer(broker, tx, ANSWER_S)
        while answer is not None and answer.result != "done":
            waits = "the end of the test" if self._order.test else "the feedback"
            self._show.step("accepted", f"{native_text(answer)}waiting for {waits}")
            answer = await self._operator.answer(broker, tx, OUTCOME_S)
        if answer is None:
            why = broker.trouble or "the gateway does not answer"
            raise Stop(Exit.UNKNOWN, f"no outcome: {why}. {effect_text(Effect.POSSIBLE)}")
        return self._outcome(answer)

    # --- sending and hearing ----------------------------------------------------------------------------------------

    async def _send(self, broker: Broker, stage: str, body: Mapping[str, object]) -> str:
        tx = str(uuid.uuid4())
        test = {"test": True} if self._order.test and stage != "cancel" else {}
        self._show.step(stage, f"sent as {self._order.operator}{' (signed)' if self._order.key else ''}", tx=tx)
        return await self._operator.send(broker, stage, {**body, **test}, tx=tx)

    def _outcome(self, answer: Answer) -> Exit:
        row = self._view.row(self._order.point, datetime.now(UTC))
        self._show.step(
            "done",
            answer_text(answer),
            reason=answer.reason,
            effect=answer.effect,
            stage=answer.stage,
            native=answer.native,
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
