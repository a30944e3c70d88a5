"""The installed program as the unit runs it: its own command line, confined, with readiness, watchdog and reload."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import statistics
from collections.abc import AsyncIterator
from pathlib import Path

from simulators.model import OPEN, Feeder
from simulators.station import station as devices
from tests.brokers import Mosquitto, until
from tests.e2e.station import BREAKERS, DEVICES, Gateway, Station, alive, children
from tests.mqtt.support import console
from tests.systemd.manager import Manager, hang_on_signal
from tests.systemd.support import Box, demo_config, needs_root

pytestmark = needs_root

WATCHDOG_S = 1.5


class Served(Gateway):
    """A gateway whose log is the manager's."""

    def __init__(self, manager: Manager) -> None:
        super().__init__(manager.box.folder, Path("/etc/gatewayd/gatewayd.toml"))
        self._manager = manager

    @property
    def log(self) -> str:
        return self._manager.log


def process_status(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


@contextlib.asynccontextmanager
async def running(folder: Path, box: Box) -> AsyncIterator[tuple[Manager, Station, Feeder]]:
    """The demo station with a broker, the devices outside the sandbox, and the service inside."""
    async with (
        Mosquitto(folder / "broker") as broker,
        devices() as (feeder, rtu, bay, meter),
        console(broker.url) as listener,
    ):
        ports = {"dnp3": rtu.port, "iec61850": bay.port, "modbus": meter.port}
        box.configure(demo_config(broker.url, ports).replace('name = "demo"', 'name = "test"'))
        async with Manager(box, watchdog_s=WATCHDOG_S) as manager:
            yield manager, Station(folder, broker, Served(manager), listener, feeder, rtu, bay, meter), feeder


async def test_the_service_does_the_main_job_under_its_restrictions(tmp_path: Path) -> None:
    box = Box()
    async with running(tmp_path, box) as (manager, station, feeder):
        await manager.hears("READY=1")
        await station.all_good()
        workers = children(manager.pid)
        assert len(workers) == 3
        for pid in (manager.pid, *workers):
            status = process_status(pid)
            assert status["Seccomp"] == "2", "a worker is as confined as the core"
            assert status["CapEff"] == "0" * 16
            assert status["NoNewPrivs"] == "1"
        answer = await station.operator.sbo(BREAKERS["FDR12"], "open")
        assert answer["reason"] == "ok", answer
        assert feeder.breaker == OPEN
        assert list(box.state.iterdir()), "the journal lies in the state directory"

        await manager.hears("WATCHDOG=1", len(manager.times("WATCHDOG=1")) + 2)
        fed = manager.times("WATCHDOG=1")
        gaps = [after - before for before, after in itertools.pairwise(fed)]
        assert statistics.median(gaps) < 0.7 * WATCHDOG_S

        config = box.root / "etc/gatewayd/gatewayd.toml"
        good = config.read_text()
        config.write_text(good.replace("[device.modbus]\nunit = 1", '[device.modbus]\nunit = "one"'))
        said = await manager.reload()
        assert said[0] == "RELOADING=1"
        assert said[1].startswith("MONOTONIC_USEC=")
        assert said[2] == "READY=1"
        assert "the old one stays in force" in manager.log
        config.write_text(re.sub(r'\[\[device\]\]\nname = "MTR3"\n(?:.+\n)+', "", good))
        assert (await manager.reload())[-1] == "STATUS=test: 2 devices, 20 points"
        await until(lambda: len(children(manager.pid)) == 2, "the worker of the device that left is gone")
        assert station.good("BAY1")
        assert set(children(manager.pid)) < set(workers), "the others' workers went on"

        assert await manager.stop() == 0
        assert manager.times("STOPPING=1")
        await until(lambda: station.console.last("status")["state"] == "offline", "offline was published")
        assert "EPERM" not in manager.log
        assert "not permitted" not in manager.log.lower()
        assert "Traceback" not in manager.log


async def test_a_loop_that_hangs_is_not_fed_for_and_says_where_it_hung(tmp_path: Path) -> None:
    box = Box()
    hang_on_signal(box)
    async with running(tmp_path, box) as (manager, _, _):
        await manager.hears("READY=1")
        await until(lambda: len(children(manager.pid)) == len(DEVICES), "every worker runs")
        workers = children(manager.pid)
        await manager.hears("WATCHDOG=1")
        os.kill(manager.pid, signal.SIGUSR1)
        assert await manager.watchdog_fires(deadline_s=10) == -signal.SIGABRT
        assert "hang_on_purpose" in manager.log, "PYTHONFAULTHANDLER says where every thread was"
        await until(lambda: not any(alive(pid) for pid in workers), "no worker outlives the core")
