"""Payloads that are not points alone: status, device, catalog, the numbered events and what stands in them. Pure.

Event payloads are made when something happens, go through the journal as octets without a number, and get their
`seq` (and `historical`) when they are sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gatewayd.control import tags
from gatewayd.control.types import Answer
from gatewayd.mqtt.records import HISTORICAL_AFTER_NS, UNTRUSTED_TIME, chunks, json, record, rfc3339
from gatewayd.points.database import PointState
from gatewayd.points.types import ControlMode, Link, PointSpec

MAX_EVENTS = 500
"""Events in one message at most."""

_HISTORICAL = b',"historical":true}'
_GAP = b'{"type":"gap"'


class GatewayInfo(NamedTuple):
    """Who we are, for `status`. boot: the id of this run of the daemon."""

    name: str
    version: str
    config_sha256: str
    boot: str


class Tail(NamedTuple):
    """Where the event stream stands, for `status` and `health`: a consumer sees a loss at the end too."""

    epoch: str | int
    oldest: int
    newest: int
    handed_over: int


class Numbered(Protocol):
    """An event as the journal keeps it: `payload` is a JSON object made by one of the builders below."""

    @property
    def seq(self) -> int: ...
    @property
    def recorded_ns(self) -> int: ...
    @property
    def payload(self) -> bytes: ...


class EventMessage(NamedTuple):
    """One message of `event` or `replayed`: the numbers it holds, and its octets."""

    first: int
    last: int
    payload: bytes


def status(info: GatewayInfo, tail: Tail, clock: Mapping[str, object], now_ns: int, *, online: bool) -> bytes:
    """`status`; the will is the same with `"state":"offline"`."""
    return json(
        {
            "state": "online" if online else "offline",
            "boot": info.boot,
            "epoch": tail.epoch,
            "oldest": tail.oldest,
            "newest": tail.newest,
            "handed_over": tail.handed_over,
            "version": info.version,
            "config": info.config_sha256,
            "time": rfc3339(now_ns).decode(),
            "clock": clock,
        }
    )


def device(link: Link, since_ns: int, cause: str, protocol: str) -> bytes:
    """`device/<device>`: how its link is, since when and why."""
    return json({"link": link, "since": rfc3339(since_ns).decode(), "cause": _sound(cause), "protocol": protocol})


def health(counters: Mapping[str, object], tail: Tail, now_ns: int) -> bytes:
    """`health`: the counters and where the event stream stands."""
    return json({"time": rfc3339(now_ns).decode(), **tail._asdict(), **counters})


def catalog_messages(device: str, protocol: str, specs: Iterable[PointSpec]) -> list[bytes]:
    """`catalog/<device>`, or `catalog/<device>/<n>` where it is more than one: what to know of each point."""
    parts = chunks([json(_catalog_entry(spec)) for spec in specs], 512) or [[]]
    head = b'{"device":%b,"protocol":%b,"part":%d,"parts":%d,"points":['
    return [
        head % (json(device), json(protocol), n, len(parts)) + b",".join(part) + b"]}" for n, part in enumerate(parts)
    ]


def _catalog_entry(spec: PointSpec) -> dict[str, object]:
    entry: dict[str, object] = {"point": spec.name, "kind": spec.kind, "event": spec.event}
    if spec.unit:
        entry["unit"] = _sound(spec.unit)
    if spec.states:
        entry["states"] = {str(code): _sound(text) for code, text in spec.states.items()}
    if spec.control is not ControlMode.NONE:
        entry["control"] = spec.control
        entry.update({key: value for key, value in (("min", spec.min), ("max", spec.max)) if value is not None})
        entry["tags"] = [f"tag/{tags.topic(key)}" for key in tags.keys(spec)]
    for key, text in (("description", spec.description), ("area", spec.area), ("bay", spec.bay)):
        if text:
            entry[key] = _sound(text)
    return entry


def point_event(spec: PointSpec, state: PointState, *, repeat: bool = False, historical: bool = False) -> bytes:
    """A point's event. `historical` by itself where a trusted device time lies more than 60 s before the receipt."""
    payload = record(spec, state)
    if repeat:
        payload = payload[:-1] + b',"repeat":true}'
    if historical or (not state.quality & UNTRUSTED_TIME and state.recv_ns - state.time_ns > HISTORICAL_AFTER_NS):
        payload = payload[:-1] + _HISTORICAL
    return payload


def device_event(device: str, link: Link, cause: str, time_ns: int) -> bytes:
    """A device's link changed: one record, not one for each of its points."""
    return json(
        {
            "type": "device",
            "device": device,
            "link": link,
            "cause": _sound(cause),
            "t": rfc3339(time_ns).decode(),
            "t_src": "gateway",
        }
    )


def control_event(answer: Answer) -> bytes:
    """An outcome of a command, as all consoles see it: with the operator, never with a `select_id`."""
    return json({"type": "control", **_control(answer), "t": rfc3339(answer.time_ns).decode(), "t_src": "gateway"})


