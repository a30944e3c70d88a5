"""`gatewayd tag`, `inhibit` and `clear`: what people hang on a point, a bay, a device or the gateway, and take away."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from gatewayd.console.operator import Answer, Desk, Exit, Place, Points, Stop, at_desk, online
from gatewayd.console.view import StationView
from gatewayd.console.words import reason_text, tag_text
from gatewayd.control.reasons import Reason
from gatewayd.problems import printable

PLACES = ("gateway", "device", "bay", "point")


class Which(StrEnum):
    """Tags, or inhibits: they hang side by side and have their own requests."""

    TAG = "tag"
    INHIBIT = "inhibit"


async def hang(place: Place, which: Which, kind: str, on: str, note: str, *, as_json: bool) -> Exit:
    """Hang one. kind: of a tag; on: `gateway`, `device/…`, `bay/…`, `point/…` or the name of a point."""

    async def work(desk: Desk) -> Exit:
        body = {"on": whole(on, desk.view), "note": note} | ({"set": kind} if which is Which.TAG else {})
        answer = await desk.ask(which, body, f"it is not known whether it hangs; `gatewayd {which} list` shows it")
        return _told(answer, "hangs", as_json=as_json)

    return await _done(place, work)


async def take(place: Place, which: Which, what: str, *, force: bool, as_json: bool) -> Exit:
    """Take one away. what: its id, or what the only one hangs on."""

    async def work(desk: Desk) -> Exit:
        body: dict[str, object] = {"remove": chosen(what, which, desk.view)}
        if force:
            body["force"] = True
        answer = await desk.ask(which, body, f"it is not known whether it is gone; `gatewayd {which} list` shows it")
        return _told(answer, "is gone", as_json=as_json)

    return await _done(place, work)


async def clear(place: Place, point: str, *, as_json: bool) -> Exit:
    """End the HOLD of a point."""

    async def work(desk: Desk) -> Exit:
        answer = await desk.ask("clear", {"point": point}, "look with `gatewayd status` whether it is still held")
        return _told(answer, f"{point} is released", as_json=as_json)

    return await _done(place, work)


async def show(place: Place, which: Which | None, on: str, *, as_json: bool) -> Exit:
    """Print what hangs: everything, or what concerns one point or place. which: None is both."""
    try:
        async with at_desk(place, points=Points.CATALOG) as desk:
            found = listed(desk.view, which, on)
            if as_json:
                print(msgspec.json.encode(found).decode())
            else:
                for tag in found:
                    print(printable(tag_text(tag)))
                if not found:
                    print(f"nothing hangs{f' on {on}' if on else ''}")
            if not desk.view.online:
                print("gatewayd: the gateway is offline; this is what hung when it was there", file=sys.stderr)
    except Stop as stop:
        return _stopped(stop)
    return Exit.OK


def listed(view: StationView, which: Which | None, on: str) -> list[dict[str, Any]]:
    """Tags and inhibits: all, those of a place, or those that concern a point wherever they hang."""
    if on in view.catalog:
        found = view.tags_of(on)
    else:
        found = [tag for key in sorted(view.tags) for tag in view.tags[key] if on in ("", key)]
    return [tag for tag in found if which is None or (tag.get("kind") == Which.INHIBIT) is (which is Which.INHIBIT)]


def whole(on: str, view: StationView) -> str:
    """The place a word means: a point's name stands for `point/<name>`, all else for itself."""
    if "/" not in on and on not in view.catalog:
        return on  # `gateway`, or a mistake: the gateway says what is allowed
    return on if on.partition("/")[0] in PLACES else f"point/{on}"


def chosen(what: str, which: Which, view: StationView) -> str:
    """The id that is meant by an id, or by what it hangs on. Raises Stop where more than one hangs there."""
    there = listed(view, which, "")
    if any(tag.get("id") == what for tag in there):
        return what
    here = [tag for tag in there if tag.get("on") == whole(what, view)]
    if len(here) > 1:
        ids = "\n  ".join(printable(tag_text(tag)) for tag in here)
        raise Stop(Exit.REFUSED, f"more than one hangs on {what}; choose one by its id:\n  {ids}")
    return str(here[0].get("id")) if here else what


async def _done(place: Place, work: Callable[[Desk], Awaitable[Exit]]) -> Exit:
    try:
        async with at_desk(place, points=Points.CATALOG) as desk:
            online(desk)
            return await work(desk)
    except Stop as stop:
        return _stopped(stop)


def _stopped(stop: Stop) -> Exit:
    print(f"gatewayd: {stop}", file=sys.stderr)
    return stop.status


def _told(answer: Answer, done: str, *, as_json: bool) -> Exit:
    fine = answer.reason == Reason.OK
    if as_json:
        print(msgspec.json.encode(_bare(answer)).decode())
    else:
        detail = printable(answer.detail)
        refused = f"refused ({answer.reason}): {detail}" if detail else f"refused: {reason_text(answer.reason)}"
        told = f"{done}: {detail}" if answer.tag else detail or done
        print(told if fine else refused)
    return Exit.OK if fine else Exit.REFUSED


def _bare(answer: Answer) -> Mapping[str, object]:
    known = msgspec.structs.asdict(answer)
    return {key: known[key] for key in ("tx", "stage", "reason", "effect", "tag", "detail") if known[key] != ""}
