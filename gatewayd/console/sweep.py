"""`gatewayd sweep`: selects and cancels every controllable point, and says what each device answered. Moves nothing.

An IEC 61850 device holds the select itself: what it answers is proved. DNP3 and Modbus have no select that could wait
for a person, the gateway holds theirs: only its gates were passed.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from gatewayd.console.operator import ANSWER_S, Answer, Desk, Exit, Place, Points, Stop, answer_text, at_desk, online
from gatewayd.console.terminal import ask_line
from gatewayd.console.view import Entry, Filter, Row, value_text
from gatewayd.control.reasons import Effect, Reason
from gatewayd.points.types import Value
from gatewayd.problems import printable

HELD_BY_DEVICE = "iec61850"
TIRED_S = 1.0
"""After `rate-limited`: so long, then the point's turn comes again with a new request."""
PATIENCE = 20
OTHER_END = {"open": "closed", "closed": "open"}


class Finding(msgspec.Struct, frozen=True):
    """What came of one point. proved: the device itself answered to the select."""

    point: str
    device: str
    protocol: str
    value: Value
    passed: bool
    proved: bool
    reason: str
    text: str


async def sweep(place: Place, patterns: Sequence[str], *, yes: bool, test: bool, as_json: bool) -> Exit:
    """Go through the points; prints a line for each. test: ask for it as a test."""
    found: list[Finding] = []
    try:
        async with at_desk(place, points=Points.WITH_VALUES) as desk:
            online(desk)
            names = wanted(desk, patterns)
            if not yes:
                await _agreed(desk, names)
            for name in names:
                found.append(await _try(desk, name, test=test))
                _show(found[-1], desk.view.catalog[name], as_json=as_json)
    except Stop as stop:
        print(f"gatewayd sweep: {stop}", file=sys.stderr)
        return stop.status
    if not as_json:
        print(summary(found))
    return Exit.OK if all(one.passed for one in found) else Exit.REFUSED


def wanted(desk: Desk, patterns: Sequence[str]) -> list[str]:
    """The controllable points that match. Raises Stop where there is none."""
    catalog = desk.view.catalog
    found = [
        name
        for name in desk.view.names(Filter((), tuple(patterns)))
        if name in catalog and catalog[name].control != "none"
    ]
    if not found:
        why = f" matches {', '.join(patterns)}" if patterns else " is in the catalog"
        raise Stop(Exit.REFUSED, f"no controllable point{why}")
    return found


async def _agreed(desk: Desk, names: Sequence[str]) -> None:
    """Ask the person. Raises Stop where he does not want it."""
    devices = sorted({desk.view.device_of.get(name, "") for name in names})
    question = (
        f"select and cancel {len(names)} points of {', '.join(devices)}? Nothing is operated; meanwhile each point "
        "is taken for a moment. Type yes to begin: "
    )
    if await ask_line(question) != "yes":
        raise Stop(Exit.REFUSED, "nothing was sent")


async def _try(desk: Desk, name: str, *, test: bool) -> Finding:
    """Select, and cancel what was selected. Raises Stop where nothing more can be asked."""
    view = desk.view
    value = attempt(view.catalog[name], view.row(name, datetime.now(UTC)))
    answer = await _select(desk, name, value, test=test)
    protocol, device = view.protocol(name), view.device_of.get(name, "")
    if answer.result != "selected":
        return Finding(name, device, protocol, value, False, False, answer.reason, answer_text(answer))
    cancel = asyncio.ensure_future(desk.operator.send(desk.broker, "cancel", {"select_id": answer.select_id}))
    try:
        tx = await asyncio.shield(cancel)
    except asyncio.CancelledError:  # Ctrl-C: what was selected is cancelled all the same
        await asyncio.wait({cancel}, timeout=2.0)
        raise
    end = await desk.operator.answer(desk.broker, tx, ANSWER_S)
    if end is None:
        raise Stop(Exit.NO_ANSWER, f"{name}: no answer to the cancel; the select runs out by itself. Ended here")
    if end.reason not in (Reason.OK, Reason.CANCELLED):
        return Finding(name, device, protocol, value, False, False, end.reason, f"cancel: {answer_text(end)}")
    proved = protocol == HELD_BY_DEVICE and view.catalog[name].control == "sbo"
    words = "the device took the select and the cancel" if proved else "gates passed, not proved at device"
    detail = "; ".join(printable(one) for one in (answer.detail, end.detail) if one)
    return Finding(name, device, protocol, value, True, proved, "ok", f"{words}{f' ({detail})' if detail else ''}")


async def _select(desk: Desk, name: str, value: Value, *, test: bool) -> Answer:
    body: dict[str, object] = {"point": name, "value": value}
    if test:
        body["test"] = True
    for _ in range(PATIENCE):
        answer = await desk.ask("select", body, f"{name}: the select runs out by itself. Ended here")
        if answer.reason != Reason.RATE_LIMITED or answer.effect != Effect.NONE:
            break
        await asyncio.sleep(TIRED_S)
    return answer


def attempt(entry: Entry, row: Row) -> Value:
    """A value that the point would take: the other end of a switch, another state, the present value of a setpoint."""
    match entry.kind:
        case "double":
            return OTHER_END.get(str(row.value), "open")
        case "binary":
            return row.value is not True
        case "enum":
            others = [text for text in entry.states.values() if text != row.value]
            return others[0] if others else row.value if row.value is not None else 0
        case "string":
            return str(row.value or "")
    low = entry.min if entry.min is not None else float("-inf")
    high = entry.max if entry.max is not None else float("inf")
    present = row.value if isinstance(row.value, int | float) and not isinstance(row.value, bool) else 0
    return type(present)(min(max(present, low), high))


def summary(found: Sequence[Finding]) -> str:
    """The last line: how many of what."""
    refused = Counter(one.reason for one in found if not one.passed)
    proved = sum(one.proved for one in found)
    passed = sum(one.passed for one in found) - proved
    points = f"{len(found)} point{'' if len(found) == 1 else 's'}"
    parts = [f"{points}: {proved} proved at the device, {passed} gates passed only"]
    parts += [f"{number} {reason}" for reason, number in refused.items()]
    return ", ".join(parts)


def _show(one: Finding, entry: Entry, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(one).decode(), flush=True)
        return
    mark = "ok     " if one.passed else "REFUSED"
    value = value_text(one.value, entry)
    print(f"{mark} {one.point:<24} -> {value:<8} {one.protocol:<9} {one.text}", flush=True)
