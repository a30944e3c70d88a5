"""A chaos proxy for TCP: everything between two parties passes it, and it can be a bad network.

proxy.cut()                  a partition: nothing passes, not even an end of connection, until heal()
proxy.cut(up=False)          one way only: what the server sends does not arrive
proxy.reset()                both sides get a RST
proxy.half_open()            the server's side is gone, the client's side does not know
proxy.delay, proxy.octets_s  a slow line

What was on its way stays on its way: octets are held, never lost from the middle of a stream, as TCP has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

RESET = struct.pack("ii", 1, 0)


class _Connection:
    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.dead = False


class Proxy:
    """Between `port` and a server on `target`, both on the loopback."""

    def __init__(self, target: int, chance: random.Random) -> None:
        self.target = target
        self.port = 0
        self.delay = (0.0, 0.0)
        self.octets_s = 0.0
        self._chance = chance
        self._free = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.heal()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.heal()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # what a network does
    def cut(self, *, up: bool = True, down: bool = True) -> None:
        """Hold what clients send (up), what the server sends (down)."""
        for direction, held in (("up", up), ("down", down)):
            if held:
                self._free[direction].clear()

    def heal(self) -> None:
        self.delay, self.octets_s = (0.0, 0.0), 0.0
        for event in self._free.values():
            event.set()

    def reset(self) -> None:
        for connection in list(self._connections):
            _abort(connection.client)
            _abort(connection.server)

    def half_open(self) -> None:
        for connection in list(self._connections):
            connection.dead = True
            _abort(connection.server)

    @property
    def connections(self) -> int:
        return len(self._connections)

    # ----
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            await self._through("up")
            await self._through("down")
            from_server, connection.server = await asyncio.open_connection("127.0.0.1", self.target)
            up = asyncio.create_task(self._pump(connection, "up", reader))
            down = asyncio.create_task(self._pump(connection, "down", from_server))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                if connection.dead:
                    await up
            finally:
                for one in (up, down):
                    one.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(connection)
            self._tasks.discard(task)
            for side in (connection.client, connection.server):
                if side is not None:
                    side.close()

    async def _through(self, direction: str) -> None:
        await self._free[direction].wait()

    async def _pump(self, connection: _Connection, direction: str, reader: asyncio.StreamReader) -> None:
        """Pass octets on until the end of the stream, which must get through as well."""
        with contextlib.suppress(OSError):
            while data := await reader.read(16384):
                await self._through(direction)
                if self.delay[1]:
                    await asyncio.sleep(self._chance.uniform(*self.delay))
                if self.octets_s:
                    await asyncio.sleep(len(data) / self.octets_s)
                await self._through(direction)
                writer = connection.server if direction == "up" else connection.client
                if connection.dead or writer is None:
                    continue
                writer.write(data)
                await writer.drain()
        await self._through(direction)


def _abort(writer: asyncio.StreamWriter | None) -> None:
    """Close by RST."""
    if writer is None:
        return
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
