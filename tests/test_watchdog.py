"""systemd's watchdog is fed while the gateway is well, and not when it hangs or has lost a part of itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest
from structlog.testing import capture_logs

from gatewayd import health
from tests.brokers import free_port, until
from tests.e2e.station import ROOT

PERIOD_S = 0.6
"""WatchdogSec of these tests: fed every 0.2 s."""
SILENT_S = 3 * PERIOD_S


class Systemd:
    """Hears what is said to NOTIFY_SOCKET. fed: when, by the monotonic clock."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.fed: list[float] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._socket, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _hear(self) -> None:
        if b"WATCHDOG=1" in self._socket.recv(4096).splitlines():
            self.fed.append(time.monotonic())

    async def goes_on(self) -> None:
        """Return when it was fed three times more."""
        before = len(self.fed)
        await until(lambda: len(self.fed) >= before + 3, "the watchdog is fed")

    async def falls_silent(self) -> None:
        """Return when nothing was fed for longer than systemd waits."""
        await until(lambda: time.monotonic() - self.fed[-1] > SILENT_S, "the watchdog is not fed any more", 10)


@contextlib.asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[tuple[Systemd, asyncio.subprocess.Process, Path]]:
    """A gateway whose device and broker are not there, which is no reason to withhold anything."""
    config = folder / "gatewayd.toml"
    config.write_text(
        f'[gateway]\nname = "x"\nstate_dir = "state"\n[mqtt]\nurl = "mqtt://127.0.0.1:{free_port()}"\n'
        f'[[device]]\nname = "M"\nprotocol = "modbus"\nhost = "127.0.0.1"\nport = {free_port()}\npoints = "m.csv"\n'
    )
    (folder / "m.csv").write_text("point,kind,address\nM/P,analog,HR:0:u16\n")
    log = folder / "log"
    with Systemd(folder) as systemd, log.open("wb") as file:
        environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": str(round(PERIOD_S * 1e6))}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faulty_daemon", str(config)),
            stdout=file,
            stderr=file,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        try:
            await until(lambda: systemd.fed or process.returncode is not None, "the first feeding")
            assert process.returncode is None, log.read_text()
            yield systemd, process, log
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def test_a_loop_that_hangs_is_not_fed_for(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (systemd, process, _):
        await systemd.goes_on()
        process.send_signal(signal.SIGUSR1)
        await systemd.falls_silent()


async def test_a_journal_whose_thread_has_ended_is_not_fed_for_and_it_is_said(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (systemd, process, log):
        await systemd.goes_on()
        process.send_signal(signal.SIGUSR2)
        await systemd.falls_silent()
        assert "the journal's thread has ended" in log.read_text()
        assert process.returncode is None


@pytest.mark.parametrize("trouble", ["", "a part of it is missing"])
async def test_what_only_a_restart_would_mend_withholds_it_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    with Systemd(tmp_path) as systemd, capture_logs() as logs:
        monkeypatch.setenv("NOTIFY_SOCKET", systemd.address)
        watchdog = health.Watchdog(lambda: trouble, period_s=0.1)
        task = asyncio.create_task(watchdog.run())
        try:
            await until(lambda: watchdog.fed + watchdog.withheld >= 3)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert bool(watchdog.fed) is not bool(trouble)
        assert watchdog.counters()["watchdog_withheld"] == watchdog.withheld
        assert [entry["cause"] for entry in logs] == [trouble] * watchdog.withheld
        if not trouble:
            await until(lambda: len(systemd.fed) == watchdog.fed, "what was said is heard")
