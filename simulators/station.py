"""All three devices of the demo station in one process, on one feeder: what one breaker does, all of them see.

    python -m simulators.station --dnp3-port 20000 --iec61850-port 10102 --modbus-port 1502 --seed 1

Port 0 is a free one. When all of them listen, one line of JSON with their ports goes to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator

from simulators.dnp3_feeder import Dnp3Feeder
from simulators.iec61850_bay import Iec61850Bay
from simulators.modbus_meter import ModbusMeter
from simulators.model import Feeder

STEP_S = 0.1


@contextlib.asynccontextmanager
async def station(
    *, dnp3_port: int = 0, iec61850_port: int = 0, modbus_port: int = 0, host: str = "127.0.0.1", seed: int = 1
) -> AsyncIterator[tuple[Feeder, Dnp3Feeder, Iec61850Bay, ModbusMeter]]:
    """The feeder and its three devices, all of them listening; time passes on the feeder until the end."""
    feeder = Feeder(seed=seed)
    async with (
        Dnp3Feeder(feeder, port=dnp3_port, host=host) as rtu,
        Iec61850Bay(feeder, port=iec61850_port, host=host) as bay,
        ModbusMeter(feeder, port=modbus_port, host=host) as meter,
    ):
        moving = asyncio.create_task(_pass_time(feeder))
        try:
            yield feeder, rtu, bay, meter
        finally:
            moving.cancel()
            await asyncio.wait({moving})


async def _pass_time(feeder: Feeder) -> None:
    while True:
        await asyncio.sleep(STEP_S)
        feeder.step(STEP_S)


async def serve(given: argparse.Namespace) -> None:
    """Run until SIGTERM or Ctrl-C."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    ports = {"dnp3_port": given.dnp3_port, "iec61850_port": given.iec61850_port, "modbus_port": given.modbus_port}
    async with station(**ports, host=given.host, seed=given.seed) as (_, rtu, bay, meter):
        print(json.dumps({"dnp3": rtu.port, "iec61850": bay.port, "modbus": meter.port}), flush=True)
        await ended.wait()


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m simulators.station", description="Three devices on one feeder.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--dnp3-port", type=int, default=20000)
    parser.add_argument("--iec61850-port", type=int, default=10102)
    parser.add_argument("--modbus-port", type=int, default=1502)
    parser.add_argument("--seed", type=int, default=1)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
