"""Every kind of peer, with every kind of wrong certificate: refused before a word is said, with the cause in words."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatewayd.mqtt import sockets
from gatewayd.mqtt.client import Connection, Session
from gatewayd.points.types import Kind, PointSpec
from gatewayd.protocols import registry
from gatewayd.protocols.device import Device, Tls
from gatewayd.protocols.driver import LinkLost
from gatewayd.protocols.supervise import RecordingSink
from tests.brokers import until
from tests.mqtt.support import settings
from tests.security.authority import Authority, every_kind
from tests.security.terminator import Terminator

ADDRESSES = {"dnp3": "BI:0", "iec61850": "BAY1LD0/XCBR1.Pos", "modbus": "HR:0"}
PEERS = ["mqtt", *ADDRESSES]
WRONG = [
    ("ended", "certificate has expired"),
    ("not-yet", "certificate is not yet valid"),
    ("wrong-name", "Hostname mismatch"),
    ("self-signed", "self-signed certificate"),
    ("stranger", "unable to get local issuer certificate"),
    ("revoked", "certificate revoked"),
    ("for-clients", "unsuitable certificate purpose"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return every_kind(tmp_path_factory.mktemp("authority"), tmp_path_factory.mktemp("stranger"))


@contextlib.asynccontextmanager
async def connecting(protocol: str, port: int, folder: Path, *, own: bool = False, **more: float) -> AsyncIterator[Try]:
    """One try after another to connect to localhost; own: with folder/own.pem."""
    files = {"ca_file": str(folder / "ca.pem"), "crl_file": str(folder / "ca.crl")}
    if own:
        files |= {"cert_file": str(folder / "own.pem"), "key_file": str(folder / "own.key")}
    trying = Try()
    if protocol == "mqtt":
        task = asyncio.create_task(_broker(port, files, trying))
    else:
        task = asyncio.create_task(_device(protocol, port, Tls(server_name="localhost", **files), trying, **more))
    try:
        with capture_logs():
            yield trying
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Try:
    """causes: why each try ended."""

    def __init__(self) -> None:
        self.causes: list[str] = []


async def _device(protocol: str, port: int, tls: Tls, trying: Try, **more: float) -> None:
    point = PointSpec(row=0, name="P", kind=Kind.BINARY, device="D", address=ADDRESSES[protocol], event=False)
    options = {"connect_timeout_s": 5.0, **more}
    where = {"host": "127.0.0.1", "port": port, "tls": tls}
    made = Device(name="D", protocol=protocol, options=options, points=(point,), **where)
    driver = registry.create(made)
    while True:
        with pytest.raises(LinkLost) as lost:
            await driver.run(RecordingSink(), {})
        trying.causes.append(str(lost.value))
        await asyncio.sleep(0.1)


async def _broker(port: int, files: dict[str, str], trying: Try) -> None:
    async def serve(_: Session) -> None:
        await asyncio.Event().wait()

    connection = Connection(settings(f"mqtts://localhost:{port}", reconnect_max_s=0.1, **files), client_id="x")
    with capture_logs() as logs:
        task = asyncio.create_task(connection.run(serve, None))
        try:
            while True:
                trying.causes[:] = [entry["cause"] for entry in logs if "cause" in entry]
                await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("protocol", PEERS)
@pytest.mark.parametrize(("certificate", "cause"), WRONG)
async def test_a_wrong_certificate(authority: Authority, protocol: str, certificate: str, cause: str) -> None:
    async with Terminator(authority, certificate) as peer:
        async with connecting(protocol, peer.port, authority.folder) as trying:
            await until(lambda: trying.causes, "a refusal")
        assert "certificate is not accepted" in trying.causes[0]
        assert cause in trying.causes[0].replace("self signed", "self-signed")
        assert not peer.heard


@pytest.mark.parametrize("protocol", PEERS)
async def test_a_good_certificate(authority: Authority, protocol: str) -> None:
    async with Terminator(authority, "good") as peer, connecting(protocol, peer.port, authority.folder):
        await until(lambda: peer.heard, "the first words")


@contextlib.asynccontextmanager
async def saying(words: bytes) -> AsyncIterator[int]:
    """A peer that says this in plain text to whoever connects, and nothing more."""
    writers = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(words)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


@pytest.mark.parametrize("protocol", PEERS)
async def test_a_peer_that_speaks_plain_text(authority: Authority, protocol: str) -> None:
    async with (
        saying(b"HTTP/1.0 400 Bad Request\r\n\r\n") as port,
        connecting(protocol, port, authority.folder) as trying,
    ):
        await until(lambda: trying.causes, "a refusal")
    assert "wrong version number" in trying.causes[0] or "record layer failure" in trying.causes[0]


@pytest.mark.parametrize("protocol", PEERS)
@pytest.mark.parametrize("words", [b"", b"\x16\x03\x03\x00\x7a\x02"], ids=["mute", "half a hello"])
async def test_a_peer_that_stops_in_the_handshake(
    authority: Authority, protocol: str, words: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "CONNECT_TIMEOUT_S", 0.5)
    async with saying(words) as port:
        began = time.monotonic()
        async with connecting(protocol, port, authority.folder, connect_timeout_s=0.5) as trying:
            await until(lambda: trying.causes, "a refusal")
        assert time.monotonic() - began < 5
    assert "0.5 s" in trying.causes[0]


@pytest.mark.parametrize("protocol", PEERS)
async def test_certificates_that_changed_on_disk_hold_from_the_next_connection_on(
    authority: Authority, protocol: str, tmp_path: Path
) -> None:
    def own(name: str) -> None:
        for end in ("pem", "key"):
            shutil.copy(authority.folder / f"{name}.{end}", tmp_path / f"own.{end}")

    for file in ("ca.pem", "ca.crl"):
        shutil.copy(authority.folder / file, tmp_path)
    own("gateway")
    async with Terminator(authority, "good", ask_client=True) as peer:
        async with connecting(protocol, peer.port, tmp_path, own=True) as trying:
            await until(lambda: peer.heard, "the first words")
            own("renewed")
            assert (peer.clients, trying.causes, peer.open) == (["gateway"], [], 1)
            peer.hang_up()
            await until(lambda: len(peer.clients) > 1, "the next connection")
        assert peer.clients == ["gateway", "renewed"]
