"""A record: one point's value, quality and time as JSON octets, about 1 us each. Pure.

Built from cached pieces and not by an encoder: names, qualities and times repeat, only the value is new. Left out is
what says the normal thing: empty flags, source process, test and blocked false, t_sync yes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import lru_cache

import msgspec

from gatewayd.mqtt.topics import MAX_MESSAGE
from gatewayd.points import quality as q
from gatewayd.points.database import PointState
from gatewayd.points.types import PointSpec, Value

MAX_TEXT = 4096
"""Characters: a longer text of a hostile device is no value (null, invalid), never cut silently."""

_LAST_NS = 253_402_300_799_999_999_999
"""9999-12-31T23:59:59.999999999Z, the last instant of RFC 3339."""
UNTRUSTED_TIME = q.RECEIPT | q.SYNC_NO | q.SYNC_UNKNOWN | q.SUSPECT
HISTORICAL_AFTER_NS = 60_000_000_000

json = msgspec.json.encode


@lru_cache(1024)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@lru_cache(8192)
def rfc3339(time_ns: int) -> bytes:
    """UTC ns as RFC 3339 with milliseconds, and more digits where there are more; clamped to 1970..9999."""
    second, rest = divmod(min(max(time_ns, 0), _LAST_NS), 1_000_000_000)
    if rest % 1_000_000 == 0:
        fraction = f"{rest // 1_000_000:03}"
    elif rest % 1_000 == 0:
        fraction = f"{rest // 1_000:06}"
    else:
        fraction = f"{rest:09}"
    return f"{_second(second)}.{fraction}Z".encode()


@lru_cache(65536)
def _head(name: str) -> bytes:
    return b'{"point":' + json(name) + b',"value":'


@lru_cache(8192)
def _text(value: str) -> bytes:
    return json(value.encode("utf-8", "replace").decode())


@lru_cache(4096)
def _around_time(quality: int) -> tuple[bytes, bytes]:
    before = f',"quality":"{q.validity(quality)}"'
    if names := q.flags(quality):
        before += ',"flags":[' + ",".join(f'"{name}"' for name in names) + "]"
    for bit, text in (
        (q.SUBSTITUTED, ',"source":"substituted"'),
        (q.TEST, ',"test":true'),
        (q.BLOCKED, ',"blocked":true'),
    ):
        if quality & bit:
            before += text
    after = '","t_src":"' + ("gateway" if quality & q.RECEIPT else "device") + '"'
    if quality & q.SYNC_NO:
        after += ',"t_sync":"no"'
    elif quality & q.SYNC_UNKNOWN:
        after += ',"t_sync":"unknown"'
    return (before + ',"t":"').encode(), after.encode()


def _value(value: Value) -> bytes | None:
    """JSON of a value, None where it has none: NaN, infinite, an endless text."""
    match value:
        case None:
            return b"null"
        case True:
            return b"true"
        case False:
            return b"false"
        case float():
            return repr(value).encode() if value - value == 0.0 else None
        case int():
            return str(value).encode() if -(1 << 64) < value < 1 << 64 else None
        case _:
            return _text(value) if len(value) <= MAX_TEXT else None


def record(spec: PointSpec, state: PointState, t_recv_ns: int | None = None) -> bytes:
    """One record as a JSON object.

    t_recv_ns: the receipt the whole message gives; `t_recv` is left out where it says the same. Without it `t_recv`
    is left out where it equals `t`. A value JSON cannot carry becomes null and invalid.
    """
    quality = state.quality
    value = _value(state.value)
    if value is None:
        value, quality = b"null", quality & ~q.VALIDITY_MASK | q.INVALID
    before, after = _around_time(quality)
    t = state.time_ns
    recv = state.recv_ns
    if recv == (t if t_recv_ns is None else t_recv_ns):
        return b"%b%b%b%b%b}" % (_head(spec.name), value, before, rfc3339(t), after)
    return b'%b%b%b%b%b,"t_recv":"%b"}' % (_head(spec.name), value, before, rfc3339(t), after, rfc3339(recv))


def chunks(records: Iterable[bytes], overhead: int, most: int = 1_000_000) -> list[list[bytes]]:
    """Records in parts that stay within MAX_MESSAGE when joined by commas and `overhead` octets are added."""
    parts: list[list[bytes]] = []
    room = 0
    for one in records:
        room -= len(one) + 1
        if not parts or room < 0 or len(parts[-1]) >= most:
            parts.append([])
            room = MAX_MESSAGE - overhead - len(one) - 1
        parts[-1].append(one)
    return parts


def state_messages(specs: Iterable[PointSpec], states: Iterable[PointState]) -> list[tuple[bytes, int]]:
    """`state/<device>` for these points: (payload, how many points), in as many messages as 64 KiB needs.

    The receipt of the first point is given once for the whole message: points of one batch share it.
    """
    pairs = list(zip(specs, states, strict=True))
    if not pairs:
        return []
    t_recv = pairs[0][1].recv_ns
    head = b'{"t_recv":"' + rfc3339(t_recv) + b'","points":['
    parts = chunks([record(spec, state, t_recv) for spec, state in pairs], len(head) + 2)
    return [(head + b",".join(part) + b"]}", len(part)) for part in parts]


def snapshot_messages(specs: Iterable[PointSpec], states: Iterable[PointState]) -> list[bytes]:
    """`snapshot/<device>/<n>`: all points of a device; each part says which one it is of how many."""
    parts = chunks([record(spec, state) for spec, state in zip(specs, states, strict=True)], 64)
    return [
        b'{"part":%d,"parts":%d,"points":[' % (n, len(parts)) + b",".join(part) + b"]}" for n, part in enumerate(parts)
    ]
