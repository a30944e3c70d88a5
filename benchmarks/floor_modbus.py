"""The afternoon script, as a floor to compare with: pymodbus, compare, one JSON per device over aiomqtt. No quality, no
time, no journal, no control.

    python -m benchmarks.floor_modbus BROKER_PORT REGISTERS DEVICE_PORT...
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

import aiomqtt
from pymodbus.client import AsyncModbusTcpClient

BLOCK = 125


async def device(number: int, port: int, registers: int, mqtt: aiomqtt.Client) -> None:
    loop = asyncio.get_running_loop()
    client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=3)
    await client.connect()
    last: list[int | None] = [None] * registers
    due = loop.time() + number * 0.618 % 1
    while True:
        await asyncio.sleep(max(0.0, due - loop.time()))
        due += 1.0
        changed = {}
        for start in range(0, registers, BLOCK):
            answer = await client.read_holding_registers(start, count=min(BLOCK, registers - start), device_id=1)
            for at, value in enumerate(answer.registers, start):
                if value != last[at]:
                    last[at] = changed[at] = value
        if changed:
            await mqtt.publish(f"floor/{number}", json.dumps(changed))


async def main() -> None:
    broker, registers, *ports = map(int, sys.argv[1:])
    options = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
    async with aiomqtt.Client("127.0.0.1", broker, socket_options=options) as mqtt, asyncio.TaskGroup() as tasks:
        for number, port in enumerate(ports):
            tasks.create_task(device(number, port, registers, mqtt))


if __name__ == "__main__":
    asyncio.run(main())
