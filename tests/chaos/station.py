"""The whole station under test: three devices, broker, gateway and consumer as processes, a proxy on every line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from tests.brokers import Mosquitto, free_port, killed
from tests.chaos.ledger import Books
from tests.chaos.oracle import Offer, Row, row
from tests.chaos.proxy import Proxy
from tests.e2e import station as e2e
from tests.e2e.station import ROOT, alive, children

RTU1, RTU2, IED = "RTU1", "RTU2", "IED1"
DEVICES = (RTU1, RTU2, IED)
RATES = {RTU1: 150, RTU2: 150, IED: 20}
CAPACITIES = {RTU1: 6000, RTU2: 6000, IED: 2000}
QUIET_S = 1.5
"""So long after the last expected event nothing more may come before a round is judged."""

CONFIG = """\
[gateway]
name = "chaos"
state_dir = "{state}"

[mqtt]
url = "mqtt://127.0.0.1:{broker}"
keepalive_s = 5
reconnect_max_s = 2

[journal]
keep = "1d"
max_size = "1GB"
consumers = ["chaos"]

[[device]]
name = "RTU1"
protocol = "dnp3"
host = "127.0.0.1"
port = {RTU1}
points = "rtu1.csv"
[device.dnp3]
unsolicited = true
event_poll_s = 2
response_timeout_s = 2
connect_timeout_s = 2
keepalive_s = 2

[[device]]
name = "RTU2"
protocol = "dnp3"
host = "127.0.0.1"
port = {RTU2}
points = "rtu2.csv"
[device.dnp3]
unsolicited = false
event_poll_s = 0.2
response_timeout_s = 2
connect_timeout_s = 2
keepalive_s = 2

[[device]]
name = "IED1"
protocol = "iec61850"
host = "127.0.0.1"
port = {IED1}
points = "ied1.csv"
[device.iec61850]
reports = ["CHAOSLD0/LLN0.BR.brcbEV"]
timeout_s = 2
connect_timeout_s = 2
keepalive_s = 2
"""


class Gateway(e2e.Gateway):
    """The daemon; `start` takes variables of the environment for this life only."""

    async def start(self, *options: str, **environment: str) -> None:
        self.environment = environment
        await super().start(*options)

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.returncode is not None


class Simulator:
    """One device as a process, and its books."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.books = Books(folder / f"{name}.ledger")
        self._folder = folder
        self._module = "tests.chaos.ied" if name == IED else "tests.chaos.rtu"
        self._process: asyncio.subprocess.Process | None = None
        self.rate = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *, keep: bool = False) -> None:
        options = ["--port", str(self.port), "--ledger", str(self.books.path)]
        options += ["--capacity", str(CAPACITIES[self.name]), *(["--keep"] if keep else [])]
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self._module, *options),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        self.tell(rate=self.rate)

    def tell(self, **what: float) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self.rate = int(what.get("rate", self.rate))
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")

    async def kill(self) -> None:
        process, self._process = self._process, None
        await killed(process)


