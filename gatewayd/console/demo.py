"""`gatewayd demo`: a broker, three simulated devices, the gateway, and what a console sees of it all.

Only the command line's way of starting things is special; what is shown and done goes over MQTT.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from gatewayd.config import ConfigError, load
from gatewayd.console.control import How, Order, control
from gatewayd.console.mqtt import Broker
from gatewayd.console.operator import Exit
from gatewayd.console.processes import START_S, DemoFailed, Processes, start_broker
from gatewayd.console.view import Filter, Row, StationView
from gatewayd.console.watch import live, picture
from gatewayd.mqtt.settings import MqttSettings

ROOT = Path(__file__).resolve().parents[2]
"""The source checkout, where the simulators and etc/demo are."""
GOOD_S = 30.0
"""From the start of the gateway until every point is good, at most."""
FEEDERS = ("dnp3", "iec61850", "modbus")
BREAKER, TARGET, OPERATOR = "FDR12/CB/POS", "open", "demo"
FLOWS = ("FDR12/MMXU/I", "FDR12/MMXU/P", "BAY1/MMXU/P", "MTR3/I", "MTR3/P")
"""What must be zero everywhere once the breaker is open."""
SEEN_S = 10.0
"""Until what follows from the command is heard, at most: the zeros, the events."""


class Outcome(NamedTuple):
    """What the demo can say at its end; mistakes empty means all was as it should be."""

    lines: list[str]
    mistakes: list[str]


async def demo(*, port: int, seconds: float | None) -> int:
    """Run the demo for so long, or until interrupted. Returns the exit status: 0 all well, 1 not, 3 not started."""
    if not (ROOT / "simulators" / "station.py").exists() or not (ROOT / "etc" / "demo").is_dir():
        print(
            "gatewayd demo: the simulated devices are part of the source checkout, not of the installed package; "
            "there: make demo",
            file=sys.stderr,
        )
        return 3
    with tempfile.TemporaryDirectory(prefix="gatewayd-demo-") as name:
        try:
            return await _demo(Path(name), port=port, seconds=seconds)
        except DemoFailed as error:
            print(f"gatewayd demo: {error}", file=sys.stderr)
            return 3
        except asyncio.CancelledError:
            if seconds is not None:
                raise
            return 0  # Ctrl-C is how this one ends


async def _demo(folder: Path, *, port: int, seconds: float | None) -> int:
    url = f"mqtt://127.0.0.1:{port}"
    started = asyncio.get_running_loop().time()
    async with Processes(folder) as processes:
        broker_name = await start_broker(processes, folder, port)
        print(f"broker    {broker_name} on {url}", flush=True)
        ports = await start_station(processes, ROOT)
        print("devices   " + ", ".join(f"{name} on port {ports[name]}" for name in FEEDERS), flush=True)
        config = write_config(ROOT / "etc" / "demo", folder, url, ports)
        await processes.start("gateway", [sys.executable, "-m", "gatewayd", "run", "-c", str(config)], cwd=folder)
        print(f"gateway   {config}, log {processes.log('gateway')}", flush=True)
        station = load(config)
        settings = MqttSettings(url=url, base=f"gw/{station.gateway.name}")
        devices = {device.name for device in station.devices}
        view = StationView(settings.base)

        def heard(topic: str, payload: bytes) -> None:
            view.feed(topic, payload)

        async with Broker(settings, heard) as broker:
            await broker.subscribe(*view.topics())
            all_good = await _until_good(broker, view, processes, devices)
            _hint(url)
            try:
                if seconds is None:
                    await _show(broker, view, processes, None)
                    status = 0
                else:
                    command = await _breaker(broker, view, settings)
                    left = seconds - (asyncio.get_running_loop().time() - started)
                    await _show(broker, view, processes, max(left, 0.0))
                    await broker.until(lambda: view.events and view.state_messages, SEEN_S)
                    status = _report(summary(view, connected=broker.connected, all_good=all_good, command=command))
            except asyncio.CancelledError:  # Ctrl-C: the counts, then the end
                _report(summary(view, connected=broker.connected, all_good=all_good, command=None))
                raise
        if status != 0:
            print(f"the gateway's last words{processes.last_words('gateway')}")
        ended = await processes.end("gateway")
        if seconds is not None and ended != 0:
            print(f"NOT AS IT SHOULD BE: the gateway ended with status {ended}{processes.last_words('gateway')}")
            return 1
    return status


# --- starting ---------------------------------------------------------------------------------------------------


async def start_station(processes: Processes, root: Path) -> dict[str, int]:
    """The three devices on one feeder model, on free ports; the ports by protocol. Raises DemoFailed."""
    command = [sys.executable, "-m", "simulators.station"]
    command += [word for name in FEEDERS for word in (f"--{name}-port", "0")]
    process = await processes.start("devices", command, cwd=root, read=True)
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        ports = json.loads(line)
        return {name: int(ports[name]) for name in FEEDERS}
    except (TimeoutError, ValueError, KeyError, TypeError):
        raise DemoFailed(f"the simulated devices did not start{processes.last_words('devices')}") from None


def write_config(source: Path, folder: Path, url: str, ports: Mapping[str, int]) -> Path:
    """A copy of etc/demo with this broker, these ports and a state folder of its own. Raises DemoFailed."""
    shutil.copytree(source / "points", folder / "points")
    path = folder / "gatewayd.toml"
    path.write_text(configured((source / "gatewayd.toml").read_text(), url, str(folder / "state"), ports))
    try:
        load(path)
    except ConfigError as error:
        raise DemoFailed(f"the demo configuration has mistakes:\n{error}") from None
    return path


def configured(text: str, url: str, state_dir: str, ports: Mapping[str, int]) -> str:
    """The demo configuration with these places: url, state_dir, and each device's port by its protocol."""
    protocol = ""
    lines = []
    for line in text.splitlines():
        if found := re.match(r'protocol = "(\w+)"', line):
            protocol = found[1]
        if line.startswith("url = "):
            line = f"url = {json.dumps(url)}"  # noqa: PLW2901
        elif line.startswith("state_dir = "):
            line = f"state_dir = {json.dumps(state_dir)}"  # noqa: PLW2901
        elif line.startswith("port = ") and protocol in ports:
            line = f"port = {ports[protocol]}"  # noqa: PLW2901
        lines.append(line)
    return "\n".join(lines) + "\n"


