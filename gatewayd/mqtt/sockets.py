"""A connected socket to the broker, in TLS where the address says so; and the secrets it needs. No MQTT here."""

from __future__ import annotations

import asyncio
import socket
import ssl

from gatewayd.mqtt.settings import Endpoint, MqttSettings
from gatewayd.tls import client_context, readable

CONNECT_TIMEOUT_S = 5.0


def password(settings: MqttSettings) -> str | None:
    """Read at each connect, so that a changed password needs no restart. Raises OSError, ValueError."""
    if not settings.password_file:
        return None
    try:
        return readable(settings.password_file).read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:  # whose text has an octet of the password
        raise ValueError(f"{settings.password_file} is not text in UTF-8") from None


def _context(settings: MqttSettings) -> ssl.SSLContext:
    return client_context(settings.ca_file, settings.cert_file, settings.key_file, settings.crl_file)


async def open_socket(where: Endpoint, settings: MqttSettings) -> socket.socket:
    """A connected socket, through TLS where the address says so, without blocking and ready to be cancelled."""
    loop = asyncio.get_running_loop()
    trouble: OSError = OSError(f"{where.host} has no address")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            for family, kind, proto, _, address in await loop.getaddrinfo(
                where.host, where.port, type=socket.SOCK_STREAM
            ):
                sock = socket.socket(family, kind, proto)
                try:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, address)
                    # Without it the small packets wait for each other's ACK: p99 34 ms instead of 1 ms.
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return await _handshake(sock, where.host, _context(settings)) if where.tls else sock
                except ssl.SSLError:
                    sock.close()
                    raise
                except OSError as error:
                    sock.close()
                    trouble = error
                except BaseException:
                    sock.close()
                    raise
    except TimeoutError:
        raise OSError(f"{where.host} port {where.port} did not answer within {CONNECT_TIMEOUT_S:g} s") from None
    raise trouble


async def _handshake(sock: socket.socket, host: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    loop = asyncio.get_running_loop()
    secure = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            ready: asyncio.Future[None] = loop.create_future()
            fd = secure.fileno()
            try:
                secure.do_handshake()
                return secure
            except ssl.SSLWantReadError:
                loop.add_reader(fd, _set, ready)
                try:
                    await ready
                finally:
                    loop.remove_reader(fd)
            except ssl.SSLWantWriteError:
                loop.add_writer(fd, _set, ready)
                try:
                    await ready
                finally:
                    loop.remove_writer(fd)
    except BaseException:
        secure.close()
        raise


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
