"""A loopback connection to a native stack of this process: taken once, and from nobody else on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
from pathlib import Path

HOST = "127.0.0.1"


class Doorway:
    """Listens on a free loopback port until a socket of this process has connected; every other one is closed.

    port: for the native stack
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[socket.socket] = self._loop.create_future()
        self._taken = False
        listener = self._listener = socket.socket()
        try:
            listener.setblocking(False)
            listener.bind((HOST, 0))
            listener.listen()
        except BaseException:
            listener.close()
            raise
        self.port: int = listener.getsockname()[1]
        self._loop.add_reader(listener, self._accept)

    async def connection(self) -> socket.socket:
        """The connected socket, the caller's from then on. The listener is closed before it is given."""
        sock = await asyncio.shield(self._accepted)
        self._taken = True
        return sock

    def close(self) -> None:
        """Stop listening; a connection that nobody took is closed. May be called twice."""
        self._stop_listening()
        if self._accepted.done() and not self._accepted.cancelled() and not self._taken:
            self._accepted.result().close()
        self._accepted.cancel()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            if not is_ours(sock):
                sock.close()
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._stop_listening()
            self._accepted.set_result(sock)

    def _stop_listening(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()


def is_ours(accepted: socket.socket) -> bool:
    """Whether the other end is a socket of this process; if so it sends without delay from now on (TCP_NODELAY)."""
    number = own_descriptor(accepted.getpeername())
    if number is None:
        return False
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as other:
        if (other.getsockname(), other.getpeername()) == (accepted.getpeername(), accepted.getsockname()):
            other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return True
    return False


_libc = ctypes.CDLL(None)


def own_descriptor(name: tuple[str, int]) -> int | None:
    """The file descriptor of this process whose socket has this IPv4 address and port, None where there is none."""
    host, port = name
    wanted = struct.pack("=HH4s", socket.AF_INET, socket.htons(port), socket.inet_aton(host))
    found = ctypes.create_string_buffer(16)
    size = ctypes.c_uint32()
    for number in sorted((int(entry.name) for entry in Path("/proc/self/fd").iterdir()), reverse=True):
        size.value = len(found)
        if not _libc.getsockname(number, found, ctypes.byref(size)) and found.raw[: len(wanted)] == wanted:
            return number
    return None
