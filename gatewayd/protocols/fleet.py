"""All devices and where each of them runs: starts, stops and restarts workers, and asks drivers for commands.

A worker that dies or stops answering is started again; only its devices are marked lost meanwhile. See `culprits.py`
for what happens when it dies again.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog

from gatewayd.control.types import Control, Reply
from gatewayd.points.types import Cursor, Link
from gatewayd.protocols.child import Child
from gatewayd.protocols.culprits import FIRST_PAUSE_S, History
from gatewayd.protocols.device import Device
from gatewayd.protocols.host import OFFLINE, Core, Host

log = structlog.get_logger("fleet")

CALM_CHECK_S = 60.0
MOST_WORKERS = 24
"""Processes at once, however often devices are divided: about 25 MiB each (docs/limits.md)."""


class Group:
    """Devices that run together in one host."""

    def __init__(self, shard: str, name: str, history: History) -> None:
        self.shard = shard
        self.name = name
        self.history = history
        self.devices: dict[str, Device] = {}
        self.host: Host | None = None
        self.task: asyncio.Task[None] | None = None
        self.started_s = 0.0


def line_of(device: Device) -> str:
    """What a device shares with others: a serial port, one connection for several. Its own name where it does not.

    Only one process can open it, so its devices stay together whatever happens.
    """
    if device.serial is not None:
        return device.serial.port
    if device.protocol == "dnp3" or device.framer == "rtu-over-tcp" or device.options.get("one_connection"):
        return f"{device.host}:{device.port}"
    return device.name


def _lines(devices: Iterable[Device]) -> dict[str, list[str]]:
    """The names of the devices on each line."""
    found: dict[str, list[str]] = {}
    for device in devices:
        found.setdefault(line_of(device), []).append(device.name)
    return found


class Fleet:
    """The devices of the station.

    core:     takes everything the drivers tell
    cursors:  a device's cursors, once all that was given to the journal for it is on disk
    make_host: a host by name and core; worker processes unless told otherwise
    shards:   worker processes per protocol
    """

    def __init__(
        self,
        core: Core,
        cursors: Callable[[str], Awaitable[Iterable[Cursor]]],
        *,
        make_host: Callable[[str, Core], Host] = Child,
        shards: Mapping[str, int] | None = None,
    ) -> None:
        self._core = core
        self._cursors = cursors
        self._make_host = make_host
        self._shards = dict(shards or {})
        self._groups: list[Group] = []
        self._group_of: dict[str, Group] = {}
        self._started: set[asyncio.Task[None]] = set()
        self._names = 0
        self.restarts = 0
        self.undivided = 0
        """Crashes after which the devices were not divided because of MOST_WORKERS."""

    # --- devices ----------------------------------------------------------------------------------------------------

    async def configure(self, devices: Sequence[Device]) -> None:
        """Have exactly these devices running: what left or changed is stopped, what is new or changed is started.

        A device that is equal to the one running is not touched.
        """
        wanted = {device.name: device for device in devices}
        leaving = [name for name, group in self._group_of.items() if wanted.get(name) != group.devices.get(name)]
        await asyncio.gather(*(self._remove(name) for name in leaving))
        for device in devices:
            if device.name not in self._group_of:
                self._add(device)

    async def _remove(self, name: str) -> None:
        group = self._group_of.pop(name)
        del group.devices[name]
        if group.host is not None:
            await group.host.stop(name)
        if not group.devices:
            await self._close(group)

    def _add(self, device: Device) -> None:
        shard = self._shard_of(device)
        group = next((group for group in self._groups if group.shard == shard and not group.history.divided), None)
        if group is None:
            group = self._new_group(shard, History())
        group.devices[device.name] = device
        self._group_of[device.name] = group
        self._core.device(device.name, Link.CONNECTING)
        if group.task is None:
            group.task = self._begin(self._keep(group), group.name)
        elif group.host is not None:
            self._begin(self._start(group, group.host, device), device.name)

    def _shard_of(self, device: Device) -> str:
        number = zlib.crc32(line_of(device).encode()) % self._shards.get(device.protocol, 1)
        return f"{device.protocol}-{number}"

    def _new_group(self, shard: str, history: History) -> Group:
        self._names += 1
        name = shard if not history.divided else f"{shard}-part{self._names}"
        group = Group(shard, name, history)
        self._groups.append(group)
        return group

    def _begin(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        async def begun() -> None:
            await work

        task = asyncio.get_running_loop().create_task(begun(), name=name)
        self._started.add(task)
        task.add_done_callback(self._started.discard)
        return task

    # --- hosts ------------------------------------------------------------------------------------------------------

    async def _keep(self, group: Group) -> None:
        """Keep a group's host running until the group is closed."""
        loop = asyncio.get_running_loop()
        while True:
            host = self._make_host(group.name, self._core)
            try:
                await host.open()
            except OSError as error:
                log.error("a worker cannot be started", worker=group.name, cause=str(error))
                await asyncio.sleep(1.0)
                continue
            group.host, group.started_s = host, loop.time()
            try:
                for device in group.devices.values():
                    self._begin(self._start(group, host, device), device.name)
                cause = await asyncio.shield(host.ended)
            finally:
                group.host = None
                await host.close()
            self.restarts += 1
            for name in group.devices:
                self._core.device(name, Link.DOWN, f"its worker process ended: {cause}")
            lines = _lines(group.devices.values())
            verdict = group.history.crashed(list(lines), loop.time(), self._room())
            log.error(
                "a worker ended", worker=group.name, cause=cause, devices=len(group.devices), pause_s=verdict.pause_s
            )
            if verdict.culprit:
                self._suspect(lines[verdict.culprit], cause, verdict.pause_s)
            elif verdict.pause_s > FIRST_PAUSE_S:  # there may be no more workers
                self.undivided += 1
                self._suspect(list(group.devices), cause, verdict.pause_s, of="its worker")
            if len(verdict.groups) > 1:
                self._divide(group, [[name for line in part for name in lines[line]] for part in verdict.groups])
                return
            await asyncio.sleep(verdict.pause_s)

    def _suspect(self, names: Sequence[str], cause: str, pause_s: float, of: str = "its line") -> None:
        """Tell that a device, or one of those on a line or in a worker that is not divided, is the culprit."""
        who = "it brings" if len(names) == 1 else f"one of {of} ({', '.join(names)}) brings"
        why = f"{who} its worker down ({cause}): tried again in {pause_s:g} s"
        log.error("a device brings its worker down by itself", device=", ".join(names), pause_s=pause_s)
        for name in names:
            self._core.device(name, Link.FAULT, why)

    def _room(self) -> int:
        """Workers that may take the place of one."""
        return MOST_WORKERS - len(self._groups) + 1

    def _divide(self, group: Group, parts: Sequence[Sequence[str]]) -> None:
        log.warning("the devices of a worker are divided to find which one brings it down", worker=group.name)
        self._groups.remove(group)
        for names in parts:
            part = self._new_group(group.shard, History(divided=True))
            for name in names:
                part.devices[name] = group.devices[name]
                self._group_of[name] = part
            part.task = self._begin(self._keep(part), part.name)

    async def _start(self, group: Group, host: Host, device: Device) -> None:
        cursors = list(await self._cursors(device.name))
        if group.host is host and group.devices.get(device.name) is device:
            host.start(device, cursors)

    async def _close(self, group: Group) -> None:
        if group in self._groups:
            self._groups.remove(group)
        task, group.task = group.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def run(self) -> None:
        """Put calm parts together again, until cancelled."""
        while True:
            await asyncio.sleep(CALM_CHECK_S)
            now = asyncio.get_running_loop().time()
            for group in list(self._groups):
                if group.history.calm(group.started_s, now) and group.host is not None:
                    log.info("a divided worker has been calm and is dissolved", worker=group.name)
                    devices = list(group.devices.values())
                    for device in devices:
                        await self._remove(device.name)
                    for device in devices:
                        self._add(device)

    async def close(self) -> None:
        """Stop every driver, then end the workers."""
        await asyncio.gather(*(self._remove(name) for name in list(self._group_of)))
        for task in list(self._started):
            task.cancel()
        if self._started:
            await asyncio.wait(set(self._started))

    # --- requests ---------------------------------------------------------------------------------------------------

    async def ask(self, verb: str, device: str, control: Control | None = None) -> Reply:
        """select, operate, cancel or interrogate."""
        group = self._group_of.get(device)
        if group is None or group.host is None:
            return OFFLINE
        return await group.host.ask(verb, device, control)

    def counters(self) -> dict[str, dict[str, int]]:
        """Counters by device."""
        found: dict[str, dict[str, int]] = {}
        for group in self._groups:
            if group.host is not None:
                counts = group.host.counters()  # as last told: of devices that have left since, too
                found.update({name: dict(counts[name]) for name in group.devices if name in counts})
        return found

    def worker_counters(self) -> dict[str, Mapping[str, int]]:
        """What the workers count of themselves, by name."""
        return {group.name: group.host.counters().get("", {}) for group in self._groups if group.host is not None}

    def workers(self) -> dict[str, int]:
        """Process ids of the workers by name."""
        pids = {group.name: getattr(group.host, "pid", 0) for group in self._groups}
        return {name: pid for name, pid in pids.items() if pid}