# --- showing ----------------------------------------------------------------------------------------------------


def _hint(url: str) -> None:
    print(
        "\nTry in another terminal:\n"
        f"  .venv/bin/gatewayd watch --url {url} 'FDR12/*'\n"
        f"  .venv/bin/gatewayd control --url {url} {BREAKER} closed\n"
        f"  .venv/bin/gatewayd sweep --url {url}\n"
        f"  mosquitto_sub -V 5 -p {url.rpartition(':')[2]} -t 'gw/demo/#' -v\n",
        flush=True,
    )


async def _until_good(broker: Broker, view: StationView, processes: Processes, devices: set[str]) -> bool:
    loop = asyncio.get_running_loop()
    started = loop.time()

    def ready() -> bool:
        here = view.complete and view.online and devices <= view.links.keys()
        return here and all(row.quality == "good" for row in _rows(view, connected=True))

    while not await broker.until(ready, 1.0):
        processes.check()
        if loop.time() - started > GOOD_S:
            return False
    print(
        f"all {len(view.catalog)} points good {loop.time() - started:.1f} s after the gateway was started", flush=True
    )
    return True


async def _show(broker: Broker, view: StationView, processes: Processes, seconds: float | None) -> None:
    """Live values for so long; in a pipe one table at the end. Raises DemoFailed when a process ends by itself."""
    showing = None
    if sys.stdout.isatty():
        showing = asyncio.create_task(live(broker, view, Filter(), screen=seconds is None))
    try:
        async with asyncio.timeout(seconds):
            while showing is None or not showing.done():
                processes.check()
                await asyncio.sleep(0.5)
            showing.result()
    except TimeoutError:
        if showing is None:
            Console(width=140).print(picture(view, _rows(view, connected=broker.connected), broker.trouble))
    finally:
        if showing is not None:
            showing.cancel()
            await asyncio.wait({showing})


async def _breaker(broker: Broker, view: StationView, settings: MqttSettings) -> list[str]:
    """One select-before-operate; what was not as it should be afterwards."""
    before = view.row(BREAKER, datetime.now(UTC)).text
    print(f"select-before-operate: {BREAKER} from {before} to {TARGET}", flush=True)
    order = Order(BREAKER, TARGET, OPERATOR, how=How.SELECT_OPERATE, yes=True)
    status = await control(settings, order)
    if status is not Exit.OK:
        return [f"the command on {BREAKER} ended {status.name.lower()}"]

    def flowing() -> list[str]:
        rows = view.rows(FLOWS, datetime.now(UTC))
        return [f"{row.point} {row.text} {row.unit}" for row in rows if row.value != 0]

    await broker.until(lambda: not flowing(), SEEN_S)
    if still := flowing():
        return [f"the breaker is open, but not zero after {SEEN_S:g} s: {', '.join(still)}"]
    print(f"the breaker is open and nothing flows: {', '.join(FLOWS)} are zero", flush=True)
    return []


def _rows(view: StationView, *, connected: bool) -> list[Row]:
    return list(view.rows(view.names(), datetime.now(UTC), connected=connected))


def summary(view: StationView, *, connected: bool, all_good: bool, command: list[str] | None) -> Outcome:
    """Points good per device, what was published, what is wrong. command: its mistakes, None without one."""
    rows = _rows(view, connected=connected)
    total = Counter(row.device for row in rows)
    good = Counter(row.device for row in rows if row.quality == "good")
    lines = [f"{device:<10} {good[device]} of {total[device]} points good" for device in total]
    lines.append(f"published  {view.events} events, {view.state_messages} state messages")
    mistakes = list(command or [])
    mistakes += [
        f"{row.point} is {row.quality} {', '.join(row.flags)}".rstrip() for row in rows if row.quality != "good"
    ]
    if not rows:
        mistakes.append("no points")
    if not all_good:
        mistakes.append(f"not all points were good within {GOOD_S:g} s")
    if not view.online:
        mistakes.append("the gateway is not online")
    if not view.events:
        mistakes.append("no events")
    if not view.state_messages:
        mistakes.append("no state messages")
    if view.odd_messages:
        mistakes.append(f"{view.odd_messages} messages were not understood")
    if command is not None:
        lines.append(f"command    {BREAKER} {TARGET}: {'ok, proved by the feedback' if not command else 'not ok'}")
    return Outcome(lines, mistakes)


def _report(outcome: Outcome) -> int:
    print()
    for line in outcome.lines:
        print(line)
    for mistake in outcome.mistakes:
        print(f"NOT AS IT SHOULD BE: {mistake}")
    sys.stdout.flush()
    return 1 if outcome.mistakes else 0
