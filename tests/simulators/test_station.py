from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


async def test_the_station_says_its_ports_when_all_three_listen_and_ends_on_sigterm() -> None:
    words = [word for name in ("dnp3", "iec61850", "modbus") for word in (f"--{name}-port", "0")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulators.station", *words), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        ports = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        assert set(ports) == {"dnp3", "iec61850", "modbus"}
        for port in ports.values():
            with socket.socket() as sock:
                assert sock.connect_ex(("127.0.0.1", port)) == 0
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
