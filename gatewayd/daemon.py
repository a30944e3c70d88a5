"""The daemon: builds everything from the configuration, runs it, takes a new configuration, ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from gatewayd import __version__, certificates, clock, garbage, health, heap, inquiry
from gatewayd.config import Config, ConfigError, load, named_files
from gatewayd.config_tables import listening
from gatewayd.control.desk import Desk, Station
from gatewayd.control.types import Control, Reply, Request
from gatewayd.datapath import DataPath
from gatewayd.log import Trouble
from gatewayd.log import counters as log_counters
from gatewayd.mqtt import contract
from gatewayd.mqtt.commands import Commands
from gatewayd.mqtt.contract import AckRequest, AskRequest, GatewayInfo, InterrogateRequest, ReplayRequest
from gatewayd.mqtt.events import tail
from gatewayd.mqtt.publisher import DeviceInfo, Publisher
from gatewayd.points.database import Database
from gatewayd.points.intake import Image, Intake
from gatewayd.points.types import Link, LockScope, PointSpec
from gatewayd.protocols.child import Child
from gatewayd.protocols.device import Device
from gatewayd.protocols.fleet import Fleet
from gatewayd.protocols.host import OFFLINE, Core, Host, InProcess
from gatewayd.protocols.registry import configuration
from gatewayd.store.consumers import Consumers
from gatewayd.store.journal import Journal, JournalError, WhenFull
from gatewayd.tls import credential

if TYPE_CHECKING:
    from gatewayd.metrics import Listener

log = structlog.get_logger("daemon")

SWITCH_INTERVAL_S = 0.0005
"""The journal's thread must get the GIL from a busy loop (docs/delivery.md)."""
CLOCK_EVERY_S = 1.0
CERTIFICATES_S = 3600.0
FLUSH_S = 3.0
"""So long the broker has, at the end, to take what is already numbered."""


async def run(config_path: Path, *, in_process: bool = False, log_level: str = "info") -> int:
    """Run until SIGTERM or SIGINT. Returns 0, or 1 where it could not start (said in the log)."""
    try:
        config = await asyncio.to_thread(load, config_path)
    except ConfigError as error:
        for mistake in error.mistakes:
            print(mistake, file=sys.stderr)
        log.error("the configuration has mistakes", mistakes=len(error.mistakes), file=str(config_path))
        return 1
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    heap.keep()
    try:
        journal = await asyncio.to_thread(open_journal, config)
    except JournalError as error:
        log.error("the journal cannot be opened", cause=str(error))
        return 1
    daemon = Daemon(config, journal, in_process=in_process or config.workers.in_process, log_level=log_level)
    return await daemon.run()


def open_journal(config: Config) -> Journal:
    """The station's journal. Raises JournalError."""
    limits = config.journal
    return Journal.open(
        config.gateway.state_dir,
        keep_s=limits.keep_s,
        max_bytes=limits.max_size,
        when_full=WhenFull(limits.when_full),
    )