class Consumer:
    """examples/consumer.py as a process, with what it has stored."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self.database = folder / "consumer.db"
        self._process: asyncio.subprocess.Process | None = None
        self._read = 0
        self._epochs: list[str] = []
        self.rows: list[Row] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        command = ["examples/consumer.py", "--url", f"mqtt://127.0.0.1:{self._port}", "--base", "gw/chaos"]
        with (self._folder / "consumer.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, *command, "--name", "chaos", "--database", str(self.database)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    async def kill(self) -> None:
        process, self._process = self._process, None
        await killed(process)

    def read(self) -> list[Row]:
        """What has been stored since the last time."""
        if not self.database.exists():
            return []
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=5)) as db:
                found = db.execute(
                    "SELECT rowid, epoch, seq, event FROM events WHERE rowid > ? ORDER BY rowid", (self._read,)
                ).fetchall()
        except sqlite3.OperationalError:  # not made yet
            return []
        fresh = []
        for number, epoch, seq, text in found:
            self._read = number
            if epoch not in self._epochs:
                self._epochs.append(epoch)
            fresh.append(row(self._epochs.index(epoch), seq, text))
        self.rows += fresh
        return fresh


class Station:
    """Everything together. kills: processes ended by SIGKILL so far."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.kills = 0
        self.state = folder / "state"
        self.broker = Mosquitto(
            folder / "broker",
            persistence=True,
            max_inflight=100,
            # few: what the broker drops must be asked for again
            options=["max_queued_messages 100"],
        )
        self.simulators = {name: Simulator(folder, name) for name in DEVICES}
        self.lines = {name: Proxy(simulator.port, self.chance) for name, simulator in self.simulators.items()}
        self.to_broker = Proxy(self.broker.port, self.chance)
        self.to_consumer = Proxy(self.broker.port, self.chance)
        self.gateway = Gateway(folder, folder / "gatewayd.toml")
        self.consumer: Consumer
        self._frozen: set[int] = set()
        self.rows_judged = 0
        self._offered: dict[str, int] = dict.fromkeys(DEVICES, 0)
        self.excused: dict[str, set[int]] = {name: set() for name in DEVICES}

    @property
    def proxies(self) -> list[Proxy]:
        return [*self.lines.values(), self.to_broker, self.to_consumer]

    async def start(self) -> None:
        await self.broker.start()
        for proxy in self.proxies:
            await proxy.start()
        for simulator in self.simulators.values():
            await simulator.start()
        self._write_config()
        self.consumer = Consumer(self.folder, self.to_consumer.port)
        await self.consumer.start()
        await self.gateway.start()

    def _write_config(self) -> None:
        self.state.mkdir(exist_ok=True)
        ports = {name: proxy.port for name, proxy in self.lines.items()}
        self.gateway.config.write_text(CONFIG.format(state=self.state, broker=self.to_broker.port, **ports))
        for name in DEVICES:
            address = "CHAOSLD0/GGIO1.IntIn{}" if name == IED else "AI:{}"
            lines = [f"{name}/N{at},analog,{address.format(at + (name == IED))},yes" for at in range(8)]
            (self.folder / f"{name.lower()}.csv").write_text("\n".join(["point,kind,address,event", *lines]) + "\n")

    async def close(self) -> None:
        self.heal()
        await self.gateway.kill()
        if hasattr(self, "consumer"):
            await self.consumer.kill()
        for simulator in self.simulators.values():
            await simulator.kill()
        for proxy in self.proxies:
            await proxy.close()
        await self.broker.kill()

    # load
    def load(self, share: float = 1.0, *names: str) -> None:
        """Have the devices make events, at a share of their usual rates; 0: none."""
        for name in names or DEVICES:
            self.simulators[name].tell(rate=RATES[name] * share)

    def newest(self, name: str) -> int:
        return self.simulators[name].books.read().newest

    async def made(self, count: int, deadline_s: float = 30.0) -> None:
        """Wait until the devices have made so many more events."""
        before = sum(map(self.newest, DEVICES))
        await self.until(lambda: sum(map(self.newest, DEVICES)) - before >= count, "events being made", deadline_s)

    async def flows(self, *names: str, deadline_s: float = 60.0) -> None:
        """Wait until the consumer has something of each of these devices that was made after this call."""
        wanted = {name: self.newest(name) for name in names or DEVICES}

        def got() -> bool:
            self.consumer.read()
            return all(self._last(name) > newest for name, newest in wanted.items())

        await self.until(got, f"events of {', '.join(wanted)} at the consumer", deadline_s)

    def _last(self, name: str) -> int:
        for one in reversed(self.consumer.rows):
            if str(one.event.get("point", "")).startswith(f"{name}/"):
                return int(one.event.get("value") or 0)
        return 0

    async def until(self, condition: Callable[[], object], what: str, deadline_s: float = 30.0) -> None:
        """Wait for a condition. Raises TimeoutError with its name and the end of the gateway's log."""
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > deadline:
                said = "\n".join(self.gateway.log.splitlines()[-5:])
                raise TimeoutError(f"not within {deadline_s:g} s: {what}; the gateway's log ends with\n{said}")
            await asyncio.sleep(0.05)

    async def pause(self, least: float, most: float) -> None:
        """A time that chance decides: when a fault strikes."""
        await asyncio.sleep(self.chance.uniform(least, most))

    # faults
    async def kill_gateway(self) -> None:
        workers = [] if self.gateway.ended else children(self.gateway.pid)
        self.kills += not self.gateway.ended
        await self.gateway.kill()
        await self.until(lambda: not any(map(alive, workers)), "the workers end with the core")

    async def restart_gateway(self) -> None:
        await self.kill_gateway()
        await self.gateway.start()

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.kills += 1

    async def kill_device(self, name: str, *, keep: bool = False) -> None:
        """Kill a simulator and start it again. keep: its buffer survives."""
        await self.simulators[name].kill()
        self.kills += 1
        await self.simulators[name].start(keep=keep)

    async def kill_broker(self, *, forget: bool = False) -> None:
        await self.broker.kill()
        self.kills += 1
        if forget:
            (self.broker.folder / "mosquitto.db").unlink(missing_ok=True)
        await self.broker.start()

    def freeze(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self._frozen.add(pid)

    def thaw(self) -> None:
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._frozen.clear()

    def heal(self) -> None:
        self.thaw()
        for proxy in self.proxies:
            proxy.heal()

    # what the oracle needs
    def offers(self) -> dict[str, Offer]:
        """What was offered since the last time this was asked."""
        found = {}
        for name, simulator in self.simulators.items():
            books = simulator.books.read()
            first, self._offered[name] = self._offered[name], books.newest
            events = {n: ms for n, ms in books.offered.items() if n > first}
            dropped = books.dropped if name != IED else set()
            found[name] = Offer(events, frozenset(dropped | self.excused[name]))
        return found

    def all_offers(self) -> dict[str, Offer]:
        self._offered = dict.fromkeys(DEVICES, 0)
        return self.offers()

    def excuse(self, name: str, since_ms: int, until_ms: int) -> None:
        """What this device made in that time may be lost by the device's own fault."""
        books = self.simulators[name].books.read()
        self.excused[name] |= {n for n, ms in books.offered.items() if since_ms <= ms <= until_ms}

    def excuse_dropped(self, name: str, first: int) -> int:
        """What the device's buffer has dropped from this number on is its own fault; how many."""
        dropped = {n for n in self.simulators[name].books.read().dropped if n >= first}
        self.excused[name] |= dropped
        return len(dropped)

    async def drain(self, deadline_s: float) -> None:
        """Wait until the consumer has everything and nothing more comes; give up after the deadline."""
        deadline = time.monotonic() + deadline_s
        wanted = {
            (name, n)
            for name, simulator in self.simulators.items()
            for n in simulator.books.read().offered.keys() - simulator.books.dropped - self.excused[name]
            if n > self._offered[name]
        }
        at = 0
        quiet_since = time.monotonic()
        while time.monotonic() < deadline and (wanted or time.monotonic() - quiet_since < QUIET_S):
            self.consumer.read()
            rows = self.consumer.rows
            if at < len(rows):
                quiet_since = time.monotonic()
            for one in rows[at:]:
                if one.event.get("value") and one.event.get("t_src") == "device":
                    wanted.discard((one.event["point"].partition("/")[0], int(one.event["value"])))
            at = len(rows)
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def running(folder: Path, seed: int) -> AsyncIterator[Station]:
    """A station with all devices up."""
    station = Station(folder, seed)
    try:
        await station.start()
        station.load()
        await station.flows()
        station.load(0)
        yield station
    finally:
        await station.close()


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[None]:
    """Put a small tmpfs over a folder, with what is in it; everything goes back at the end. Raises PermissionError."""
    aside = place.with_name(place.name + "-aside")
    shutil.copytree(place, aside)
    found = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "none", str(place)], capture_output=True, check=False
    )
    if found.returncode:
        shutil.rmtree(aside)
        raise PermissionError(found.stderr.decode().strip())
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True)
        shutil.rmtree(aside)
        yield
    finally:
        shutil.copytree(place, aside, dirs_exist_ok=True)
        subprocess.run(["umount", "-l", str(place)], check=True)
        shutil.rmtree(place)
        aside.rename(place)
