"""`gatewayd status`: the whole gateway on one screen, and whether anything needs attention."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gatewayd.console.ask import NoAnswer, ask
from gatewayd.console.mqtt import Broker
from gatewayd.console.view import StationView, age_text
from gatewayd.console.words import tag_text
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.problems import printable

OK, ATTENTION, NO_ANSWER = 0, 1, 3
BACKLOG = 1000
"""More events than this that no broker has taken are worth a look."""
LAG_MS = 1000.0
FEW = 20
"""Of more links only those that are not up are shown one by one."""
DISK_LOW = 256 * 2**20
JOURNAL_SHARE = 0.8


class Picture(NamedTuple):
    """What there is to show, and what needs attention."""

    lines: list[str]
    attention: list[str]


async def status(settings: MqttSettings, *, as_json: bool, wait_s: float) -> int:
    """Print the picture. Returns 0 all well, 1 something needs attention, 3 no answer."""
    try:
        base, health = await ask(settings, {"ask": "health"}, wait_s)
    except NoAnswer as error:
        print(f"gatewayd status: {error}", file=sys.stderr)
        return NO_ANSWER
    view = StationView(base)
    async with Broker(settings, lambda topic, payload: _feed(view, topic, payload)) as broker:
        await broker.subscribe(*view.topics())
        await broker.until(lambda: view.complete, wait_s)
        await asyncio.sleep(0)
    picture = draw(view, health, datetime.now(UTC))
    if as_json:
        body = {"base": base, "attention": picture.attention, "health": health}
        body["links"] = {name: {"link": link.link, "cause": link.cause} for name, link in view.links.items()}
        print(json.dumps(body))
    else:
        print("\n".join(printable(line) for line in picture.lines))
        for line in picture.attention:
            print(printable(f"ATTENTION: {line}"))
        if not picture.attention:
            print("nothing needs attention")
    return ATTENTION if picture.attention else OK


def _feed(view: StationView, topic: str, payload: bytes) -> None:
    view.feed(topic, payload)


def draw(view: StationView, health: dict[str, Any], now: datetime) -> Picture:
    """The screen and what is wrong, from what the gateway published and answered. Pure."""
    picture = Picture([], [])
    _gateway(view, health, picture)
    _links(view, now, picture)
    _points(view, now, picture)
    _journal(health, picture)
    _control(health.get("control") or {}, picture)
    _certificates(health.get("certificates") or [], picture)
    _processes(health, picture)
    return picture


def _gateway(view: StationView, health: dict[str, Any], picture: Picture) -> None:
    known = view.status
    version = known.version if known else "?"
    picture.lines.append(f"gateway      {view.base}, version {version}, {known.state if known else 'unknown'}")
    clock = known.clock if known else {}
    synchronised = clock.get("synchronised")
    error = f", estimated error {clock['est_error_ms']:.1f} ms" if synchronised and "est_error_ms" in clock else ""
    words = {True: "synchronised", False: "NOT synchronised", None: "not known to be synchronised"}
    picture.lines.append(
        f"clock        {words.get(synchronised, '?')}{error}; gateway's time {_to_ms(health.get('time', '?'))}"
    )
    if synchronised is not True:
        picture.attention.append(
            "the gateway's clock is not synchronised: times are uncertain, direct commands refused, devices get no time"
        )
    if not view.online:
        picture.attention.append("the gateway is not online")


def _links(view: StationView, now: datetime, picture: Picture) -> None:
    up = sum(link.link == "up" for link in view.links.values())
    off = sum(link.link == "disabled" for link in view.links.values())
    picture.lines.append(f"links        {up} of {len(view.links)} up{f', {off} disabled' if off else ''}")
    for name, link in sorted(view.links.items()):
        if link.link == "up" and len(view.links) > FEW:
            continue
        since = age_text(_seconds(link.since, now))
        cause = f": {link.cause}" if link.cause else ""
        picture.lines.append(f"link         {name:<12} {link.link:<10} {link.protocol:<9} for {since}{cause}")
        if link.link not in ("up", "disabled"):
            picture.attention.append(f"{name} is {link.link}{cause}")


def _points(view: StationView, now: datetime, picture: Picture) -> None:
    rows = list(view.rows(view.names(), now))
    counts = Counter(row.quality for row in rows)
    shown = ", ".join(
        f"{counts[quality]} {quality}" for quality in ("good", "questionable", "invalid") if counts[quality]
    )
    picture.lines.append(f"points       {len(rows)}: {shown or 'none'}")
    up = {name for name, link in view.links.items() if link.link == "up"}
    invalid = [row.point for row in rows if row.quality == "invalid" and row.device in up]
    if invalid:
        are = "point is" if len(invalid) == 1 else "points are"
        why = f"why: gatewayd explain {invalid[0]}"
        picture.attention.append(f"{len(invalid)} {are} invalid although the device is up: {_some(invalid)}; {why}")
    forced = [row.point for row in rows if "substituted" in row.flags]
    test = [row.point for row in rows if "test" in row.flags]
    if forced:
        picture.lines.append(f"forced       {_some(forced)}")
        picture.attention.append(f"{len(forced)} points show a substituted value: {_some(forced)}")
    if test:
        picture.attention.append(f"{len(test)} points are under test: {_some(test)}")


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _journal(health: dict[str, Any], picture: Picture) -> None:
    journal = health.get("journal") or {}
    backlog = int(journal.get("backlog", 0))
    used, limit = int(journal.get("used_bytes", 0)), int(journal.get("limit_bytes", 0))
    share = used / limit if limit else 0.0
    picture.lines.append(
        f"journal      events {health.get('oldest')} to {health.get('newest')}, {backlog} not handed over, "
        f"{used / 2**20:.1f} of {limit / 2**20:.0f} MiB"
    )
    if journal.get("broken"):
        picture.attention.append("the journal cannot write: events wait in the devices, commands are refused")
    if journal.get("full") and used < limit:
        picture.attention.append("the disk has no room for the journal's events: they wait in the devices")
    elif journal.get("full"):
        picture.attention.append("the journal is full of events no broker has taken: events wait in the devices")
    elif backlog > BACKLOG:
        picture.attention.append(f"{backlog} events have not been taken by the broker yet")
    elif share > JOURNAL_SHARE and backlog:
        picture.attention.append(f"the journal is {share:.0%} full")
    free = journal.get("free_bytes")
    if free is not None and free < DISK_LOW:
        picture.attention.append(f"{free / 2**20:.0f} MiB are left on the journal's disk")
    lost = int((health.get("datapath") or {}).get("gaps", 0)) + int(journal.get("gap_records", 0))
    if lost:
        picture.attention.append(f"events were lost or held {lost} times since the start; the gap records say which")
    for name, count in (health.get("consumers") or {}).items():
        if name.startswith("behind_"):
            picture.lines.append(f"consumer     {name.removeprefix('behind_')}: {count} events not acknowledged")


def _control(control: dict[str, Any], picture: Picture) -> None:
    counts = control.get("counts") or {}
    for what, word in (("selects", "selected"), ("operations", "under way"), ("holds", "held")):
        for one in control.get(what, ()):
            value = json.dumps(one.get("value"))
            left = f", {one['left_s']:.0f} s left" if one.get("left_s") is not None else ""
            picture.lines.append(f"{word:<12} {one.get('point')} -> {value} by {one.get('operator')}{left}")
        _rest(counts, control, what, picture)
    for one in control.get("holds", ()):
        picture.attention.append(
            f"{one.get('point')} may have moved: look at it; held until it is clear what became of it"
        )
    for what, word in (("tags", "tag"), ("inhibits", "inhibited")):
        for one in control.get(what, ()):
            picture.lines.append(f"{word:<12} {tag_text(one)}")
        _rest(counts, control, what, picture)
    if any(one.get("on") == "gateway" for one in control.get("inhibits", ())):
        picture.attention.append("commands are inhibited for the whole gateway")
    if trouble := control.get("trouble"):
        picture.attention.append(f"commands are refused: {trouble}")
    if audit := control.get("audit"):
        picture.lines.append(f"audit        {audit.get('n')} records, the last one {str(audit.get('hash'))[:16]}…")


def _rest(counts: dict[str, int], control: dict[str, Any], what: str, picture: Picture) -> None:
    """What was too much for one answer."""
    if (more := counts.get(what, 0) - len(control.get(what, ()))) > 0:
        picture.lines.append(f"{'':<12} and {more} more {what}")


def _certificates(certificates: list[dict[str, Any]], picture: Picture) -> None:
    for one in certificates:
        picture.lines.append(
            f"certificate  {one.get('file')}: {one.get('subject', '')} until {one.get('not_after', '?')}"
        )
        if one.get("trouble"):
            picture.attention.append(f"certificate {one.get('file')}: {one['trouble']}")


def _processes(health: dict[str, Any], picture: Picture) -> None:
    for name, one in (health.get("processes") or {}).items():
        picture.lines.append(
            f"process      {name:<12} {one.get('rss_mib', 0):.0f} MiB, {one.get('threads', 0)} threads, "
            f"{one.get('cpu_s', 0):.0f} s of CPU"
        )
    restarts = (health.get("workers") or {}).get("restarts", 0)
    if restarts:
        picture.attention.append(f"workers were restarted {restarts} times since the start; the log says why")
    lag = (health.get("loop") or {}).get("lag_max_ms", 0.0)
    if lag > LAG_MS:
        picture.attention.append(f"the gateway was {lag / 1000:.1f} s late at its worst: is the machine overloaded?")


def _to_ms(time: str) -> str:
    head, dot, fraction = time.partition(".")
    return f"{head}.{fraction[:3]}Z" if dot else time


def _seconds(since: str, now: datetime) -> float | None:
    try:
        return max((now - datetime.fromisoformat(since)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None
