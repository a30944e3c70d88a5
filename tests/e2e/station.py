"""A whole station for tests: a real mosquitto, three simulated devices on one feeder, the daemon as a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gatewayd.console.demo import configured
from simulators.dnp3_feeder import Dnp3Feeder
from simulators.iec61850_bay import Iec61850Bay
from simulators.modbus_meter import ModbusMeter
from simulators.model import Feeder
from simulators.station import station as devices
from tests.brokers import Mosquitto, killed, until
from tests.mqtt.support import Console, console

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ("FDR12", "BAY1", "MTR3")
PROTOCOLS = {"FDR12": "dnp3", "BAY1": "iec61850", "MTR3": "modbus"}
BREAKERS = {name: f"{name}/CB/POS" for name in DEVICES}


class Gateway:
    """`gatewayd run` as a child process; its log is a file. Started, stopped and killed as often as a test likes."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder = folder
        self.config = config
        self.environment: dict[str, str] = {}
        self.process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        path = self.folder / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def start(self, *options: str) -> None:
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gatewayd", "run", "-c", str(self.config), *options),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **self.environment},
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        process, self.process = self.process, None
        assert process is not None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(process.wait(), 30)

    async def kill(self) -> None:
        process, self.process = self.process, None
        await killed(process)

    def workers(self) -> dict[str, int]:
        """Process ids of the workers by protocol: which of our children has which stack loaded."""
        found = {}
        for pid in children(self.pid):
            with contextlib.suppress(OSError):
                maps = Path(f"/proc/{pid}/maps").read_text()
                for protocol, mark in (("dnp3", "opendnp3"), ("iec61850", "libiec61850")):
                    if mark in maps:
                        found[protocol] = pid
        left = set(children(self.pid)) - set(found.values())
        if left:
            found["modbus"] = left.pop()
        return found


def children(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


class Operator:
    """A control room: sends requests as MQTT says and gathers the answers."""

    def __init__(self, console: Console, name: str = "alice") -> None:
        self.console = console
        self.name = name

    async def ask(self, stage: str, **body: Any) -> str:
        tx = body.setdefault("tx", str(uuid.uuid4()))
        if stage != "cancel":
            expires = datetime.now(UTC) + timedelta(seconds=30)
            body.setdefault("expires_at", expires.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
        await self.console.publish(f"cmd/{self.name}/{stage}", body)
        return str(tx)

    def answers(self, tx: str) -> list[dict[str, Any]]:
        return [m.body for m in self.console.on(f"reply/{self.name}") if m.body.get("tx") == tx]

    async def answer(self, tx: str, result: str, deadline_s: float = 20.0) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [answer for answer in self.answers(tx) if answer["result"] in (result, "done")]
            return bool(found)

        await until(there, f"an answer to {tx}: {self.answers(tx)}", deadline_s)
        return found[0]

    async def select(self, point: str, value: Any) -> dict[str, Any]:
        return await self.answer(await self.ask("select", point=point, value=value), "selected")

    async def sbo(self, point: str, value: Any) -> dict[str, Any]:
        """Select and operate; the last answer to the operate."""
        selected = await self.select(point, value)
        assert selected["result"] == "selected", selected
        tx = await self.ask("operate", point=point, value=value, select_id=selected["select_id"])
        return await self.answer(tx, "done")


class Station:
    """Everything together. `console` hears all of `gw/test/#`."""

    def __init__(
        self,
        folder: Path,
        broker: Mosquitto,
        gateway: Gateway,
        console: Console,
        feeder: Feeder,
        rtu: Dnp3Feeder,
        bay: Iec61850Bay,
        meter: ModbusMeter,
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.gateway = gateway
        self.console = console
        self.feeder, self.rtu, self.bay, self.meter = feeder, rtu, bay, meter
        self.operator = Operator(console)

    def point(self, name: str) -> dict[str, Any]:
        """The newest record of a point, from all state messages and retained points."""
        return self.points().get(name, {})

    def points(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for message in self.console.heard:
            if message.topic.startswith("gw/test/state/"):
                for record in message.body["points"]:
                    found[record["point"]] = record
            elif message.topic.startswith("gw/test/point/") and message.payload:
                record = message.body
                found.setdefault(record["point"], record)
        return found

    def link(self, device: str) -> str:
        return str((self.console.last(f"device/{device}") or {}).get("link"))

    def good(self, device: str) -> bool:
        points = {name: record for name, record in self.points().items() if name.startswith(f"{device}/")}
        return bool(points) and all(record["quality"] == "good" for record in points.values())

    async def all_good(self, *names: str, deadline_s: float = 30.0) -> None:
        wanted = names or DEVICES
        await until(
            lambda: all(self.link(name) == "up" and self.good(name) for name in wanted),
            f"all good: {[(n, self.link(n)) for n in wanted]}\n{self.gateway.log[-3000:]}",
            deadline_s,
        )

    def samples_of(self, device: str) -> int:
        """State records heard of a device so far: data goes on when it grows."""
        return sum(len(m.body["points"]) for m in self.console.on(f"state/{device}"))


def write_config(
    folder: Path, url: str, ports: Mapping[str, int], change: Callable[[str], str] = lambda text: text
) -> Path:
    """etc/demo with these places, as the gateway `test`."""
    source = ROOT / "etc" / "demo"
    (folder / "points").mkdir(exist_ok=True)
    for path in (source / "points").iterdir():
        (folder / "points" / path.name).write_text(path.read_text())
    text = configured((source / "gatewayd.toml").read_text(), url, str(folder / "state"), ports)
    path = folder / "gatewayd.toml"
    path.write_text(change(text.replace('name = "demo"', 'name = "test"')))
    return path


@contextlib.asynccontextmanager
async def whole_station(
    folder: Path, *, change: Callable[[str], str] = lambda text: text, start: bool = True
) -> AsyncIterator[Station]:
    async with (
        Mosquitto(folder / "broker") as broker,
        devices() as (feeder, rtu, bay, meter),
        console(broker.url) as listener,
    ):
        ports = {"dnp3": rtu.port, "iec61850": bay.port, "modbus": meter.port}
        gateway = Gateway(folder, write_config(folder, broker.url, ports, change))
        made = Station(folder, broker, gateway, listener, feeder, rtu, bay, meter)
        try:
            if start:
                await gateway.start()
                await made.all_good()
            yield made
        finally:
            await gateway.kill()
