"""Every protocol's driver, with its native stack, works under the unit's restrictions: reads, selects, operates."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from simulators.model import OPEN
from simulators.station import station
from tests.brokers import until
from tests.systemd.support import PROOF, PROTOCOLS, PYTHON, ROOT, Box, demo_config, needs_root

pytestmark = needs_root

WORKER_KIB = 64 * 1024
"""A worker with one device; the unit's reckoning says 32 to 45 MiB. The allocator's luck is not what is tested here."""
THREADS = {"dnp3": 80, "iec61850": 8, "modbus": 6}
"""The same for TasksMax."""


class Exchange(NamedTuple):
    """How one protocol's exchange went."""

    status: int
    said: str
    log: str
    report: dict[str, Any]
    opened: bool
    """the device's own breaker, afterwards"""


async def exchange(protocol: str) -> Exchange:
    """A device of its own, and the driver in a box of its own."""
    async with station() as (feeder, rtu, bay, meter):
        ports = {"dnp3": rtu.port, "iec61850": bay.port, "modbus": meter.port}
        box = Box()
        box.configure(demo_config("mqtt://127.0.0.1:1", {protocol: ports[protocol]}))
        command = box.command(PYTHON, f"{PROOF}/exchange.py", "/etc/gatewayd/gatewayd.toml", protocol)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)
        said, log = await asyncio.wait_for(process.communicate(), 60)
        status = await process.wait()
        if status == 0:
            await until(lambda: feeder.breaker == OPEN, "the breaker is open")
        return Exchange(status, said.decode(), log.decode(), box.report, feeder.breaker == OPEN)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exchanges() -> dict[str, Exchange]:
    """All of them at once: they have nothing to do with each other."""
    found = await asyncio.gather(*(exchange(protocol) for protocol in PROTOCOLS))
    return dict(zip(PROTOCOLS, found, strict=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_driver_reads_selects_and_operates_under_the_restrictions(
    protocol: str, exchanges: dict[str, Exchange]
) -> None:
    done = exchanges[protocol]
    assert done.status == 0, done.log[-3000:]
    found = json.loads(done.said)
    assert found["points"] >= 6
    assert {found[step] for step in ("interrogated", "selected", "operated")} == {"done"}, found
    assert done.opened
    assert "MemoryDenyWriteExecute" in done.report["switches"]
    assert found["worker"]["rss_kib"] < WORKER_KIB
    assert found["worker"]["threads"] < THREADS[protocol]


def test_a_serial_line_can_be_used_with_its_drop_in() -> None:
    box = Box()
    found = box.run(PYTHON, f"{PROOF}/serial_line.py", dropins=("serial.conf",))
    assert found["port"].startswith("/dev/pts/")
    assert (found["read"], found["written"], found["silence"]) == ("010302", "0183", "")
    assert "PrivateDevices" not in box.report["switches"]
    assert "DeviceAllow" in box.report["init"]
