"""The far end of a TLS session: in front of a device of any kind, or of nothing at all."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from types import TracebackType
from typing import Any, Self

from tests.security.authority import Authority


class Terminator:
    """Takes TLS with a certificate of the authority. Without `behind` it keeps what it hears and never answers.

    behind:  the port in plain TCP to which it goes on
    clients: the common names of the certificates that were shown, in order
    """

    def __init__(self, authority: Authority, certificate: str, *, behind: int = 0, ask_client: bool = False) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(authority.folder / f"{certificate}.pem", authority.folder / f"{certificate}.key")
        if ask_client:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(authority.folder / "ca.pem")
        self._behind = behind
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.heard = bytearray()
        self.clients: list[str] = []
        self.open = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, a: type[BaseException] | None, b: BaseException | None, c: TracebackType | None) -> None:
        self._server.close()
        self.hang_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        self.open += 1
        shown = writer.get_extra_info("ssl_object").getpeercert() or {}
        self.clients += [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):  # cancelled by us alone, at the end
                if self._behind:
                    there = await asyncio.open_connection("127.0.0.1", self._behind)
                    self._writers.append(there[1])
                    await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
                else:
                    while data := await reader.read(4096):
                        self.heard += data
        finally:
            self.open -= 1
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
