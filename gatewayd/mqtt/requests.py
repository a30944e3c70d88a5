"""What comes in: commands, interrogations, replay requests; any octets become a request or its `bad`. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from gatewayd.control.types import ReplyTo, Request, Stage
from gatewayd.mqtt.topics import RequestTopic, Topics, sound_name
from gatewayd.points.types import Value

MAX_PAYLOAD = 4096
"""Octets of a request at most."""
MAX_DEPTH = 8
"""Brackets within brackets at most."""
QUESTIONS = ("health", "explain")
MAX_INTEGER = 1 << 63
MAX_SEQ = 1 << 62

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Properties(NamedTuple):
    """The MQTT 5 properties of a request that mean something here."""

    response_topic: str = ""
    correlation: bytes | None = None
    user: tuple[tuple[str, str], ...] = ()


class InterrogateRequest(NamedTuple):
    """Read everything again: of one device, or of all (None). bad: why it could not be understood."""

    client: str
    device: str | None
    bad: str = ""


class ReplayRequest(NamedTuple):
    """Send the events first..last of an epoch again. bad: why it could not be understood."""

    client: str
    epoch: str | int
    first: int
    last: int
    bad: str = ""


class AckRequest(NamedTuple):
    """A registered consumer has everything of an epoch up to `seq`. bad: why it could not be understood."""

    consumer: str
    epoch: str
    seq: int
    bad: str = ""


class AskRequest(NamedTuple):
    """A question of a console: `ask` is `health` or `explain`. bad: why it could not be understood."""

    client: str
    ask: str
    point: str = ""
    bad: str = ""


class _Bad(Exception):
    """Why something is not understood."""


def parse_time(text: str) -> int:
    """RFC 3339 to UTC ns, strictly: `T` and `Z` in capitals, a zone always, seconds 00 to 59. Raises ValueError."""
    found = _RFC3339.fullmatch(text)
    if not found:
        raise ValueError(f"{text[:40]!r} is not an RFC 3339 time such as 2026-11-24T01:02:03.004Z")
    *parts, fraction, sign, hours, minutes = found.groups()
    zone = timedelta()
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            raise ValueError(f"{text[:40]!r} has an impossible zone")
        zone = timedelta(hours=int(hours), minutes=int(minutes)) * (1 if sign == "+" else -1)
    try:
        year, month, day, hour, minute, second = map(int, parts)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{text[:40]!r}: {error}") from None
    since = moment - _EPOCH - zone
    return (since.days * 86400 + since.seconds) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))


def decode(
    topics: Topics,
    topic: str,
    payload: bytes,
    properties: Properties | None = None,
    *,
    retained: bool = False,
    reply_prefixes: tuple[str, ...] = (),
    received_ns: int = 0,
    received_mono: int = 0,
) -> Request | None:
    """A command as it came in, for the gates to judge; None where the topic is not one of a command at all.

    `bad` says the first thing that could not be understood; the other fields hold what could be read, so that the
    request can be answered. Never raises.
    """
    where = topics.request(topic)
    if where is None or where.what != "cmd" or where.verb not in {stage.value for stage in Stage}:
        return None
    stage = Stage(where.verb)
    properties = properties or Properties()
    reply_to = None
    if properties.response_topic and topics.may_answer(properties.response_topic, where.who, reply_prefixes):
        reply_to = ReplyTo(properties.response_topic, properties.correlation)
    user = dict(reversed(properties.user))
    body, problems = _object(payload)
    fields = _Fields(body, problems)
    if not sound_name(where.who):
        problems.insert(0, "the operator's name in the topic has characters other than letters, digits and . _ @ -")
    tx = fields.word("tx", needed=True)
    named = stage in (Stage.SELECT, Stage.OPERATE, Stage.DIRECT)
    point = fields.text("point", needed=named)
    value = fields.value("value", needed=named)
    select_id = fields.word("select_id", needed=stage in (Stage.OPERATE, Stage.CANCEL))
    expires_ns = fields.time("expires_at")
    test = fields.flag("test")
    return Request(
        stage=stage,
        operator=where.who,
        tx=tx,
        point=point,
        value=value,
        select_id=select_id,
        expires_ns=expires_ns,
        retained=retained,
        received_ns=received_ns,
        received_mono=received_mono,
        test=test,
        bad=problems[0] if problems else "",
        body=body,
        reply_to=reply_to,
        raw_topic=topic,
        raw_payload=payload[: MAX_PAYLOAD + 1],
        key=user.get("key", ""),
        sig=user.get("sig", ""),
    )


def decode_interrogate(where: RequestTopic, payload: bytes, *, retained: bool = False) -> InterrogateRequest:
    """An interrogation; an empty payload means all devices. Never raises."""
    body, problems = _object(payload or b"{}")
    device = _Fields(body, problems).text("device") if body.get("device") is not None else None
    return InterrogateRequest(where.who, device, _why_not(where, problems, retained=retained))


def decode_replay(where: RequestTopic, payload: bytes, *, retained: bool = False) -> ReplayRequest:
    """A replay request. Never raises."""
    body, problems = _object(payload)
    fields = _Fields(body, problems)
    first, last = fields.number("from"), fields.number("to")
    epoch = body.get("epoch")
    if isinstance(epoch, bool) or not isinstance(epoch, str | int):
        problems.append("epoch is missing, or neither a text nor a number")
        epoch = ""
    elif not problems and first > last:
        problems.append(f"from {first} is after to {last}")
    return ReplayRequest(where.who, epoch, first, last, _why_not(where, problems, retained=retained))


def decode_ack(where: RequestTopic, payload: bytes, *, retained: bool = False) -> AckRequest:
    """An acknowledgement. Never raises."""
    body, problems = _object(payload)
    seq = _Fields(body, problems).number("seq")
    epoch = body.get("epoch")
    if isinstance(epoch, bool) or not isinstance(epoch, str | int):
        problems.append("epoch is missing, or neither a text nor a number")
        epoch = ""
    return AckRequest(where.who, str(epoch), seq, _why_not(where, problems, retained=retained))


def decode_ask(where: RequestTopic, payload: bytes, *, retained: bool = False) -> AskRequest:
    """A question. Never raises."""
    body, problems = _object(payload)
    fields = _Fields(body, problems)
    ask = fields.word("ask", needed=True)
    point = fields.text("point", needed=ask == "explain")
    if ask not in ("", *QUESTIONS):
        problems.append(f"ask is {ask!r}; {' or '.join(QUESTIONS)} is allowed")
    return AskRequest(where.who, ask, point, _why_not(where, problems, retained=retained))


def _why_not(where: RequestTopic, problems: list[str], *, retained: bool) -> str:
    if not sound_name(where.who):
        return "the client's name in the topic has characters other than letters, digits and . _ @ -"
    if retained:
        return "retained"
    return problems[0] if problems else ""


class _Fields:
    """Reads fields of known types out of an object; collects what is wrong."""

    def __init__(self, body: dict[str, object], problems: list[str]) -> None:
        self._body = body
        self._problems = problems

    def _read(self, key: str, check: Callable[[object], str], *, needed: bool) -> object:
        value = self._body.get(key)
        if value is None:
            if needed:
                self._problems.append(f"{key} is missing")
            return None
        if why := check(value):
            self._problems.append(f"{key} {why}")
            return None
        return value

    def text(self, key: str, *, needed: bool = False) -> str:
        def check(value: object) -> str:
            good = isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable()
            return "" if good else "is not a text of 1 to 256 printable characters"

        return str(self._read(key, check, needed=needed) or "")

    def word(self, key: str, *, needed: bool = False) -> str:
        def check(value: object) -> str:
            good = isinstance(value, str) and _WORD.fullmatch(value)
            return "" if good else "is not 1 to 64 letters, digits and . _ : -"

        return str(self._read(key, check, needed=needed) or "")

    def value(self, key: str, *, needed: bool = False) -> Value:
        def check(value: object) -> str:
            if isinstance(value, str) and len(value) > 256:
                return "is a text of more than 256 characters"
            return "" if isinstance(value, bool | int | float | str) else "is not a number, a text, true or false"

        found = self._read(key, check, needed=needed)
        return found if isinstance(found, bool | int | float | str) else None

    def time(self, key: str) -> int | None:
        found: list[int] = []

        def check(value: object) -> str:
            if not isinstance(value, str):
                return "is not a text"
            try:
                found.append(parse_time(value))
            except ValueError as error:
                return str(error)
            return ""

        self._read(key, check, needed=False)
        return found[0] if found else None

    def flag(self, key: str) -> bool:
        return (
            self._read(key, lambda value: "" if isinstance(value, bool) else "is not true or false", needed=False)
            is True
        )

    def number(self, key: str) -> int:
        def check(value: object) -> str:
            good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEQ
            return "" if good else "is not a number of an event"

        found = self._read(key, check, needed=True)
        return found if isinstance(found, int) else 0


def _object(payload: bytes) -> tuple[dict[str, object], list[str]]:
    """The JSON object of a payload, strictly, and what is wrong with it (one thing at most; then it is empty)."""
    try:
        return _strict(payload), []
    except _Bad as bad:
        return {}, [str(bad)]


def _strict(payload: bytes) -> dict[str, object]:
    if len(payload) > MAX_PAYLOAD:
        raise _Bad(f"the payload has {len(payload)} octets; {MAX_PAYLOAD} at most")
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise _Bad(f"the payload is not UTF-8 (octet {error.start})") from None
    _check_depth(text)
    try:
        found = json.loads(
            text, object_pairs_hook=_no_twins, parse_constant=_no_constant, parse_int=_integer, parse_float=_float
        )
    except json.JSONDecodeError as error:
        raise _Bad(f"the payload is not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(found, dict):
        raise _Bad("the payload is not a JSON object")
    try:
        msgspec.json.encode(found)
    except (UnicodeEncodeError, ValueError):
        raise _Bad("the payload has half a surrogate pair in a text") from None
    return found


def _check_depth(text: str) -> None:
    depth, quoted, escaped = 0, False, False
    for c in text:
        if quoted:
            if escaped:
                escaped = False
            elif c == "\\":
                escaped = True
            elif c == '"':
                quoted = False
        elif c == '"':
            quoted = True
        elif c in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise _Bad(f"the payload is nested more than {MAX_DEPTH} deep")
        elif c in "}]":
            depth -= 1


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Bad("a key stands twice in the same object")
    return found


def _no_constant(name: str) -> object:
    raise _Bad(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) > MAX_INTEGER:
        raise _Bad("an integer is larger than 64 bits")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if number - number != 0.0:
        raise _Bad("a number is too large")
    return number
