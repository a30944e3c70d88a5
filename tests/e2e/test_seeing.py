"""What the running daemon shows and hides: the journal's fields, what listens, what must never be said."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.brokers import until
from tests.e2e.station import BREAKERS, ROOT, Gateway, whole_station
from tests.test_log import FakeJournal

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a /run of its own needs root")


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
