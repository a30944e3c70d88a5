"""Asking the gateway a question over MQTT and waiting for its answer: `<base>/ask/<client>`."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from gatewayd.console.mqtt import Broker, Disconnected, NoGateway, find_base
from gatewayd.mqtt.settings import MqttSettings

AGAIN_S = 2.0
"""A question that was not answered is asked again after so long: the gateway may just be connecting."""


class NoAnswer(Exception):
    """Nobody answered; the text says what may be wrong."""


async def ask(settings: MqttSettings, question: dict[str, Any], wait_s: float) -> tuple[str, dict[str, Any]]:
    """Ask and return the gateway's base topic and its answer. Raises NoAnswer."""
    try:
        base = settings.base or await find_base(settings, wait_s)
    except NoGateway as error:
        raise NoAnswer(str(error)) from None
    client = settings.username or f"console-{secrets.token_hex(4)}"
    answers: list[dict[str, Any]] = []
    status: list[bytes] = []

    def heard(topic: str, payload: bytes) -> None:
        if topic == f"{base}/answered/{client}":
            answers.append(msgspec.json.decode(payload))
        else:
            status.append(payload)

    async with Broker(settings, heard) as broker:
        await broker.subscribe(f"{base}/status", f"{base}/answered/{client}")
        left_s = wait_s
        while not answers and left_s > 0:
            if await broker.until(lambda: broker.connected, left_s):
                try:
                    await broker.publish(f"{base}/ask/{client}", question)
                except Disconnected:
                    continue
            await broker.until(lambda: answers, min(AGAIN_S, left_s))
            left_s -= AGAIN_S
        if not answers:
            raise NoAnswer(_why(broker.trouble, base, status[-1] if status else b""))
    return base, answers[-1]


def _why(trouble: str, base: str, status: bytes) -> str:
    if trouble:
        return trouble
    if not status:
        return f"nothing is stored on {base}/status; is the gateway running, and may we read it?"
    if b'"state":"offline"' in status:
        return f"the gateway {base} is offline"
    return f"the gateway {base} is online and did not answer; may this login write {base}/ask/…?"
