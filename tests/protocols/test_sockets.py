"""The gateway's own end of a connection: when it is read, and when not."""

from __future__ import annotations

import asyncio
import socket

from gatewayd.protocols.sockets import SocketWire
from tests.brokers import until


async def test_a_device_that_takes_nothing_is_not_read_until_it_does() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    received: list[bytes] = []
    wire = SocketWire(received.append, lambda _why: None)
    await loop.create_connection(lambda: wire, sock=ours)
    try:
        wire.resume()
        await loop.sock_sendall(theirs, b"a")
        await until(lambda: received == [b"a"])

        wire.write(bytes(8 << 20))  # more than the kernel takes
        await loop.sock_sendall(theirs, b"b")
        wire.resume()  # of the stack behind, which has caught up: not enough
        began = loop.time()
        await until(lambda: loop.time() > began + 0.1)
        assert received == [b"a"]

        wire.pause()
        taken = 0
        while taken < 8 << 20:
            taken += len(await loop.sock_recv(theirs, 1 << 20))
        began = loop.time()
        await until(lambda: loop.time() > began + 0.1)
        assert received == [b"a"], "held by the stack behind"
        wire.resume()
        await until(lambda: received == [b"a", b"b"])
    finally:
        wire.close()
        theirs.close()
