"""The afternoon script, as a floor to compare with: opendnp3 as it is, one JSON per fragment over aiomqtt. No quality,
no time, no journal, no control; events are confirmed whether anybody has them or not.

    python -m benchmarks.floor_dnp3 BROKER_PORT DEVICE_PORT...
"""

from __future__ import annotations

import asyncio
import atexit
import json
import socket
import sys
from typing import Any

import aiomqtt
import opendnp3 as dnp3

POLL_S = 60


class Handler(dnp3.ISOEHandler):
    def __init__(self, put: Any) -> None:
        super().__init__()
        self.put = put
        self.values: dict[int, float] = {}

    def BeginFragment(self, _info: Any) -> None:  # noqa: N802
        self.values = {}

    def Process(self, _info: Any, values: list[Any]) -> None:  # noqa: N802
        self.values.update((x.index, x.value.value) for x in values)

    def EndFragment(self, _info: Any) -> None:  # noqa: N802
        if self.values:
            self.put(self.values)


class Application(dnp3.IMasterApplication):
    def AssignClassDuringStartup(self) -> bool:  # noqa: N802
        return False


async def main() -> None:
    broker, *ports = map(int, sys.argv[1:])
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[int, dict[int, float]]] = asyncio.Queue()
    manager = dnp3.DNP3Manager(1)
    atexit.register(manager.Shutdown)
    kept: list[Any] = []
    for number, port in enumerate(ports):

        def put(values: dict[int, float], number: int = number) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, (number, values))

        handler, application, listener = Handler(put), Application(), dnp3.IChannelListener()
        where, retry = [dnp3.IPEndpoint("127.0.0.1", port)], dnp3.ChannelRetry.Default()
        channel = manager.AddTCPClient(f"c{number}", dnp3.levels.NOTHING, retry, where, "127.0.0.1", listener)
        config = dnp3.MasterStackConfig()
        config.link.LocalAddr, config.link.RemoteAddr = 1, 10
        master = channel.AddMaster(f"m{number}", handler, application, config)
        scan = master.AddClassScan(dnp3.ClassField.AllClasses(), dnp3.TimeDuration.Seconds(POLL_S), handler)
        kept += [handler, application, listener, channel, master, scan]
        master.Enable()
    options = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
    async with aiomqtt.Client("127.0.0.1", broker, max_queued_outgoing_messages=0, socket_options=options) as mqtt:
        while True:
            number, values = await queue.get()
            await mqtt.publish(f"floor/{number}", json.dumps(values))


if __name__ == "__main__":
    asyncio.run(main())