def gap_event(device: str, cause: str, *, from_ns: int | None, to_ns: int, lost: int | None = None) -> bytes:
    """Events lost outside our reach: of which device (or `journal`), between when, why, how many where it is known."""
    gap: dict[str, object] = {
        "type": "gap",
        "device": device,
        "from": None if from_ns is None else rfc3339(from_ns).decode(),
        "to": rfc3339(to_ns).decode(),
        "cause": _sound(cause),
        "t": rfc3339(to_ns).decode(),
        "t_src": "gateway",
    }
    if lost is not None:
        gap["lost"] = lost
    return json(gap)


def clock_event(step_ns: int, time_ns: int) -> bytes:
    """The gateway's own clock stepped: by how much (seconds, + forward), and its time after the step."""
    return json({"type": "clock", "step_s": step_ns / 1e9, "t": rfc3339(time_ns).decode(), "t_src": "gateway"})


def numbered(event: Numbered, now_ns: int) -> bytes:
    """A journalled event with its `seq`, and `historical` when it is older than 60 s now."""
    payload = event.payload
    if now_ns - event.recorded_ns > HISTORICAL_AFTER_NS and not payload.endswith(_HISTORICAL):
        payload = payload[:-1] + _HISTORICAL
    return b'{"seq":%d,' % event.seq + payload[1:]


def event_messages(epoch: str | int, events: Sequence[Numbered], now_ns: int) -> list[EventMessage]:
    """Events in messages of at most 500 and 64 KiB, in their order."""
    ready = [numbered(event, now_ns) for event in events]
    messages = []
    start = 0
    name = json(epoch)
    for part in chunks(ready, len(name) + 64, MAX_EVENTS):
        first, last = events[start].seq, events[start + len(part) - 1].seq
        head = b'{"epoch":%b,"first":%d,"events":[' % (name, first)
        messages.append(EventMessage(first, last, head + b",".join(part) + b"]}"))
        start += len(part)
    return messages


def gap_message(epoch: str | int, event: Numbered) -> bytes | None:
    """The payload for `gap` where the event is a gap record: the same record with epoch and number."""
    if not event.payload.startswith(_GAP):
        return None
    return b'{"epoch":%b,"seq":%d,' % (json(epoch), event.seq) + event.payload[1:]


def replay_done(first: int, last: int, missing: Sequence[tuple[int, int]], reason: str) -> bytes:
    """The end of a replay: the numbers that were sent, which of the wanted ones are missing, and why."""
    return json({"done": True, "from": first, "to": last, "missing": missing, "reason": reason})


def acked(epoch: str | int, seq: int, result: str, acknowledged: int) -> bytes:
    """`acked/<consumer>`: what was acknowledged, what became of it, and how far the consumer stands now."""
    return json({"epoch": epoch, "seq": seq, "result": result, "acknowledged": acknowledged})


def device_clock_event(device: str, offset_ns: int, limit_s: float, time_ns: int) -> bytes:
    """A device's clock went further from the gateway's than its limit, or came back: offset in s (gateway - device)."""
    return json(
        {
            "type": "clock",
            "device": device,
            "offset_s": round(offset_ns / 1e9, 3),
            "limit_s": limit_s,
            "within": abs(offset_ns) <= limit_s * 1e9,
            "t": rfc3339(time_ns).decode(),
            "t_src": "gateway",
        }
    )


def reply(answer: Answer) -> bytes:
    """An answer for the asker."""
    out = _answer(answer)
    if answer.select_id:
        out["select_id"] = answer.select_id
    return json(out)


def control(answer: Answer) -> bytes:
    """The same answer for everybody, on `control/<point>`: with operator and time, never with a `select_id`."""
    return json({**_control(answer), "time": rfc3339(answer.time_ns).decode()})


def _control(answer: Answer) -> dict[str, object]:
    return {**_answer(answer), "operator": answer.operator}


def _answer(answer: Answer) -> dict[str, object]:
    out: dict[str, object] = {
        "tx": answer.tx,
        "point": answer.point,
        "stage": answer.stage,
        "result": answer.result,
        "reason": answer.reason,
        "effect": answer.effect,
        "duplicate": answer.duplicate,
    }
    if answer.value is not None:
        out["value"] = answer.value
    if answer.native is not None:
        out["native"] = {"proto": answer.native.proto, "code": answer.native.code, "name": _sound(answer.native.name)}
    if answer.valid_for_s is not None:
        out["valid_for_s"] = answer.valid_for_s
    for key in ("late", "restart"):
        if getattr(answer, key):
            out[key] = True
    if answer.detail:
        out["detail"] = _sound(answer.detail)
    if answer.tag:
        out["tag"] = answer.tag
    if answer.time_ns:
        out["time"] = rfc3339(answer.time_ns).decode()
    return out


def _sound(text: str, limit: int = 1000) -> str:
    """Text of a device or a person that certainly becomes JSON and never a huge one."""
    return text[:limit].encode("utf-8", "replace").decode()
