"""`gatewayd watch`: the station's points live in a terminal, once as a table, or as lines for a script."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gatewayd.console.mqtt import Broker, NoGateway, find_base
from gatewayd.console.view import Filter, Row, StationView, age_text, as_json
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.problems import printable

REFRESH_S = 0.25
OK, INCOMPLETE, NO_ANSWER = 0, 1, 3

_COLOURS = {"good": "green", "questionable": "yellow", "invalid": "red"}
_LINKS = {"up": "green", "connecting": "yellow", "disabled": "dim"}


class Form(StrEnum):
    """How it is shown."""

    TABLE = "table"
    JSON = "json"


async def watch(settings: MqttSettings, wanted: Filter, *, once: bool, form: Form, wait_s: float) -> int:
    """Show the points until interrupted, or once. settings.base empty: the one gateway on this broker.

    Returns the exit status: OK, INCOMPLETE (once: something had not come within wait_s), NO_ANSWER.
    """
    try:
        base = settings.base or await find_base(settings, wait_s)
    except NoGateway as error:
        print(f"gatewayd watch: {error}", file=sys.stderr)
        return NO_ANSWER
    view = StationView(base)
    changed: dict[str, None] = {}
    wake = asyncio.Event()

    def heard(topic: str, payload: bytes) -> None:
        changed.update(dict.fromkeys(view.feed(topic, payload)))
        wake.set()

    async with Broker(settings, heard) as broker:
        await broker.subscribe(*view.topics())
        if once:
            return await _once(broker, view, wanted, form, wait_s)
        if form is Form.JSON or not sys.stdout.isatty():
            await _lines(broker, view, wanted, changed, wake, form)
        else:
            await live(broker, view, wanted)
    return OK


async def _once(broker: Broker, view: StationView, wanted: Filter, form: Form, wait_s: float) -> int:
    complete = await broker.until(lambda: view.complete, wait_s)
    if view.status is None and not view.records:
        why = broker.trouble or f"nothing is stored under {view.base}/; is the gateway running?"
        print(f"gatewayd watch: {why}", file=sys.stderr)
        return NO_ANSWER
    now = datetime.now(UTC)
    rows = list(view.rows(view.names(wanted), now, connected=broker.connected))
    if form is Form.JSON:
        sys.stdout.buffer.writelines(as_json(row) + b"\n" for row in rows)
        sys.stdout.buffer.flush()
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        console.print(picture(view, rows, broker.trouble))
    if not complete:
        print(f"gatewayd watch: not everything had come after {wait_s:g} s", file=sys.stderr)
        return INCOMPLETE
    return OK


async def _lines(
    broker: Broker, view: StationView, wanted: Filter, changed: dict[str, None], wake: asyncio.Event, form: Form
) -> None:
    """A line for each change; a lost broker or gateway shows in every point's quality."""
    connected = True
    while True:
        wake.clear()
        if broker.connected != connected:
            connected = broker.connected
            changed.update(dict.fromkeys(view.records))
            print(f"gatewayd watch: {broker.trouble or 'connected again'}", file=sys.stderr)
        names = [name for name in changed if wanted(name, view.device_of.get(name, ""))]
        changed.clear()
        for row in view.rows(names, datetime.now(UTC), connected=connected):
            line = as_json(row).decode() if form is Form.JSON else _line(row)
            print(line)
        sys.stdout.flush()
        await broker.until(wake.is_set, 1.0)


async def live(broker: Broker, view: StationView, wanted: Filter, *, screen: bool = True) -> None:
    """The moving table until cancelled."""
    console = Console()
    with Live(console=console, screen=screen, auto_refresh=False, vertical_overflow="crop") as picture_:
        while True:
            now = datetime.now(UTC)
            names = list(view.names(wanted))
            room = max(console.height - 5 - (len(view.links) > 0), 1)
            rows = list(view.rows(names[:room], now, connected=broker.connected))
            picture_.update(picture(view, rows, broker.trouble, more=len(names) - len(rows)), refresh=True)
            await asyncio.sleep(REFRESH_S)


def picture(view: StationView, rows: Sequence[Row], trouble: str, *, more: int = 0) -> RenderableType:
    """The station as something rich can print: gateway, devices, points."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold", expand=False)
    table.add_column("point", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True, min_width=9)
    table.add_column("unit", no_wrap=True)
    table.add_column("quality", no_wrap=True, overflow="ellipsis")
    table.add_column("time", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("device", no_wrap=True)
    tags = {row.point: _tags(view, row.point) for row in rows} if view.tags else {}
    if any(tags.values()):
        table.add_column("tags", no_wrap=True)
    for row in rows:
        colour = _COLOURS.get(row.quality, "red")
        table.add_row(
            row.point,
            Text(row.text, style="bold" if row.quality == "good" else colour),
            printable(row.unit),
            Text(quality_text(row), style=colour),
            _when(row),
            age_text(row.age_s),
            Text(f"{row.device} {row.link}".strip(), style=_LINKS.get(row.link, "red" if row.link else "")),
            *([Text(tags[row.point], style="yellow")] if any(tags.values()) else []),
        )
    parts: list[RenderableType] = [_gateway(view, trouble)]
    if view.links:
        parts.append(_devices(view))
    parts.append(table)
    if more > 0:
        parts.append(Text(f"and {more} more: choose with --device NAME or a pattern such as 'FDR12/*'", style="dim"))
    return Group(*parts)


def _tags(view: StationView, point: str) -> str:
    """What hangs on the point, its bay, its device or the gateway: each kind once."""
    return printable(", ".join(dict.fromkeys(str(tag.get("kind")) for tag in view.tags_of(point))))


def quality_text(row: Row) -> str:
    """`good`, or `questionable: old-data, link-down`."""
    return f"{row.quality}: {', '.join(row.flags)}" if row.flags else row.quality


def _gateway(view: StationView, trouble: str) -> Text:
    text = Text(f"{view.base}  ", style="bold", no_wrap=True)
    if trouble:
        return text.append(f"BROKER LOST: {printable(trouble)}", style="bold red")
    if view.status is None:
        return text.append("no status: the gateway has never reported here", style="bold red")
    if not view.online:
        return text.append(f"gateway OFFLINE since about {view.status.time}", style="bold red")
    text.append("online", style="green")
    text.append(f"  gatewayd {printable(view.status.version)}, events up to {view.status.newest}", style="")
    if view.status.clock.get("synchronised") is False:
        text.append("  its clock is not synchronised", style="yellow")
    return text


def _devices(view: StationView) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for name, link in sorted(view.links.items()):
        text.append(f"{name} ")
        text.append(link.link, style=_LINKS.get(link.link, "red"))
        text.append(f" ({printable(link.cause)})   " if link.cause and link.link != "up" else "   ")
    return text


def _when(row: Row) -> str:
    if row.age_s is None:
        return ""
    mark = "" if row.t_src == "device" and row.t_sync == "yes" else "~"
    return f"{row.t[11:23].rstrip('Z')}{mark}"


def _line(row: Row) -> str:
    unit = f" {printable(row.unit)}" if row.unit else ""
    return f"{row.t[:23] or '-':<23} {row.point} {row.text}{unit} {quality_text(row)}"
