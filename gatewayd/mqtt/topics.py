"""Every topic of the contract, made from `<base>`; and what may stand in a topic. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_MESSAGE = 64 * 1024
"""Octets: no message of any topic is larger."""
MAX_TOPIC = 512
"""Octets: longer topics are never published or honoured, though MQTT would allow 65,535."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)


def sound_name(text: str) -> bool:
    """True for an operator's or client's name as it may stand in a topic: letters, digits, `. _ @ -`, 64 at most."""
    return _NAME.fullmatch(text) is not None


def sound_topic(topic: str) -> bool:
    """True where something can be published there: no wildcard, no `$`, no control character, not too long."""
    return (
        0 < len(topic) <= MAX_TOPIC
        and topic.isprintable()
        and not any(c in "+#$" for c in topic)
        and len(topic.encode("utf-8", "replace")) <= MAX_TOPIC
    )


class Topics:
    """The topics under one `<base>`."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.status = f"{base}/status"
        self.event = f"{base}/event"
        self.gap = f"{base}/gap"
        self.health = f"{base}/health"
        self.audit = f"{base}/audit"
        self.requests = (
            f"{base}/cmd/+/+",
            f"{base}/interrogate/+",
            f"{base}/replay/+",
            f"{base}/ack/+",
            f"{base}/ask/+",
        )
        self.retained_by_us = (f"{base}/catalog/#", f"{base}/device/+", f"{base}/snapshot/+/+", f"{base}/tag/#")
        self._point = f"{base}/point/"

    def device(self, device: str) -> str:
        return f"{self.base}/device/{device}"

    def catalog(self, device: str, part: int | None = None) -> str:
        return f"{self.base}/catalog/{device}" + ("" if part is None else f"/{part}")

    def state(self, device: str) -> str:
        return f"{self.base}/state/{device}"

    def snapshot(self, device: str, part: int) -> str:
        return f"{self.base}/snapshot/{device}/{part}"

    def point(self, point: str) -> str:
        return self._point + point

    def tag(self, key: str) -> str:
        return f"{self.base}/tag/{key}"

    def reply(self, operator: str) -> str:
        return f"{self.base}/reply/{operator}"

    def control(self, point: str) -> str:
        return f"{self.base}/control/{point}"

    def replayed(self, client: str) -> str:
        return f"{self.base}/replayed/{client}"

    def acked(self, consumer: str) -> str:
        return f"{self.base}/acked/{consumer}"

    def answered(self, client: str) -> str:
        return f"{self.base}/answered/{client}"

    def request(self, topic: str) -> RequestTopic | None:
        """Who asks what: (`cmd`, operator, verb), or (`interrogate`, `replay`, `ack`, `ask`; client; ``), or None."""
        if not topic.startswith(self.base + "/"):
            return None
        match topic[len(self.base) + 1 :].split("/"):
            case ["cmd", who, verb]:
                return RequestTopic("cmd", who, verb)
            case [("interrogate" | "replay" | "ack" | "ask") as what, who]:
                return RequestTopic(what, who, "")
        return None

    def may_answer(self, response_topic: str, operator: str, prefixes: tuple[str, ...]) -> bool:
        """True where a Response Topic is honoured: nobody makes the gateway publish into a command or data topic."""
        if not sound_topic(response_topic):
            return False
        own = self.reply(operator)
        if response_topic == own or response_topic.startswith(own + "/"):
            return True
        if response_topic.startswith(self.base + "/"):
            return False
        return any(response_topic == prefix or response_topic.startswith(prefix + "/") for prefix in prefixes)


class RequestTopic(NamedTuple):
    """A request's topic, taken apart."""

    what: str
    who: str
    verb: str
