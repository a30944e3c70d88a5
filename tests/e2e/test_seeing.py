"""What the running daemon shows and hides: the journal's fields, what listens, what must never be said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from tests.brokers import free_port, until
from tests.e2e.station import BREAKERS, ROOT, Gateway, children, whole_station
from tests.test_log import FakeJournal

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a /run of its own needs root")


def listening(pids: list[int]) -> set[str]:
    """Local addresses at which any of these processes listens (TCP), or is bound (UDP, raw)."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                inodes.add(str(link.readlink()))
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in Path(f"/proc/{pids[0]}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes and (fields[3] == "0A" or not table.startswith("tcp")):
                found.add(f"{table} port {int(fields[1].rpartition(':')[2], 16)}")
    return found


async def test_nothing_listens_unless_it_is_configured(tmp_path: Path) -> None:
    port = free_port()
    async with whole_station(tmp_path) as station:
        for _ in range(20):  # while it works, too
            assert listening([station.gateway.pid, *children(station.gateway.pid)]) == set()
            await asyncio.sleep(0.05)
        answer = await station.operator.sbo(BREAKERS["FDR12"], "open")
        assert answer["reason"] == "ok"
        assert listening([station.gateway.pid, *children(station.gateway.pid)]) == set()
        assert await station.gateway.stop() == 0
        config = station.gateway.config
        config.write_text(f'{config.read_text()}\n[metrics]\nlisten = "127.0.0.1:{port}"\n')
        await station.gateway.start()
        await until(lambda: "metrics are served" in station.gateway.log, station.gateway.log)
        assert listening([station.gateway.pid, *children(station.gateway.pid)]) == {f"tcp port {port}"}


class Journaled(Gateway):
    """A gateway whose standard error is the journal's, and which finds a journal of ours in /run/systemd."""

    def __init__(self, like: Gateway, journal: Path) -> None:
        super().__init__(like.folder, like.config)
        self._journal = journal

    async def start(self, *options: str) -> None:
        shell = (
            "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && "
            'ln -s "$0" /run/systemd/journal/socket && exec "$@"'
        )
        command = (sys.executable, "-m", "gatewayd", "run", "-c", str(self.config), *options)
        with (self.folder / "gateway.log").open("ab") as log:
            found = os.fstat(log.fileno())
            self.process = await asyncio.create_subprocess_exec(
                *("unshare", "--mount", "sh", "-c", shell, str(self._journal), *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
            )


@needs_root
async def test_lines_of_core_and_workers_reach_the_journal_with_their_fields(tmp_path: Path) -> None:
    async with whole_station(tmp_path, start=False) as station:
        journal = FakeJournal(tmp_path / "journal")
        station.gateway = Journaled(station.gateway, journal.path)
        station.meter.refuse[4, 30] = 2  # the energy register, which a worker then tells of
        lines: list[dict[str, str]] = []
        asyncio.get_running_loop().add_reader(journal.socket, lambda: lines.extend(journal.lines()))
        try:
            await station.gateway.start()
            await station.all_good("FDR12", "BAY1")

            def line(**fields: str) -> dict[str, str]:
                wanted = {f"GATEWAYD_{key.upper()}": value for key, value in fields.items()}
                return next((one for one in lines if wanted.items() <= one.items()), {})

            await until(lambda: line(device="MTR3", part="modbus"), f"the worker's line: {lines}")
            assert "refuses registers" in line(device="MTR3", part="modbus")["MESSAGE"]
            assert line(device="FDR12", part="datapath")["MESSAGE"] == "device is up device=FDR12"
            point = BREAKERS["FDR12"]
            selected = await station.operator.select(point, "open")
            tx = await station.operator.ask("cancel", select_id=selected["select_id"])
            await station.operator.answer(tx, "done")
            await until(lambda: line(tx=tx), "the command's line")
            assert line(tx=tx)["GATEWAYD_POINT"] == point
            assert (line(tx=tx)["GATEWAYD_OPERATOR"], line(tx=tx)["GATEWAYD_EFFECT"]) == ("alice", "none")
            assert await station.gateway.stop() == 0
            assert lines[-1]["MESSAGE"] == "gatewayd has ended"
            assert selected["select_id"] not in str(lines)
            assert not any("GATEWAYD_LINES_LOST" in one for one in lines)
            assert station.gateway.log == "", "nothing is said twice"
        finally:
            await station.gateway.kill()
            asyncio.get_running_loop().remove_reader(journal.socket)
            journal.socket.close()
