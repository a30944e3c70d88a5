"""Answers to questions of consoles: how the gateway is (`health`), and why a point is as it is (`explain`). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gatewayd.mqtt.records import rfc3339
from gatewayd.points import quality as q
from gatewayd.points.database import Database, PointState
from gatewayd.points.types import Link, PointSpec
from gatewayd.protocols.registry import PROTOCOLS, configuration

REASONS: dict[int, str] = {
    q.RESTART: "the device, or the gateway, has started and this has not been read since",
    q.COMM_LOST: "nothing comes from the device, or it has lost what is behind it; value and time are the last known",
    q.DEVICE_OFFLINE: "the device says the point is not in operation",
    q.FORCED_REMOTE: "somebody has overwritten the value from afar",
    q.FORCED_LOCAL: "somebody has overwritten the value at the device",
    q.CHATTER: "the input changes too often to be believed",
    q.OVER_RANGE: "the value is beyond what the input can measure",
    q.REFERENCE_ERR: "the reference of the measurement is not right",
    q.DISCONTINUITY: "the counter was set back or has run over: a break in counting, not a bad value",
    q.OVERFLOW: "the value does not fit into its type",
    q.OUT_OF_RANGE: "the value is outside what is allowed, or is no number",
    q.BAD_REFERENCE: "the device's reference value is wrong",
    q.OSCILLATORY: "the input oscillates",
    q.FAILURE: "the device reports a failure of the point",
    q.OLD_DATA: "the value was not renewed: by the device, or because the gateway's disk takes no events",
    q.INCONSISTENT: "what belongs together does not agree",
    q.INACCURATE: "the value is less accurate than stated",
    q.CONFIG_ERROR: "the point list does not fit the device: no such address, or another type; correct the list",
    q.NOT_INITIALISED: "it has never been read, or the device itself has not read it since its start",
    q.Q_ABSENT: "the device gives no quality with this value",
    q.SAMPLED: "the value is polled: changes between two polls are not seen",
    q.UNSYNCHRONISED: "the device's clock is not synchronised",
    q.SUSPECT: "the device's time cannot be right: in the future, or older than the last contact",
    q.SUBSTITUTED: "the value is substituted, not from the process",
    q.TEST: "the value is under test",
    q.BLOCKED: "an operator has blocked the value",
}
"""What each bit means to a person who looks for the cause."""


class LinkNow(NamedTuple):
    """A device's link."""

    link: Link
    since_ns: int
    cause: str


def explain(
    database: Database, name: str, link: LinkNow | None, protocol: str, offset_ns: int | None
) -> dict[str, object]:
    """Everything known of why a point is as it is; `{"bad": …}` where there is no such point."""
    row = database.row(name)
    if row is None:
        return {"bad": f"there is no point {name!r}"}
    spec, state = database.specs[row], database.states[row]
    found: dict[str, object] = {"device": spec.device, "address": spec.address, **_now(state)}
    found["reasons"] = reasons(state.quality)
    if state.since_ns:
        found["since"] = _time(state.since_ns)
    if state.quality & q.VALIDITY_MASK and state.good_ns:
        found["last_good"] = {"value": state.good_value, "t": _time(state.good_ns)}
    if native := native_words(spec, state, protocol):
        found["native"] = {"bits": f"0x{state.native:x}", "names": native}
    if link is not None:
        found["link"] = {"link": link.link, "since": _time(link.since_ns), "cause": link.cause}
    if offset_ns is not None:
        found["clock_offset_s"] = round(offset_ns / 1e9, 3)
    inputs = _inputs(database, spec, protocol)
    if inputs:
        found["inputs"] = inputs
    return {"point": name, **found}


def _now(state: PointState) -> dict[str, object]:
    return {
        "value": state.value,
        "raw": state.raw if state.raw == state.raw else None,  # NaN is no JSON
        "quality": q.validity(state.quality),
        "flags": q.flags(state.quality),
        "usable": q.usable(state.quality) and state.value is not None,
        "t": _time(state.time_ns),
        "t_src": "gateway" if state.quality & q.RECEIPT else "device",
        "t_recv": _time(state.recv_ns),
    }


def reasons(quality: int) -> list[str]:
    """One sentence for each bit that is set; none for a plain good."""
    return [text for bit, text in REASONS.items() if quality & bit]


def native_words(spec: PointSpec, state: PointState, protocol: str) -> list[str]:
    """The device's own words behind the quality, by its protocol."""
    of_its_own = not spec.derived and "|" not in spec.address
    if not of_its_own or protocol not in PROTOCOLS or not state.recv_ns or state.quality & q.Q_ABSENT:
        return []
    return configuration(protocol).explain_native(spec, state.native)


def _inputs(database: Database, spec: PointSpec, protocol: str) -> list[dict[str, object]]:
    """The inputs of a derived point, the contacts of a double."""
    names: Iterable[str] = ()
    if spec.derived:
        names = [other.name for other in database.specs if f"'{other.name}'" in spec.address]
    elif "|" in spec.address:
        names = (f"{spec.name}#open", f"{spec.name}#closed")
    found: list[dict[str, object]] = []
    for name in names:
        row = database.row(name)
        if row is not None:
            state = database.states[row]
            one: dict[str, object] = {"point": name, "value": state.value, "quality": q.describe(state.quality)}
            if state.quality & q.VALIDITY_MASK and (native := native_words(database.specs[row], state, protocol)):
                one["native"] = native
            found.append(one)
    return found


def _time(time_ns: int) -> str:
    return rfc3339(time_ns).decode()