class Daemon:
    """One run of the gateway."""

    def __init__(self, config: Config, journal: Journal, *, in_process: bool = False, log_level: str = "info") -> None:
        self.config = config
        self.journal = journal
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._steps = clock.StepWatch()
        self._certificates: list[certificates.Finding] = []
        self._metrics: Listener | None = None
        self._synchronised: bool | None = None
        database = Database(config.points)
        image = {row.point: Image(row.value, row.quality, row.native, row.time_ns) for row in journal.image().values()}
        intake = Intake(database, config.pairs, config.derived, image)
        protocols = {device.name: device.protocol for device in config.devices}
        self.publisher = Publisher(
            config.mqtt,
            database=database,
            devices=_device_infos(config),
            journal=journal,
            gateway=GatewayInfo(config.gateway.name, __version__, config.sha256, str(uuid.uuid4())),
            clock=clock_document,
        )
        self.commands = Commands(
            config.mqtt,
            on_request=self._request,
            on_interrogate=self._interrogate,
            on_replay=self._replay,
            on_ack=self._acknowledge,
            on_ask=self._answer,
        )
        self.consumers = Consumers(journal, config.journal.consumers)
        self.desk = Desk(
            config.control,
            self._station(config, database),
            journal=journal,
            field=_Field(self),
            publish=self.commands.answer,
            encode_event=contract.control_event,
            publish_tags=self.publisher.tag,
            publish_audit_head=self.publisher.audit_head,
        )
        self.datapath = DataPath(journal, intake, protocols, publisher=self.publisher, desk=self.desk)

        self.datapath.clock_limits = config.clock_limits

        def make_host(name: str, core: Core) -> Host:
            return InProcess(name, core) if in_process else Child(name, core, log_level=log_level)

        self.fleet = Fleet(self.datapath, self.datapath.cursors, make_host=make_host, shards=config.workers.shards)
        self.watchdog = health.Watchdog(self._trouble)
        self._tasks: list[asyncio.Task[None]] = []
        """What runs until the end."""
        self._running: dict[str, Device] = {}
        """The devices as their drivers were started: rows may have moved since."""

    # --- the run ----------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until asked to stop, then end in order. Raises what broke."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        log.info("gatewayd starts", version=__version__, gateway=self.config.gateway.name, config=str(self.config.path))
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._serve(tasks)
        finally:
            await self.fleet.close()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            self.datapath.close()
            await self.journal.close()
        log.info("gatewayd has ended")
        return 0

    async def _serve(self, tasks: asyncio.TaskGroup) -> None:
        self._listen()
        for name, link in self.datapath.links.items():
            self.publisher.link(name, self._protocol(name), link.link, link.since_ns, link.cause)
        outward = [tasks.create_task(self.publisher.run(), name="publisher")]
        await self.consumers.start()
        await self.desk.start()
        inward = [tasks.create_task(self.commands.run(), name="commands")]
        await self._start_devices(self.config)
        work: dict[str, Callable[[], Awaitable[None]]] = {
            "desk": self.desk.run,
            "consumers": self.consumers.run,
            "fleet": self.fleet.run,
            "watchdog": self.watchdog.run,
            "health": self._health,
            "disk": self.datapath.watch_disk,
            "clock": self._watch_clock,
            "certificates": self._watch_certificates,
            "reload": self._reloads,
            "garbage": garbage.keep_tidy,
        }
        inner = [tasks.create_task(_coroutine(run), name=name) for name, run in work.items()]
        self._tasks = [*outward, *inward, *inner]
        garbage.settle()
        health.ready(self._status())
        await self._stop.wait()
        await self._shut_down(outward, inward, inner)

    def _listen(self) -> None:
        """Serve metrics where the configuration says so; a port that is taken costs the metrics, nothing else."""
        where = listening(self.config.metrics.listen)
        if where is None:
            return
        from gatewayd.metrics import LinkNow, Listener

        def snapshot() -> tuple[dict[str, object], dict[str, LinkNow]]:
            links = {name: LinkNow(self._protocol(name), state.link) for name, state in self.datapath.links.items()}
            return self.counters() | {"mqtt": self.publisher.counters(), "info": self._info()}, links

        try:
            self._metrics = Listener(*where, snapshot)
        except OSError as error:
            log.error("metrics cannot be served", listen=self.config.metrics.listen, cause=str(error))

    async def _shut_down(
        self, outward: list[asyncio.Task[None]], inward: list[asyncio.Task[None]], inner: list[asyncio.Task[None]]
    ) -> None:
        """Refuse commands and give open ones an outcome, stop the drivers, write, publish, say offline."""
        log.info("gatewayd ends")
        health.stopping()
        await self.desk.stop()
        for task in inner:
            task.cancel()
        await self.fleet.close()
        await self._flush()
        if self._metrics is not None:
            await self._metrics.close()
        for task in (*inward, *outward):
            task.cancel()
        await asyncio.wait({*inward, *outward, *inner})

    async def _flush(self) -> None:
        """Give the broker a moment to take what is numbered; the rest waits in the journal for the next start."""
        if not self.publisher.connection.connected:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                # the journal tells of commits, not of PUBACKs
                while self.journal.handed_over < self.journal.newest and self.publisher.connection.connected:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    async def _start_devices(self, config: Config) -> None:
        enabled = [device for device in config.devices if device.name not in config.disabled]
        self._running = {device.name: self._as_running(device) for device in enabled}
        await self.fleet.configure(list(self._running.values()))
        for name in config.disabled:
            self.datapath.device(name, Link.DISABLED, "enabled = false in the configuration")

    # --- requests of the outside ------------------------------------------------------------------------------------

    async def _request(self, request: Request) -> None:
        await self.desk.request(request)

    def _interrogate(self, request: InterrogateRequest) -> None:
        names = [request.device] if request.device is not None else list(self._running)
        asyncio.get_running_loop().create_task(self._interrogated(names, request.device))

    async def _interrogated(self, names: Iterable[str], device: str | None) -> None:
        await asyncio.gather(*(self.fleet.ask("interrogate", name) for name in names))
        self.publisher.republish(device)

    def _replay(self, request: ReplayRequest) -> None:
        self.publisher.replay(request)

    def _acknowledge(self, request: AckRequest) -> bytes:
        verdict = self.consumers.acknowledge(request.consumer, request.epoch, request.seq)
        return contract.acked(request.epoch, request.seq, verdict, self.consumers.acknowledged(request.consumer))

    def _answer(self, request: AskRequest) -> bytes:
        if request.ask == "health":
            known = self.counters() | {"control": self.desk.snapshot()}
            return contract.health(known, tail(self.journal), clock.now_ns())
        intake = self.datapath.intake
        row = intake.database.row(request.point)
        device = intake.database.specs[row].device if row is not None else ""
        link = self.datapath.links.get(device)
        offset = self.datapath.offsets.get(device)
        found = inquiry.explain(
            intake.database,
            request.point,
            None if link is None else inquiry.LinkNow(*link),
            self._protocol(device),
            None if offset is None else offset.offset_ns,
        )
        return msgspec.json.encode(found)

    # --- watching ---------------------------------------------------------------------------------------------------

    def _trouble(self) -> str:
        """What only a restart would mend, for the watchdog. A disk that is full or fails is none of it."""
        if not self.journal.alive:
            return "the journal's thread has ended"
        ended = [task.get_name() for task in self._tasks if task.done()]
        return f"tasks have ended: {', '.join(ended)}" if ended and not self._stop.is_set() else ""

    async def _health(self) -> None:
        while True:
            if self.desk.loaded:  # at the start, or when the journal can be read again
                self.publisher.tags_known()
            await asyncio.sleep(health.HEALTH_S)
            self.publisher.health(self.counters())

    def counters(self) -> dict[str, object]:
        """Everything that is counted, by who counts it."""
        return {
            "loop": self.watchdog.counters(),
            "processes": health.process_counters(
                self.fleet.workers(), {"core": {"tasks": len(asyncio.all_tasks())}, **self.fleet.worker_counters()}
            ),
            "datapath": dict(self.datapath.counts),
            "journal": {**self.journal.counters(), **health.disk_counters(self.config.gateway.state_dir)},
            "clock": clock.counters(),
            "commands": {**self.commands.counters(), **self.desk.counters()},
            "devices": self.fleet.counters(),
            "certificates": self._certificates,
            "clock_offset_s": {
                name: round(offset.offset_ns / 1e9, 3)
                for name, offset in self.datapath.offsets.items()
                if offset.offset_ns is not None
            },
            "workers": {"restarts": self.fleet.restarts, "undivided": self.fleet.undivided},
            "consumers": self.consumers.counters(),
            "metrics": self._metrics.counters() if self._metrics is not None else {},
            "log": log_counters(),
        }

    def _info(self) -> dict[str, str]:
        return {"version": __version__, "gateway": self.config.gateway.name, "config": self.config.sha256}

    async def _watch_clock(self) -> None:
        said = Trouble(log)
        while True:
            now = clock.moment()
            step_ns = self._steps.check(now.utc_ns, now.mono_ns)
            state = clock.state()
            synchronised = state.synchronised
            if why := clock.trouble(state, now.utc_ns):
                said.broke("clock", why)
            else:
                said.healed("clock", "the clock of this machine is in step")
            if step_ns:
                log.warning("the clock of this machine was moved", step_s=step_ns / 1e9)
                self.datapath.clock_stepped(step_ns)
            if step_ns or synchronised is not self._synchronised:
                self._synchronised = synchronised
                self.publisher.status()
            await asyncio.sleep(CLOCK_EVERY_S)

    async def _watch_certificates(self) -> None:
        """Look at every certificate once in a while; a line 60, 30 and 7 days before the end of each, and at it."""
        warned: dict[str, int] = {}
        while True:
            files = [certificates.Named(of, use, credential(name)) for of, use, name in named_files(self.config)]
            self._certificates = await asyncio.to_thread(certificates.examine, files)
            for one in certificates.due(self._certificates, warned):
                log.warning("a certificate is near its end", file=one.file, of=one.of, days=one.days, cause=one.trouble)
            await asyncio.sleep(CERTIFICATES_S)

    def _status(self) -> str:
        return f"{self.config.gateway.name}: {len(self.config.devices)} devices, {len(self.config.points)} points"

    def _protocol(self, name: str) -> str:
        return next((device.protocol for device in self.config.devices if device.name == name), "")

    # --- a new configuration ----------------------------------------------------------------------------------------

    async def _reloads(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            health.reloading()
            await self._reload_once()
            health.ready(self._status())

    async def _reload_once(self) -> None:
        """Check the whole new set; with any mistake the old one stays in force."""
        try:
            config = await asyncio.to_thread(load, self.config.path)
        except ConfigError as error:
            for mistake in error.mistakes:
                print(mistake, file=sys.stderr)
            log.error("the new configuration has mistakes; the old one stays in force", mistakes=len(error.mistakes))
            return
        if config.sha256 == self.config.sha256:
            log.info("the configuration has not changed")
            return
        for table in ("gateway", "mqtt", "journal", "workers"):
            if getattr(config, table) != getattr(self.config, table):
                log.warning("this table takes effect at the next start only", table=f"[{table}]")
        kept = {table: getattr(self.config, table) for table in ("gateway", "mqtt", "journal", "workers")}
        await self._take(msgspec.structs.replace(config, **kept))
        log.info("the new configuration is in force", points=len(config.points), devices=len(config.devices))

    async def _take(self, config: Config) -> None:
        database = Database(config.points)
        old = self.datapath.intake
        image = {
            spec.name: known for spec, known in zip(old.database.specs, old.image, strict=True) if known is not None
        }
        intake = Intake(database, config.pairs, config.derived, image)
        self.config = config
        shifts = {
            device.name: shift
            for device in config.devices
            if device.name not in config.disabled
            and device.name in self._running
            and (shift := moved(self._running[device.name], device)) is not None
        }
        await self.desk.configure(config.control, self._station(config, database))
        self.datapath.clock_limits = config.clock_limits
        self.datapath.configure(intake, {device.name: device.protocol for device in config.devices}, shifts)
        self.publisher.configure(database, _device_infos(config), config.sha256)
        for name, link in self.datapath.links.items():
            self.publisher.link(name, self._protocol(name), link.link, link.since_ns, link.cause)
        await self._start_devices(config)

    def _as_running(self, device: Device) -> Device:
        """The device as its driver knows it, where nothing but the numbers of its rows changed."""
        running = self._running.get(device.name)
        return running if running is not None and moved(running, device) is not None else device

    def _station(self, config: Config, database: Database) -> Station:
        selects: set[int] = set()
        for device in config.devices:
            selects |= configuration(device.protocol).needs_select(device)
        return Station(
            specs=config.points,
            database=database,
            interlocks=config.interlocks,
            locals=config.locals,
            device_selects=frozenset(selects),
            protocols={device.name: device.protocol for device in config.devices},
            links=self._link,
            config_sha256=config.sha256,
            device_timeouts={device.name: configuration(device.protocol).answer_s(device) for device in config.devices},
        )

    def _link(self, name: str) -> Link:
        state = self.datapath.links.get(name)
        return state.link if state is not None else Link.DISABLED


class _Field:
    """The drivers as the desk sees them: rows of the present configuration, wherever the driver runs."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def select(self, cmd: Control) -> Reply:
        return await self._ask("select", cmd)

    async def operate(self, cmd: Control) -> Reply:
        return await self._ask("operate", cmd)

    async def cancel(self, cmd: Control) -> Reply:
        return await self._ask("cancel", cmd)

    async def _ask(self, verb: str, cmd: Control) -> Reply:
        specs = self._daemon.config.points
        if not 0 <= cmd.point < len(specs):
            return OFFLINE
        device = specs[cmd.point].device
        shift = self._daemon.datapath.shifts.get(device, 0)
        return await self._daemon.fleet.ask(verb, device, msgspec.structs.replace(cmd, point=cmd.point - shift))


def moved(running: Device, device: Device) -> int | None:
    """By how much the rows of a device moved, where nothing else about it changed; None where something did."""
    if len(running.points) != len(device.points):
        return None
    shift = device.points[0].row - running.points[0].row if device.points else 0
    replace = msgspec.structs.replace
    same = replace(running, points=()) == replace(device, points=()) and all(
        _as_read(replace(before, row=before.row + shift)) == _as_read(after)
        for before, after in zip(running.points, device.points, strict=True)
    )
    return shift if same else None


def _as_read(spec: PointSpec) -> PointSpec:
    """The point without what is the desk's alone: to change that is no reason to connect to a device anew."""
    return msgspec.structs.replace(
        spec,
        file="",
        line=0,
        select_timeout_s=0.0,
        feedback_timeout_s=None,
        lock_scope=LockScope.POINT,
        local="",
        interlock="",
        bay="",
        area="",
        description="",
    )


def clock_document() -> Mapping[str, object]:
    """The gateway's clock, for `status`."""
    state = clock.state()
    found: dict[str, object] = {"synchronised": state.synchronised}
    for key in ("max_error_ms", "est_error_ms"):
        if (value := getattr(state, key)) is not None:
            found[key] = value
    return found


def _device_infos(config: Config) -> list[DeviceInfo]:
    return [DeviceInfo(device.name, device.protocol, device.name not in config.unretained) for device in config.devices]


async def _coroutine(run: Callable[[], Awaitable[None]]) -> None:
    await run()
