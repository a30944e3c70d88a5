"""The wire between the gateway and one simulator, to be cut, muted or garbled: a TCP relay on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self


class Wire:
    """The gateway connects to `port`; everything goes on to `target`.

    down:   connections are closed as they come
    mute:   what the device says is lost on the way, nothing is closed
    change: takes a piece of what the device says, gives the pieces to pass on instead
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.down = False
        self.mute = False
        self.change: Callable[[bytes], list[bytes]] | None = None
        self._kept: list[tuple[asyncio.StreamWriter, bytes]] | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heal(self) -> None:
        """As if nothing had been."""
        self.down = self.mute = False
        self.change = None
        self.release()

    def cut(self) -> None:
        """Every connection is reset."""
        for writer in list(self._open):
            writer.transport.abort()

    def hold(self) -> None:
        """Keep what the device says until `release`."""
        self._kept = []

    def release(self) -> None:
        """Pass on what was kept, and everything from now on."""
        kept, self._kept = self._kept or [], None
        for writer, data in kept:
            if not writer.is_closing():
                writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            if self.down:
                return
            back, on = await asyncio.open_connection("127.0.0.1", self.target)
            self._open.add(on)
            ways = [asyncio.create_task(self._pass(reader, on)), asyncio.create_task(self._back(back, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                on.transport.abort()
                self._open.discard(on)
        except (OSError, asyncio.CancelledError):
            pass  # the device is not there; or the end of the test
        finally:
            writer.transport.abort()
            self._open.discard(writer)
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.mute:
                    continue
                for piece in [data] if self.change is None else self.change(data):
                    if self._kept is not None:
                        self._kept.append((writer, piece))
                    else:
                        writer.write(piece)
